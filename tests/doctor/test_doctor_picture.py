"""What the doctor calls the compressor's slots, in the order in which each kind lays them."""

import pytest

from jaxcomp.doctor.picture import _slots

TEXT, MEMORY = ["text"] * 5 + ["padding"] * 3, ["memory", "memory", "empty", "empty"]


@pytest.mark.parametrize(
    ("kind", "slots"),
    [
        ("append", [*TEXT, *MEMORY]),
        ("pool", TEXT),
        (
            "interleave",
            "text text memory text text memory text padding empty padding padding empty".split(),
        ),
    ],
)
def test_slots_stand_as_the_kind_lays_them(kind, slots):
    assert _slots(kind, TEXT, MEMORY) == slots
