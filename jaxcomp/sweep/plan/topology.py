"""Slices by name (`v5e:4x4`, `v5p:4x4x4`, `h100:8`), and specifications of their chips."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.config import ConfigError

GIB = 2**30


class Chip(NamedTuple):
    """Per chip: peaks of Google's and NVIDIA's data sheets; `hbm` is what a program may use.

    link: bytes a second of one link in one direction; links lie along `axes` of a torus (a GPU has
    one axis, its NVLink to the switch). wrap: a slice's axis of a multiple of so many chips is a
    ring. rate: USD for a chip's hour on demand, a list price that may be out of date.
    """

    flops: float  # bf16, a second
    hbm: float  # bytes
    hbm_speed: float  # bytes a second
    link: float
    axes: int
    wrap: int
    rate: float
    clock: float = 0.0  # cycles a second of a TensorCore
    hides: bool = True  # XLA gathers weights beside computing; else (v5p, as compiled) before it
    compiled: bool = True  # whether its compiler can be had here


# clock: bf16 peak / operations a cycle; of those a chip's 128 x 128 MXUs do 2 x 128 x 128 each (v5e
# 4 MXUs, v5p 8; v6e 4 of 256 x 256): the most that XLA's cycles of a large product come near to.
# hbm: what XLA says it has (v5e, v5p) or leaves of 32 GB (v6e); of an H100's 80 GB, JAX's 0.9.
CHIPS = {
    "v5e": Chip(197e12, 15.75 * GIB, 0.82e12, 45e9, 2, 16, 1.20, 1.50e9),
    "v5p": Chip(459e12, 95.74 * GIB, 2.765e12, 90e9, 3, 4, 4.20, 1.75e9, hides=False),
    "v6e": Chip(918e12, 31.25 * GIB, 1.64e12, 90e9, 2, 16, 2.70, 1.75e9),
    "h100": Chip(989e12, 72.0 * GIB, 3.35e12, 450e9, 1, 1, 11.06, compiled=False),
}

# Google Cloud's slices, smallest first (Cloud TPU documentation, "TPU versions").
_V5E = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SHAPES = {
    "v5e": _V5E,
    "v6e": _V5E,
    "v5p": (
        *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
        *("8x8x16", "8x16x16", "16x16x16"),
    ),
    "h100": ("1", "2", "4", "8", "16", "32", "64", "128"),
}


class Slice(NamedTuple):
    """`name` as the user gave it; `dims` chips along each axis."""

    name: str
    kind: str
    dims: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    def speed(self, group: int) -> float:
        """Bytes a second that each chip of a group of `group` neighbours can receive.

        A group fills the slice's axes one after the other, longest first; on each that it spans, a
        chip hears from both sides, on an axis that is no ring from one (its ends would wait).
        """
        speed, left = 0.0, group
        for n in self._axes(group):
            ring = n % self.chip.wrap == 0 and left >= n
            speed += self.chip.link * (2 if ring else 1)
            left = -(-left // n)
        return speed or self.chip.link

    def _axes(self, group: int) -> list[int]:
        """Lengths of the axes that a group of neighbours spans."""
        spanned, left = [], group
        for n in sorted(self.dims, reverse=True):
            if left > 1:
                spanned.append(n)
                left = -(-left // n)
        return spanned

    def carries(self, mesh: Sequence[int]) -> bool:
        """Whether `jax.make_mesh` lays the mesh on the chips. On a torus each of its axes has to be
        a product of whole axes of the slice, which JAX takes last first, the most that fit."""
        if not self.chip.compiled:
            return True
        free = list(range(len(self.dims)))
        for size in reversed(mesh):
            if size == 1:
                continue
            several = (c for n in range(len(free), 0, -1) for c in itertools.combinations(free, n))
            taken = next((c for c in several if math.prod(self.dims[i] for i in c) == size), None)
            if taken is None:
                return False
            free = [i for i in free if i not in taken]
        return True

    def gather_factor(self, group: int) -> int:
        """How often a gather over `group` chips moves its bytes: over three axes XLA sums parts
        padded with zeros, which moves them twice (read in compiled v5p steps)."""
        return 2 if len(self._axes(group)) > 2 else 1


def slice_of(name: str) -> Slice:
    """The slice of that name. Raises ConfigError with the nearest names."""
    kind, _, shape = name.partition(":")
    every = [f"{k}:{s}" for k, shapes in SHAPES.items() for s in shapes]
    if kind not in SHAPES or shape not in SHAPES[kind]:
        near = difflib.get_close_matches(name, every, n=3, cutoff=0.5)
        near = near or [f"{k}:{shapes[2]}" for k, shapes in SHAPES.items()]
        raise ConfigError(
            f"--topology={name}: no such slice; the nearest are {', '.join(near)} (a name counts "
            "chips: v5p:4x4x4 has 64)"
        )
    return Slice(name, kind, tuple(int(n) for n in shape.split("x")))


def larger(than: Slice) -> list[Slice]:
    """The slices of the same chip that have more of them, smallest first."""
    every = (slice_of(f"{than.kind}:{shape}") for shape in SHAPES[than.kind])
    return [s for s in every if s.chips > than.chips]
