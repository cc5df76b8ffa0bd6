"""What the preview calls the compressor's slots, in the order in which each kind lays them."""

import pytest

from jaxcomp.evals.preview.picture import _slots

TEXT, MEMORY = ["text"] * 5 + ["padding"] * 3, ["memory", "memory", "memory", "empty"]
BLOCK = ["text", "text", "memory"]


@pytest.mark.parametrize(
    ("kind", "slots"),
    [
        ("append", [*TEXT, *MEMORY]),
        ("pool", TEXT),
        (
            "interleave",
            [*BLOCK, *BLOCK, "text", "padding", "memory", "padding", "padding", "empty"],
        ),
    ],
)
def test_slots_stand_as_the_kind_lays_them(kind, slots):
    assert _slots(kind, TEXT, MEMORY) == slots
