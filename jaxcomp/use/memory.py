"""The memory of texts as a value on the host: what `compress` returns and a file holds.

`compress.Memory` is the same thing as rows of a device batch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxcomp.llm.hf import atomically

FORMAT, VERSION = "jaxcomp-memory", 1
_ARRAYS = ("vec_ND", "tokens_G", "labels_G", "bytes_G", "segments_B")


class MemoryFileError(ValueError):
    """A memory cannot be read, or not by this decoder; the message says which and the mend."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The memories of B texts, G segments in all, N vectors in all (each list in order).

    `decoder` names what can read the vectors: the decoder's weights with the markers and the
    places it was trained to find them at. `compressor` names what wrote them.
    """

    vec_ND: np.ndarray  # float32: the vectors of segment 0, then of segment 1, ...
    tokens_G: np.ndarray  # int32: compressor tokens of each segment, 1 to `segment`
    labels_G: np.ndarray  # int32: decoder tokens of each segment's text
    bytes_G: np.ndarray  # int32: UTF-8 bytes of each segment's text
    segments_B: np.ndarray  # int32: segments of each text; 0 for an empty one
    ids: tuple[str, ...]  # names of the texts
    ratio: int
    segment: int  # T
    decoder: str
    compressor: str

    def __len__(self) -> int:
        return len(self.segments_B)

    @property
    def counts_G(self) -> np.ndarray:
        """Vectors of each segment: ceil(tokens / ratio)."""
        return -(-self.tokens_G // self.ratio)

    @property
    def tokens_per_vector(self) -> float:
        """Achieved ratio in decoder tokens a vector; nan without any vector."""
        return float(self.labels_G.sum() / len(self.vec_ND)) if len(self.vec_ND) else float("nan")

    @property
    def bytes_per_vector(self) -> float:
        """Achieved ratio in UTF-8 bytes of text a vector; nan without any vector."""
        return float(self.bytes_G.sum() / len(self.vec_ND)) if len(self.vec_ND) else float("nan")

    def __getitem__(self, which: int | slice | Sequence[int]) -> Memory:
        """The memory of one text, or of several, in the order asked for."""
        if isinstance(which, slice):
            rows = list(range(len(self)))[which]
        else:
            rows = [which] if isinstance(which, int) else list(which)
        rows = [range(len(self))[row] for row in rows]  # IndexError, negative numbers
        first_B = np.concatenate([[0], np.cumsum(self.segments_B)])
        segments = [g for row in rows for g in range(first_B[row], first_B[row + 1])]
        return self._chosen(segments, self.segments_B[rows], tuple(self.ids[row] for row in rows))

    def windows(self, G: int) -> Iterator[Memory]:
        """Every text's segments, G at a time, each time as a memory of one text."""
        first = 0
        for name, count in zip(self.ids, self.segments_B.tolist(), strict=True):
            for start in range(first, first + count, G):
                some = range(start, min(start + G, first + count))
                yield self._chosen(list(some), np.array([len(some)], np.int32), (name,))
            first += count

    def _chosen(self, segments: list[int], segments_B: np.ndarray, ids: tuple[str, ...]) -> Memory:
        start_G = np.concatenate([[0], np.cumsum(self.counts_G)])
        vectors = [n for g in segments for n in range(start_G[g], start_G[g + 1])]
        return dataclasses.replace(
            self,
            vec_ND=self.vec_ND[vectors],
            tokens_G=self.tokens_G[segments],
            labels_G=self.labels_G[segments],
            bytes_G=self.bytes_G[segments],
            segments_B=segments_B,
            ids=ids,
        )

    @staticmethod
    def join(parts: Iterable[Memory]) -> Memory:
        """Several memories as one. Raises MemoryFileError where they are not of one kind."""
        parts = list(parts)
        kinds = {(m.ratio, m.segment, m.decoder, m.compressor) for m in parts}
        if len(kinds) != 1:
            raise MemoryFileError(
                f"{len(parts)} memories of {len(kinds)} kinds (ratio, segment, decoder, "
                "compressor); expected one kind: compress all texts with one compressor"
            )
        arrays = {name: np.concatenate([getattr(m, name) for m in parts]) for name in _ARRAYS}
        return dataclasses.replace(parts[0], ids=tuple(i for m in parts for i in m.ids), **arrays)

    def save(
        self,
        path: str | os.PathLike[str],
        dtype: str = "float32",
        note: dict[str, str] | None = None,
    ) -> None:
        """Writes a safetensors file, whole or not at all. `dtype` is that of the vectors:
        float32, bfloat16 or float16 (which round them). `note` is kept with it (`about`)."""
        path = Path(path)
        kinds = {"float32", "bfloat16", "float16"}
        if dtype not in kinds:
            raise MemoryFileError(f"dtype {dtype!r}; expected one of: {', '.join(sorted(kinds))}")
        stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        tensors["vec_ND"] = tensors["vec_ND"].astype(stored)
        about = (note or {}) | {
            "format": FORMAT,
            "version": str(VERSION),
            "ids": json.dumps(self.ids, ensure_ascii=False),
            "ratio": str(self.ratio),
            "segment": str(self.segment),
            "decoder": self.decoder,
            "compressor": self.compressor,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomically(path, lambda part: save_file(tensors, part, metadata=about))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Memory:
        """Reads what `save` wrote. Raises MemoryFileError for any other file, or one cut short."""
        path = Path(path)
        about, tensors = _read(path)
        missing = [name for name in _ARRAYS if name not in tensors]
        if missing:
            raise MemoryFileError(f"{path} lacks {', '.join(missing)}; make it again")
        tensors["vec_ND"] = tensors["vec_ND"].astype(np.float32)
        found = Memory(
            **tensors,
            ids=tuple(json.loads(about["ids"])),
            ratio=int(about["ratio"]),
            segment=int(about["segment"]),
            decoder=about["decoder"],
            compressor=about["compressor"],
        )
        found._check(path)
        return found

    @staticmethod
    def about(path: str | os.PathLike[str]) -> dict[str, str]:
        """What is written beside the vectors, as text. Raises like `load`."""
        return _read(Path(path), arrays=())[0]

    def _check(self, path: Path) -> None:
        sizes = (len(self.vec_ND), len(self.labels_G), len(self.bytes_G), len(self.ids))
        implied = (int(self.counts_G.sum()), *[int(self.segments_B.sum())] * 2, len(self))
        if sizes != implied:
            raise MemoryFileError(
                f"{path}: found (vectors, segments, segments, ids) = {sizes}, its lengths imply "
                f"{implied}; make it again with `jaxcomp compress`"
            )


def _read(
    path: Path, arrays: Sequence[str] = _ARRAYS
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    if not path.is_file():
        raise MemoryFileError(f"{path}: no such file; expected one of `jaxcomp compress`")
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in arrays if name in names}
    except SafetensorError as error:
        raise MemoryFileError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file ({error}); "
            "make it again with `jaxcomp compress`"
        ) from error
    if about.get("format") != FORMAT or about.get("version") != str(VERSION):
        raise MemoryFileError(
            f"{path} holds {about.get('format', 'no memory')}, version "
            f"{about.get('version', 'none')}; expected {FORMAT}, version {VERSION}"
        )
    return about, tensors
