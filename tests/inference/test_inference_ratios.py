"""One compressor trained at several ratios, used and measured at each of them and at no other."""

import dataclasses
import json
from typing import Any, cast

import numpy as np
import pytest
from conftest import mesh_of
from inference.inference_runs import LORA, config, texts

import jaxcomp
from jaxcomp.cli import main
from jaxcomp.config import ConfigError
from jaxcomp.data.batches import eval_examples
from jaxcomp.inference import MemoryFileError
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor
from jaxcomp.training.ratio_schedule import ratio_at, trained_at

RATIOS = (4, 16)
SEED = 1  # of its two steps one is at each


@pytest.fixture(scope="module")
def cfg():
    one = config(LORA)
    off = dataclasses.replace(one.eval, samples=0)
    train = dataclasses.replace(one.train, ratios=RATIOS)
    return dataclasses.replace(one, train=train, eval=off, seed=SEED)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with use_mesh(mesh_of((1, 1, 1))):
        compressor.train(cfg, folder)
        yield folder


@pytest.fixture(scope="module")
def pairs(run):
    return {ratio: jaxcomp.load(run, ratio=ratio, batch=8) for ratio in RATIOS}


def test_every_ratio_has_steps_of_its_own(cfg, run, pairs):
    assert {ratio_at(cfg.train, 16, SEED, step) for step in range(2)} == set(RATIOS)
    begun = cast(Any, compressor.planned(cfg, run)[0].model()).compressor.mem_ME[...]
    learned = pairs[4].model.compressor.mem_ME[...]
    changed = (np.asarray(begun) != np.asarray(learned)).any(1)
    assert changed.all()  # most rows of memory tokens serve the finest ratio alone
    assert len(changed) == cfg.data.segment // min(RATIOS)


def test_it_compresses_at_each_and_reads_what_is_of_that_ratio(cfg, pairs):
    memories = {ratio: pair.compress(texts()) for ratio, pair in pairs.items()}
    tokens = [len(pairs[4].comp_tok.encode(text)) for text in texts()]
    assert max(tokens) <= cfg.data.segment
    for ratio, memory in memories.items():
        assert memory.ratio == ratio
        assert len(memory.vec_ND) == sum(-(-t // ratio) for t in tokens)
        assert len(pairs[ratio].reconstruct(memory, max_new=4)) == len(texts())
        with pytest.raises(MemoryFileError, match="this pair has"):
            pairs[sum(RATIOS) - ratio].reconstruct(memory)


def test_it_is_measured_at_each_in_files_of_their_own(cfg, run, pairs, capsys):
    def typed(*argv):
        code = main.main(["eval", f"--run={run}", *argv])
        return code, capsys.readouterr()

    code, said = typed("--ratio=4")
    assert code == 0
    assert "eval-r4.json; one line a passage: passages-r4.jsonl" in said.out
    assert not (run / "eval.json").exists()
    found = json.loads((run / "eval-r4.json").read_text())["metrics"]
    line = json.loads((run / "passages-r4.jsonl").read_text().splitlines()[0])
    assert line["vectors"] == -(-(line["targets"] - 1) // 4)
    with use_mesh(pairs[4].mesh):
        examples = eval_examples(cfg, "ordinary", *compressor.tokenizers(cfg, run))
    texts = [e.text for e in examples]
    scores = pairs[4].score(pairs[4].compress(texts), texts)
    nats = sum(s.nats for s in scores) / sum(s.tokens for s in scores)
    assert found["ordinary/loss"] == pytest.approx(nats, rel=1e-4)
    code, said = typed("--ratio=8")
    assert (code, said.err) == (
        2,
        "jaxcomp: error: ratio 8: this compressor was trained at 4, 16\n",
    )
    assert "does not go with --checkpoints" in typed("--ratio=4", "--checkpoints=all")[1].err


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [(0.0, 10, [16]), (0.5, 10, [2, 4, 16]), (1.0, 10, [2, 4]), (1.0, 0, [16])],
)
def test_the_ratios_of_a_run_are_those_of_its_steps(cfg, share, steps, expected):
    optim = dataclasses.replace(cfg.train.optim, steps=steps)
    train = dataclasses.replace(
        cfg.train, ratios=(), curriculum=(2, 4), curriculum_share=share, optim=optim
    )
    one = dataclasses.replace(cfg, train=train)
    assert trained_at(one) == expected
    each = {ratio_at(train, one.memory.ratio, 0, step) for step in range(steps)}
    assert each == set(expected) or not steps


def test_a_ratio_that_no_step_has_is_not_validated_at(cfg, tmp_path):
    none = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, ratios=(4, 64)))
    with pytest.raises(ConfigError, match=r"memory.ratio = 16 is none of those .* \(4, 64\)"):
        compressor.train(none, tmp_path)
    with pytest.raises(ConfigError, match=r"choose one of them, such as --memory.ratio=4"):
        compressor.planned(none, tmp_path)
    assert not list(tmp_path.iterdir())
