"""Slices by name, and how fast their chips hear each other."""

import itertools
import math
from typing import Any

import pytest
from jax.experimental import mesh_utils

from jaxcomp.config import ConfigError
from jaxcomp.sweep.plan.topology import CHIPS, SHAPES, larger, slice_of


@pytest.mark.parametrize(
    ("name", "near"), [("v5e:4x5", "v5e:4x4"), ("v5p:4x4", "v5p:4x4x4"), ("v7:2x2", "v5")]
)
def test_a_slice_that_does_not_exist_gets_the_nearest(name, near):
    with pytest.raises(ConfigError, match=rf"no such slice; the nearest are .*{near}"):
        slice_of(name)


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_grow(kind):
    chips = [slice_of(f"{kind}:{shape}").chips for shape in SHAPES[kind]]
    assert chips == sorted(set(chips))
    first = slice_of(f"{kind}:{SHAPES[kind][0]}")
    assert [s.chips for s in larger(first)] == chips[1:]


def test_a_ring_hears_from_both_sides_and_a_line_from_one():
    link = CHIPS["v5e"].link
    assert slice_of("v5e:4x4").speed(4) == link  # 4 in a line
    assert slice_of("v5e:4x4").speed(16) == 2 * link  # two lines at once
    assert slice_of("v5e:16x16").speed(256) == 4 * link  # two rings
    assert slice_of("v5p:4x4x4").speed(64) == 6 * CHIPS["v5p"].link  # three rings


class Chip:
    """As much of a TPU device as JAX looks at when it lays a mesh on a slice."""

    platform, core_on_chip, process_index, slice_index = "tpu", 0, 0, 0

    def __init__(self, kind, place, number):
        self.device_kind, self.id = kind, number
        self.coords = (*place, 0, 0)[:3]


KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


@pytest.mark.parametrize("name", ["v5e:2x2", "v5e:4x8", "v6e:8x8", "v5p:2x2x4", "v5p:4x4x4"])
def test_the_meshes_that_a_slice_carries_are_those_that_jax_can_lay_on_it(name):
    where = slice_of(name)
    places = itertools.product(*(range(n) for n in reversed(where.dims)))
    chips: Any = [Chip(KINDS[where.kind], at[::-1], i) for i, at in enumerate(places)]
    sizes = [n for n in range(1, where.chips + 1) if where.chips % n == 0]
    found = {}
    for mesh in itertools.product(sizes, repeat=3):
        if math.prod(mesh) == where.chips:
            try:
                found[mesh] = mesh_utils.create_device_mesh(mesh, chips).shape == mesh
            except NotImplementedError:
                found[mesh] = False
    assert {mesh: where.carries(mesh) for mesh in found} == found
    assert set(found.values()) == ({True} if name == "v5e:2x2" else {True, False})
