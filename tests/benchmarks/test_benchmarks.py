"""Measurements run at a tiny size, both steps compute one loss, and the arithmetic is right."""

import dataclasses
import re
from pathlib import Path

import pytest

from jaxcomp.config import (
    Config,
    DataConfig,
    DecoderConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from tests.benchmarks import decode, load, step
from tests.benchmarks.__main__ import bench, busy, main, show
from tests.benchmarks.fixture import BenchError, Measured, Times, chosen, has_torch, with_weights

pytestmark = pytest.mark.slow

SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=2, head_dim=8, intermediate_size=24)
QWEN = dataclasses.replace(SHAPE, model_type="qwen3", tie_word_embeddings=False)
TINY = Config(
    name="tiny",
    families={"llama": {"a": SHAPE, "b": SHAPE, "c": SHAPE}, "qwen3": {"a": QWEN}},
    data=DataConfig(segment=16, target=18, train_passages=64, val_passages=4),
    decoder=DecoderConfig(model=SHAPE),
    train=TrainConfig(optim=OptimConfig(steps=8, batch=4, warmup=2)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def test_a_ratio_says_how_many_times_as_fast_ours_is(capsys):
    ours, theirs = Times([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), Times([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    show("step", Measured(100, "tokens", {"ours": ours, "PyTorch": theirs}, "a note"))
    out = capsys.readouterr().out
    assert re.search(r"ours +50 tokens/s", out)
    assert re.search(r"ours / PyTorch, wall time +2 x", out)
    assert re.search(r"ours / PyTorch, CPU time +1 x", out)
    assert not busy(ours)
    assert busy(Times([1.0, 1.0], [0.7, 0.9]))


def test_middle_size_is_chosen_unless_one_is_named():
    assert chosen(TINY).compressor == "llama/b"
    assert chosen(dataclasses.replace(TINY, compressor="qwen3/a")).compressor == "qwen3/a"
    with pytest.raises(BenchError, match="families"):
        chosen(Config())


@pytest.mark.parametrize("name", ["llama/b", "qwen3/a"])
def test_a_step_is_measured_and_is_that_of_pytorch(folder, name):
    cfg = with_weights(chosen(dataclasses.replace(TINY, compressor=name)), folder)
    found = step.measure(cfg, repeats=2, threads=1)  # compares the losses where torch is there
    assert found.amount > 0
    assert list(found.times) == (["ours", "PyTorch"] if has_torch() else ["ours"])
    lora = dataclasses.replace(cfg.memory, lora=LoraConfig(rank=4))
    with pytest.raises(BenchError, match=r"set memory\.lora\.rank=0"):
        step.measure(dataclasses.replace(cfg, memory=lora), repeats=2)


def test_decoding_is_measured(folder):
    place = Path(with_weights(chosen(TINY), folder).folders["decoder"])
    found = decode.measure(place, repeats=2, batch=2, new=3)
    assert found.amount == 6
    assert ("the same token" in found.note) == has_torch()


def test_loading_is_measured_on_what_was_written(tmp_path):
    assert 5 < load.write(0.01, tmp_path) < 20
    assert all(wall > 0 for wall, _ in load.once(tmp_path).values())


def test_the_command_prints_a_table(capsys):
    bench(TINY, ["load"], 2, 0.01)
    assert capsys.readouterr().out.count("MB/s") == 2
    for flags, words in (
        (["--only=lod"], "--only=lod: expected one of step, decode, load"),
        (["--config=nowhere.py"], "nowhere.py"),
    ):
        assert main(flags) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert words in told
