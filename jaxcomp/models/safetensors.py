"""Stored tensors into a device's shards: only that shard's bytes, the next ones asked for ahead.

The disk works while what it gave before is copied: the kernel is told some 256 MB in advance what
will be read (docs/bench.md).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding

from jaxcomp.models.weight_map import Weight
from jaxcomp.runtime import strict_json

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}  # that can be read
_AHEAD = 1 << 28  # bytes
_BLOCK = 1 << 18  # numbers looked at at once
Index = tuple[slice, ...]


class HfError(ValueError):
    """A Hugging Face folder cannot be read; the message names the file and the mend."""


class Stored(NamedTuple):
    """One tensor of a safetensors file: `start` is its first byte in the file."""

    path: Path
    name: str
    dtype: str  # as the file spells it
    shape: tuple[int, ...]
    start: int

    def span(self, where: Index) -> tuple[int, int]:
        """First byte and number of bytes of the rows of `where`."""
        row = math.prod(self.shape[1:]) * np.dtype(DTYPES[self.dtype]).itemsize
        first, last, _ = where[0].indices(self.shape[0])
        return self.start + first * row, (last - first) * row

    def read(self, where: Index, out: np.ndarray) -> None:
        """Fills `out` (of any dtype, contiguous) with the values at `where`."""
        dtype = np.dtype(DTYPES[self.dtype])
        whole_rows = all(
            i.indices(n) == (0, n, 1) for i, n in zip(where[1:], self.shape[1:], strict=True)
        )
        if not whole_rows:
            # Mapped, so that of other devices' columns no more than a page's rest is read.
            mapped = np.memmap(self.path, dtype, "r", self.start, self.shape)
            out[...] = self._finite(mapped[where])
            return
        raw = out if out.dtype == dtype else np.empty(out.shape, dtype)
        start, _ = self.span(where)
        left = memoryview(raw.reshape(-1).view(np.uint8).data)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while left and (got := file.readinto(left)):
                left = left[got:]
        if left:
            raise HfError(
                f"{self.path} ends within a tensor: it became shorter while it was read; try again"
            )
        self._finite(raw)
        if raw is not out:
            out[...] = raw

    def _finite(self, x: np.ndarray) -> np.ndarray:
        """`x`, values of this tensor. Raises HfError where one is NaN or infinity."""
        infinity = np.array(np.inf, x.dtype).view(f"u{x.itemsize}")
        bits = x.view(infinity.dtype)
        for rows in np.array_split(bits, max(1, bits.size // _BLOCK)):
            if rows.size and (rows & infinity).max() == infinity:  # all bits of the exponent
                raise HfError(
                    f"{self.path}: {self.name} holds NaN or infinity; the weights are damaged: "
                    "take a copy or a checkpoint that is whole"
                )
        return x


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors of a whole safetensors file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = strict_json.parse(file.read(length), f"{path}: header", dict)
    header.pop("__metadata__", None)
    return {
        name: Stored(path, name, about["dtype"], tuple(about["shape"]), 8 + length + first)
        for name, about in header.items()
        for first in about["data_offsets"][:1]
    }


def read_all(
    table: dict[str, Weight],
    files: dict[str, Stored],
    shardings: dict[str, NamedSharding],
    dtype: np.dtype,
) -> dict[str, jax.Array]:
    """Every parameter of `table` in `dtype`, put where `shardings` says.

    Largest first: what was freed after one then holds the next, instead of new pages.
    """
    order = sorted(table, key=lambda name: -math.prod(_shape(table[name])))
    ahead = _Ahead(
        span
        for name in order
        for index in _local(shardings[name], _shape(table[name]))
        for span in _spans(table[name], files, index)
    )
    out = {}
    for name in order:
        reader = _reader(table[name], files, dtype, ahead)
        out[name] = jax.make_array_from_callback(_shape(table[name]), shardings[name], reader)
    return out


class _Ahead:
    """Tells the kernel what will be read soon; without that call, reading is only slower."""

    def __init__(self, spans: Iterator[tuple[Path, int, int]]):
        self.spans, self.asked, self.read = spans, 0, 0

    def __call__(self, size: int) -> None:
        """`size` bytes are about to be read."""
        if not hasattr(os, "posix_fadvise"):
            return
        self.read += size
        while self.asked < self.read + _AHEAD and (span := next(self.spans, None)):
            path, start, more = span
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), start, more, os.POSIX_FADV_WILLNEED)
            self.asked += more


def _shape(weight: Weight) -> tuple[int, ...]:
    return (len(weight.names), *weight.shape) if weight.stacked else weight.shape


def _local(sharding: NamedSharding, shape: tuple[int, ...]) -> list[Index]:
    """The shards of this process's devices, as `jax.make_array_from_callback` asks for them."""
    every = sharding.addressable_devices_indices_map(shape).values()
    found = [index for index in every if index is not None]
    return found[:1] if sharding.is_fully_replicated else found


def _spans(
    weight: Weight, files: dict[str, Stored], index: Index
) -> Iterator[tuple[Path, int, int]]:
    names, where = _stored(weight, index)
    for name in names:
        yield (files[name].path, *files[name].span(where))


def _stored(weight: Weight, index: Index) -> tuple[Sequence[str], Index]:
    """The tensors that hold a shard, and which part of each."""
    names = weight.names[index[0]] if weight.stacked else weight.names
    index = index[1:] if weight.stacked else index
    # Made explicit: a stored embedding may have more rows than ours.
    index = tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, weight.shape, strict=True))
    n = weight.inputs
    if n is None:
        return names, index
    rows = _flat(index[n:], weight.shape[n:])
    return names, (rows, _flat(index[:n], weight.shape[:n])) if n else (rows,)


def _flat(index: Index, shape: tuple[int, ...]) -> slice:
    """The slice of the flattened axes; only the first of them may be cut (see SPECS)."""
    start, stop, _ = index[0].indices(shape[0])
    rest = math.prod(shape[1:])
    if any(i.indices(n) != (0, n, 1) for i, n in zip(index[1:], shape[1:], strict=True)):
        raise HfError(f"a spec cuts an inner axis of {shape}: {index}; only the first may be")
    return slice(start * rest, stop * rest)


def _reader(
    weight: Weight, files: dict[str, Stored], dtype: np.dtype, ahead: _Ahead
) -> Callable[[Any], np.ndarray]:
    """Callback of `jax.make_array_from_callback`: index of a shard -> that shard's values.

    Beside the shard itself at most one layer of it is in memory. What has to be transposed is
    given as a view: JAX transposes while it copies, several times faster than numpy.
    """

    def read(index: Any) -> np.ndarray:
        names, where = _stored(weight, index)
        inner = index[1:] if weight.stacked else index
        local = [len(range(*i.indices(n))) for i, n in zip(inner, weight.shape, strict=True)]
        layers = np.empty((len(names), *(i.stop - i.start for i in where)), dtype)
        for name, layer in zip(names, layers, strict=True):
            ahead(files[name].span(where)[1])
            files[name].read(where, layer)
        ours = layers.swapaxes(-1, -2) if weight.inputs else layers
        ours = ours.reshape(len(names), *local)
        return ours if weight.stacked else ours[0]

    return read
