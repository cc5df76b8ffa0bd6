"""The bench runs at a tiny size, its two steps compute the same thing, its arithmetic is right."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    DecoderConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from jaxcomp.models.model import count_params
from tests.benchmarks import against_transformers, decode, load, probe, reconstruct, run, step
from tests.benchmarks.__main__ import main
from tests.benchmarks.fixture import BenchError, Times, chosen, fixture, ratio, slope, spread
from tests.benchmarks.fixture import with_weights as named
from tests.benchmarks.main import (
    Plan,
    bench,
    busy,
    generate_rows,
    line,
    load_rows,
    memory_rows,
    probe_rows,
    reconstruct_rows,
    step_rows,
    transformers_rows,
)

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


def test_statistics():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    # Ours takes half as long, so it is twice as fast.
    assert ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == (2.0, 2.0, 2.0)
    assert slope([1, 2, 4], [10, 13, 19]) == pytest.approx(3.0)
    assert slope([1, 2, 3], [5, 5, 5]) == 0.0
    assert busy(Times([1.0, 1.0], [0.7, 0.9]))
    assert not busy(Times([1.0, 1.0], [0.9, 1.0]))


def test_middle_size_is_chosen_unless_one_is_named():
    assert chosen(TINY).compressor == "llama/b"
    assert chosen(dataclasses.replace(TINY, compressor="qwen3/a")).compressor == "qwen3/a"
    with pytest.raises(BenchError, match="families"):
        chosen(Config())


def test_flops_are_counted_by_the_formula():
    cfg = dataclasses.replace(SHAPE, vocab_size=100)
    D, F, H, N, K, Y = 16, 24, 8, 4, 2, 2
    a_token = 2 * Y * (D * N * H + 2 * D * K * H + N * H * D + 3 * D * F)
    norms = (2 * Y + 1) * D  # counted as weights; the formula has none
    want = 10 * (a_token + 2 * norms + 4 * Y * N * H * 6.5)
    assert step.forward_flops(cfg, 10, 6.5) == want
    assert count_params(cfg) == 100 * D + a_token / 2 + norms
    untied = dataclasses.replace(cfg, tie_word_embeddings=False)
    assert step.forward_flops(untied, 10, 6.5) == want
    # Head: forward and one backward product, for every label slot.
    more = dataclasses.replace(cfg, vocab_size=101)
    grown = step.step_flops(TINY, cfg, more) - step.step_flops(TINY, cfg, cfg)
    assert grown == 4 * 4 * 18 * D


def test_rows():
    times = Times([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    slower = Times([1.0, 1.0, 1.0], [0.75, 0.75, 0.75])
    found = step.StepTimes(100, 2e9, {"step": times}, {"step": slower}, ())
    rows = {r.name: r for r in step_rows(found)}
    assert rows["PyTorch"].value == 100
    assert rows["ours / PyTorch, wall time"].value == 2.0
    assert rows["ours / PyTorch, CPU time"].value == 1.5
    assert rows["ours: step"].value == 500.0
    alone = [r.name for r in step_rows(found._replace(torch={}))]
    assert alone == ["ours", "ours", "ours: step"]
    grown = memory_rows(run.RunTimes(4, {}, {2: 5_000_000, 4: 5_006_000}), (2, 4))
    assert grown[-1].value == 3.0
    rates = generate_rows({1: times, 16: slower}, 50)
    assert [r.value for r in rates] == [100, 800, 8]
    assert "2.5" in line(rates[0]._replace(value=2.5))
    both = {"batched": times, "single": slower}
    rates = reconstruct_rows(both, same=31, texts=32)
    assert [r.value for r in rates] == [64, 32, 2, 31]
    rates = probe_rows(both, same=30, texts=32)
    assert [r.value for r in rates] == [64, 32, 2, 500 / 32, 30]
    found = against_transformers.Decoding({"ours": times, "transformers": slower}, 0.5, 10)
    assert [r.value for r in transformers_rows(found)] == [20, 10, 2, 50]


def test_waiting_is_a_share_of_the_loop_without_compilation():
    seconds = {"data_wait": 1.0, "data": 3.0, "step": 17.0, "compile": 50.0, "total": 90.0}
    assert run.wait_share(seconds) == 0.05


def test_unknown_measurement_and_lora_are_refused(folder):
    with pytest.raises(BenchError, match="step, data, memory, generate"):
        bench(TINY, ["speed"])
    lora = dataclasses.replace(TINY.memory.lora, rank=4)
    cfg = dataclasses.replace(TINY, memory=dataclasses.replace(TINY.memory, lora=lora))
    with pytest.raises(BenchError, match=r"lora\.rank is 4"):
        step.measure(named(chosen(cfg), folder), repeats=2)
    with pytest.raises(ConfigError, match="not in families"):
        bench(dataclasses.replace(TINY, compressor="llama/z"))


@pytest.mark.parametrize("name", ["llama/b", "qwen3/a"])
def test_step_and_its_parts_run(folder, name):
    cfg = named(chosen(dataclasses.replace(TINY, compressor=name)), folder)
    found = step.measure(cfg, repeats=2, threads=1)
    assert next(iter(found.ours)) == "step"
    assert "loss" in found.ours
    fix = fixture(cfg)
    want = np.sum(fix.batch.ctx_len_BG) + np.sum(fix.batch.tok_len_BO)
    assert found.tokens == want
    if importlib.util.find_spec("torch"):  # an optional dependency
        assert found.ours.keys() == found.torch.keys()
        # `measure` has compared the losses; the update must have changed them.
        (first, _), (third, _) = found.losses[0], found.losses[2]
        assert third < first
    else:
        assert not found.torch
        assert not found.losses


def test_run_and_decoding(folder, tmp_path, mesh):
    cfg = named(chosen(TINY), folder)
    times = run.measure(cfg, tmp_path, steps=4, every=2)
    assert set(times.resident) == {2, 4}
    assert min(times.resident.values()) > 50e6  # bytes: this process has jax loaded
    assert 0 <= run.wait_share(times.seconds) < 1
    rates = decode.measure(fixture(cfg), (1, 8), repeats=2)
    assert {len(t.wall) for t in rates.values()} == {2}
    assert set(rates) == {1, 8}


def test_many_memories_are_rebuilt_at_once_and_one_by_one(folder):
    pair, texts = reconstruct.untrained(fixture(named(chosen(TINY), folder)), 4)
    memory = pair.compress(texts)
    assert len(memory) == 4
    times, same = reconstruct.measure(pair, memory, repeats=2)
    assert {name: len(t.wall) for name, t in times.items()} == {"batched": 2, "single": 2}
    assert same == 4
    with pytest.raises(BenchError, match="batch is 4, for 8"):
        reconstruct.measure(pair, memory[[0, 1, 2, 3] * 2], repeats=2)


def test_questions_are_asked_in_batches_and_one_by_one(folder):
    pair, texts = reconstruct.untrained(fixture(named(chosen(TINY), folder)), 2)
    asked = probe.asked_about(pair, texts)
    times, same = probe.measure(pair, asked, repeats=2)
    assert {name: len(t.wall) for name, t in times.items()} == {"batched": 2, "single": 2}
    assert same == 2
    with pytest.raises(BenchError, match="of 1 texts some cannot be asked about"):
        probe.asked_about(pair, [" ".join(texts * 400)])


def test_decoding_against_transformers(folder):
    place = Path(named(chosen(TINY), folder).folders["decoder"])
    if not step.has_torch():
        with pytest.raises(BenchError, match="--extra bench"):
            against_transformers.measure(place, 2, 3, repeats=2)
        return
    found = against_transformers.measure(place, batch=2, new=3, repeats=2)
    assert found.tokens == 6
    assert found.same > 0.5
    assert len(found.times["transformers"].wall) == 2


def test_the_command_prints_a_table():
    lines = []
    rows = bench(TINY, ["generate"], Plan(repeats=2, batches=(1, 4)), lines.append)
    assert [r.name for r in rows] == ["batch 1", "batch 4", "batch 4 / batch 1"]
    assert rows[0].value > 0
    assert sum("tokens/s" in text for text in lines) == 2


def test_loading_is_measured_on_what_was_written(tmp_path):
    shape = load.synthetic(0.01)
    load.write(shape, tmp_path)
    times = [load.once(tmp_path) for _ in range(2)]
    assert 5e6 < times[0].file < 20e6
    above, shard = load.memory(tmp_path)
    emb, mlp = shape.vocab_size, shape.num_hidden_layers * shape.intermediate_size
    assert shard == 2 * shape.hidden_size * max(emb, mlp)
    rows = {r.name: r for r in load_rows(times, above, shard)}
    assert rows["loading it"].value > 0


def test_mistakes_are_one_sentence(capsys, tmp_path):
    for flags, words in (
        (["--only=load", f"--run={tmp_path}"], "goes with --only=reconstruct or probe"),
        (["--only=lod"], "--only='lod'; expected one of"),
        (["--config=nowhere.py"], "nowhere.py"),
    ):
        assert main(flags) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert words in told
