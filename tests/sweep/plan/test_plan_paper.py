"""The paper's config: 27 setups, of the published shapes."""

import pytest

from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError
from jaxcomp.sweep import grid
from jaxcomp.sweep.plan.main import setups_of


def load(arg=""):
    return overrides.load(f"configs/paper.py{':' if arg else ''}{arg}")


def test_there_are_27_setups_of_one_decoder():
    setups = grid.setups(load())
    assert len(setups) == len(set(setups)) == 27
    assert {s.ratio for s in setups} == {4, 16, 64}
    assert load().decoder.model.vocab_size == 128_256


@pytest.mark.parametrize(
    ("arg", "names"),
    [
        ("family=qwen3,size=0.6B,ratio=16", {("qwen3/0.6B", 16)}),
        ("size=14B,ratio=4", {("qwen3/14B", 4)}),
        ("tune=frozen,size=32B,ratio=4", {("qwen3/32B", 4)}),
        ("family=llama,ratio=64", {(f"llama/{s}", 64) for s in ("1B", "3B", "11B", "90B")}),
    ],
)
def test_one_is_picked_by_name(arg, names):
    assert {(c.compressor, c.memory.ratio) for c in setups_of(load(arg))} == names


@pytest.mark.parametrize(
    "arg", ["family=gpt", "size=5B", "tune=half", "ratio=5", "family=llama,size=0.6B"]
)
def test_a_setup_that_does_not_exist_is_refused(arg):
    with pytest.raises(ConfigError, match=r"expected|does not divide|known"):
        load(arg)
