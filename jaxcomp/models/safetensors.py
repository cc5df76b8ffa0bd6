"""Read safetensors into a device's shards: each device reads only its own shard."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxcomp.models.weight_map import Weight
from jaxcomp.runtime import paths

DTYPES = ("F32", "F16", "BF16")  # that can be read
_BLOCK = 1 << 18  # numbers looked at at once
Index = tuple[slice, ...]


class HfError(ValueError):
    """A Hugging Face folder cannot be read; the message names the file and the fix."""


class Stored(NamedTuple):
    """One tensor of a safetensors file."""

    path: Path
    name: str
    dtype: str  # as the file spells it
    shape: tuple[int, ...]


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name. Raises SafetensorError if it is not whole."""
    with safe_open(path, "np") as file:
        names = file.keys()
        parts = {name: file.get_slice(name) for name in names}
        return {
            name: Stored(path, name, part.get_dtype(), tuple(part.get_shape()))
            for name, part in parts.items()
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
    # pread: a file that becomes shorter meanwhile is an error, not the end of the process.
    paths = {stored.path for stored in files.values()}
    handles = {path: safe_open(path, "np", backend="pread") for path in paths}

    def read(name: str, where: Index) -> np.ndarray:
        try:
            return _finite(handles[files[name].path].get_slice(name)[where], files[name])
        except SafetensorError as error:
            raise HfError(f"{files[name].path}: {name} cannot be read ({error})") from error

    out = {}
    for name in order:
        reader = _reader(table[name], read, dtype)
        out[name] = jax.make_array_from_callback(_shape(table[name]), shardings[name], reader)
    return out


def _finite(x: np.ndarray, stored: Stored) -> np.ndarray:
    """`x`, values of `stored`. Raises HfError where one is NaN or infinity."""
    infinity = np.array(np.inf, x.dtype).view(f"u{x.itemsize}")
    bits = x.view(infinity.dtype)
    for rows in np.array_split(bits, max(1, bits.size // _BLOCK)):
        if rows.size and (rows & infinity).max() == infinity:  # all bits of the exponent
            raise HfError(
                f"{stored.path}: {stored.name} holds NaN or infinity; the weights are damaged: "
                "take a copy or a checkpoint that is whole"
            )
    return x


def _shape(weight: Weight) -> tuple[int, ...]:
    return (len(weight.names), *weight.shape) if weight.stacked else weight.shape


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
    weight: Weight, read: Callable[[str, Index], np.ndarray], dtype: np.dtype
) -> Callable[[Any], np.ndarray]:
    """Callback of `jax.make_array_from_callback`: index of a shard -> that shard's values.

    Beside the shard itself at most one layer of it is in memory. What has to be transposed is
    given as a view: JAX transposes while it copies, several times faster than numpy.
    """

    def values(index: Any) -> np.ndarray:
        names, where = _stored(weight, index)
        inner = index[1:] if weight.stacked else index
        local = [len(range(*i.indices(n))) for i, n in zip(inner, weight.shape, strict=True)]
        layers = np.empty((len(names), *(i.stop - i.start for i in where)), dtype)
        for name, layer in zip(names, layers, strict=True):
            layer[...] = read(name, where)
        ours = layers.swapaxes(-1, -2) if weight.inputs else layers
        ours = ours.reshape(len(names), *local)
        return ours if weight.stacked else ours[0]

    return values


def save_tensors(
    tensors: dict[str, np.ndarray], target: Path, about: dict[str, str] | None = None
) -> None:
    """Write a safetensors file of this machine, whole or not at all. Raises OSError."""

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, metadata=about)
        except SafetensorError as error:  # holds what the system said as text only
            code = re.search(r"(?:code:|os error) (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

    paths.atomically(target, write)
