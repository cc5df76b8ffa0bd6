"""Memories on the host: what `compress` returns and a memory file contains.

`compress.Memory` is the same thing as rows of a device batch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import annotated_types
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxcomp.config import ConfigError
from jaxcomp.runtime import fields, paths, strict_json

FORMAT, VERSION = "jaxcomp-memory", 1
_ARRAYS = ("vec_ND", "tokens_G", "labels_G", "bytes_G", "segments_B")
_TEXTS = ("ids", "ratio", "segment", "decoder", "compressor")
_FLOATS = ("float32", "bfloat16", "float16")
_AGAIN = "make it again with `jaxcomp compress`"
_MOST = 2**31 - 1  # of an int32
_Whole = Annotated[int, annotated_types.Interval(ge=1, le=_MOST)]


class MemoryFileError(ValueError):
    """A memory cannot be read, or not by this decoder; the message says which and the fix."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The memory vectors of B texts: G segments and N vectors in all, on the host.

    Attributes:
        vec_ND: float32 [N, D], the vectors of segment 0, then of segment 1, ...
        tokens_G: int32 [G], compressor tokens of each segment, 1 to `segment`.
        labels_G: int32 [G], decoder tokens of each segment's text.
        bytes_G: int32 [G], UTF-8 bytes of each segment's text.
        segments_B: int32 [B], segments of each text; 0 for an empty text.
        ids: names of the texts.
        ratio: compressor tokens per vector.
        segment: T, compressor tokens of a full segment.
        decoder: hash of the decoder, its markers and positions, which can read the vectors.
        compressor: hash of the compressor that wrote them.

    Example:
        >>> memory = jaxcomp.load("demo/llama-24-r4").compress(["The fox looked small.", ""])
        >>> memory.vec_ND.shape, memory.segments_B.tolist()
        ((2, 64), [1, 0])
    """

    vec_ND: np.ndarray
    tokens_G: np.ndarray
    labels_G: np.ndarray
    bytes_G: np.ndarray
    segments_B: np.ndarray
    ids: tuple[str, ...]
    ratio: int
    segment: int
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
        """Achieved ratio in decoder tokens per vector; NaN without any vector."""
        return float(self.labels_G.sum() / len(self.vec_ND)) if len(self.vec_ND) else float("nan")

    def __getitem__(self, which: int | slice | Sequence[int]) -> Memory:
        """Return the memory of one text or of several, in the order of `which`."""
        rows = [which] if isinstance(which, int) else which
        rows = np.arange(len(self))[rows].tolist()  # IndexError, negative numbers
        spans = [(self._first_B[row], self._first_B[row + 1]) for row in rows]
        return self._chosen(spans, self.segments_B[rows], tuple(self.ids[row] for row in rows))

    def windows(self, G: int) -> Iterator[Memory]:
        """Yield the segments of every text, at most G at a time, as memories of one text."""
        first = 0
        for name, count in zip(self.ids, self.segments_B.tolist(), strict=True):
            for start in range(first, first + count, G):
                stop = min(start + G, first + count)
                segments_B = np.array([stop - start], np.int32)
                yield self._chosen([(start, stop)], segments_B, (name,))
            first += count

    # Once a memory: a long text has thousands of windows, and many texts are taken one by one.
    @functools.cached_property
    def _first_B(self) -> list[int]:
        """Of each text the number of its first segment; at last the number of all."""
        return [0, *np.cumsum(self.segments_B).tolist()]

    @functools.cached_property
    def _first_G(self) -> list[int]:
        """Of each segment the number of its first vector; at last the number of all."""
        return [0, *np.cumsum(self.counts_G).tolist()]

    def _chosen(
        self, spans: Sequence[tuple[int, int]], segments_B: np.ndarray, ids: tuple[str, ...]
    ) -> Memory:
        """The segments start:stop of each span; of one span a view, which copies no vector."""

        def taken(x: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
            parts = [x[start:stop] for start, stop in spans]
            return parts[0] if len(parts) == 1 else np.concatenate([x[:0], *parts])

        first_G = self._first_G
        return dataclasses.replace(
            self,
            vec_ND=taken(self.vec_ND, [(first_G[start], first_G[stop]) for start, stop in spans]),
            tokens_G=taken(self.tokens_G, spans),
            labels_G=taken(self.labels_G, spans),
            bytes_G=taken(self.bytes_G, spans),
            segments_B=segments_B,
            ids=ids,
        )

    @staticmethod
    def join(parts: Iterable[Memory]) -> Memory:
        """Concatenate memories. Raises MemoryFileError if ratio, segment or pair differ."""
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
        """Write a safetensors file, atomically.

        Args:
            path: the file; its folder is created.
            dtype: of the stored vectors: "float32", or "bfloat16" or "float16", which round.
            note: strings to store with it; `about` returns them.

        Raises:
            MemoryFileError: the dtype is unknown, or cannot represent the vectors.
        """
        from jaxcomp.models.safetensors import save_tensors  # imports JAX

        path = paths.path(path)
        if dtype not in _FLOATS:
            raise MemoryFileError(f"dtype {dtype!r}; expected one of: {', '.join(_FLOATS)}")
        stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        with np.errstate(over="ignore"):  # said below, and better
            tensors["vec_ND"] = tensors["vec_ND"].astype(stored)
        if not np.isfinite(tensors["vec_ND"]).all():
            largest = np.abs(self.vec_ND).max()
            raise MemoryFileError(
                f"{path}: not written, as the compressor gave nan or infinity; has it diverged?"
                if not np.isfinite(largest)
                else f"{path}: {dtype} cannot hold {largest:.3g}; take bfloat16 or float32"
            )
        about = {name: str(getattr(self, name)) for name in _TEXTS}
        about |= {"ids": json.dumps(self.ids, ensure_ascii=False)}
        about |= {"format": FORMAT, "version": str(VERSION)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, path, (note or {}) | about)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Memory:
        """Read a file that `save` wrote. Raises MemoryFileError for any other file."""
        path = paths.path(path)
        about, tensors = _read(path)
        missing = [name for name in (*_ARRAYS, *_TEXTS) if name not in (tensors | about)]
        if missing:
            raise MemoryFileError(f"{path} lacks {', '.join(missing)}; {_AGAIN}")
        for name, x in tensors.items():
            dims, kinds = (2, _FLOATS) if name == "vec_ND" else (1, ("int32",))
            if x.ndim != dims or x.dtype.name not in kinds:
                raise MemoryFileError(
                    f"{path}: {name} is {x.dtype.name} of shape {x.shape}, expected "
                    f"{' or '.join(kinds)} with {dims} axes; {_AGAIN}"
                )
        texts: dict[str, Any] = {name: about[name] for name in _TEXTS}
        try:
            ids = strict_json.parse(about["ids"], f"{path}: ids", list)
            texts["ids"] = fields.read(tuple[str, ...], ids, str(path), "ids")
            for name in ("ratio", "segment"):
                texts[name] = fields.read(_Whole, about[name], str(path), name)
        except (strict_json.JsonError, ConfigError) as error:
            raise MemoryFileError(f"{error}; {_AGAIN}") from error
        tensors["vec_ND"] = tensors["vec_ND"].astype(np.float32)
        found = Memory(**tensors, **texts)
        found._check(path)
        return found

    @staticmethod
    def about(path: str | os.PathLike[str]) -> dict[str, str]:
        """Return a file's metadata without its vectors. Raises MemoryFileError like `load`."""
        return _read(paths.path(path), arrays=())[0]

    def _check(self, path: Path) -> None:
        """Raises MemoryFileError where the values cannot be those of a memory."""
        least = {"tokens_G": 1, "labels_G": 0, "bytes_G": 0, "segments_B": 0}
        for name, low in least.items():
            x, most = getattr(self, name), self.segment if name == "tokens_G" else _MOST
            if len(x) and not low <= x.min() <= x.max() <= most:
                at = int(np.argmax((x < low) | (x > most)))
                raise MemoryFileError(
                    f"{path}: {name}[{at}] is {x[at]}, expected {low} to {most}; {_AGAIN}"
                )
        sizes = (len(self.vec_ND), len(self.labels_G), len(self.bytes_G), len(self.ids))
        implied = (int(self.counts_G.sum()), *[int(self.segments_B.sum())] * 2, len(self))
        if sizes != implied:
            raise MemoryFileError(
                f"{path}: found (vectors, segments, segments, ids) = {sizes}, its lengths imply "
                f"{implied}; {_AGAIN}"
            )
        bad = np.flatnonzero(~np.isfinite(self.vec_ND).all(axis=1))
        if len(bad):
            raise MemoryFileError(
                f"{path}: {len(bad)} of {len(self.vec_ND)} vectors hold nan or infinity, the "
                f"first is number {bad[0]}, expected finite ones; {_AGAIN}"
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
            f"{_AGAIN}"
        ) from error
    if about.get("format") != FORMAT or about.get("version") != str(VERSION):
        raise MemoryFileError(
            f"{path} holds {about.get('format', 'no memory')[:40]}, version "
            f"{about.get('version', 'none')[:40]}; expected {FORMAT}, version {VERSION}"
        )
    return about, tensors
