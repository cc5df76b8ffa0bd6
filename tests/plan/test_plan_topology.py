"""Slices by name, and how fast their chips hear each other."""

import pytest

from jaxcomp.config import ConfigError
from jaxcomp.plan.topology import CHIPS, SHAPES, larger, slice_of


@pytest.mark.parametrize(("name", "chips"), [("v5e:2x2", 4), ("v5p:4x4x4", 64), ("h100:8", 8)])
def test_a_name_counts_chips(name, chips):
    assert slice_of(name).chips == chips


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
