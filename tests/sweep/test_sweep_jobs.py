"""One real sweep, end to end: pretrain, train, evaluate, report, on models of few weights.

The decoder is given as a folder, so that only its use is tested here (tests/training adapts one).
"""

import csv
import functools
import json
import os
import shutil
from pathlib import Path

import pytest
from flax import nnx

from jaxcomp.cli import main
from jaxcomp.cli import overrides as settings
from jaxcomp.config import Config, ConfigError, ModelConfig
from jaxcomp.data.batches import tokenizer_folder
from jaxcomp.data.documents import DataError
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.sweep import grid, jobs, runner
from jaxcomp.sweep.tasks import Task
from jaxcomp.training import compressor, loop

CONFIG = """
def shape(width):
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return heads | {"hidden_size": width, "num_hidden_layers": 1, "intermediate_size": width}

def get_config(arg):
    optim = {"steps": 3, "batch": 4, "warmup": 1}
    return {
        "families": {"toy": {"s": shape(8), "m": shape(16)}},
        "folders": {"decoder": arg},
        "data": {
            "segment": 16, "target": 24,
            "train_passages": 64, "eval_passages": 4, "val_passages": 4,
        },
        "pretrain": {"optim": optim, "seq_len": 48},
        "memory": {"marker_steps": 1},
        "train": {"optim": optim, "checkpoint_every": 2},
        "eval": {"batch": 4, "samples": 0},
        "sweep": {"ratios": [4, 16], "workers": 1},
    }
"""


@pytest.fixture
def decoder(tmp_path, mesh):
    """An untrained decoder of the world's vocabulary, as a Hugging Face folder."""
    source = Path(tokenizer_folder(Config()))
    shape = ModelConfig(
        vocab_size=load_tokenizer(source).vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
    )
    hf.save(Transformer(shape, rngs=nnx.Rngs(0)), tmp_path / "decoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "decoder" / name).write_bytes((source / name).read_bytes())
    return tmp_path / "decoder"


def config_of(tmp_path, decoder, *overrides):
    (tmp_path / "toy.py").write_text(CONFIG)
    return settings.load(f"{tmp_path}/toy.py:{decoder}", list(overrides))


def test_data_that_cannot_serve_is_refused_before_any_work(tmp_path, decoder):
    text = tmp_path / "short.jsonl"
    text.write_text("".join(f'{{"text": "too short {i}"}}\n' for i in range(50)))
    cfg = config_of(
        tmp_path, decoder, ("data.source", "text"), ("data.path", str(text)),
        ("data.vocab_size", "260"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"short\.jsonl"):
        runner.run(cfg, tmp_path / "w", work=jobs.SweepWork())
    assert not (tmp_path / "w").exists()


def test_weights_that_cannot_be_read_are_refused_before_any_work(tmp_path, decoder):
    weights = decoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(hf.HfError, match=r"decoder/model\.safetensors .* is not a whole"):
        runner.run(config_of(tmp_path, decoder), tmp_path / "w", work=jobs.SweepWork())
    assert not (tmp_path / "w").exists()


def test_a_ratio_without_a_step_is_refused_before_any_work(tmp_path):
    cfg = settings.load("configs/tiny.py", [("train.ratios", "4,16")])  # the sweep has 64 too
    with pytest.raises(ConfigError, match=r"memory\.ratio = 64 is none of those"):
        jobs.SweepWork().check(grid.expand(cfg), tmp_path)


def test_only_in_a_rate_grid_is_divergence_a_finding(tmp_path, decoder, monkeypatch):
    def diverges(*args, **kw):
        raise loop.Diverged("at step 3 the loss is nan")

    monkeypatch.setattr(compressor, "train", diverges)
    cfg = config_of(tmp_path, decoder, ("sweep.lr_grid", "0.5,1,2"))
    for job in grid.expand(cfg)[2:5]:
        task = Task(job.id, "job", job.config, job=job)
        run = functools.partial(jobs.SweepWork().run, task, tmp_path, lambda text, share: None)
        if job.recipe:
            with pytest.raises(loop.Diverged):
                run()
        else:
            assert run() == {"metrics": {"val_loss": None}, "note": "at step 3 the loss is nan"}


class VanishingCheckpoints(jobs.SweepWork):
    """Somebody cleans up one job's checkpoint, after Orbax wrote it and before it has its name."""

    def run(self, task, workdir, say):
        rename = os.rename

        def vanishing(source, target, **kw):
            if f"{task.id}/checkpoints" in os.fspath(source):
                shutil.rmtree(source)
            rename(source, target, **kw)

        with pytest.MonkeyPatch.context() as patch:
            if task.id == "toy-s-r4-b0-s0":
                patch.setattr(os, "rename", vanishing)
            return super().run(task, workdir, say)


@pytest.mark.slow
def test_a_save_that_fails_ends_its_job_and_no_other(tmp_path, decoder, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    cfg = config_of(tmp_path, decoder, ("sweep.ratios", "4"))
    summary = runner.run(cfg, tmp_path / "w", work=VanishingCheckpoints())
    assert summary.ran == 1
    ((job, message),) = summary.failed
    assert job == "toy-s-r4-b0-s0"
    assert "jobs/toy-s-r4-b0-s0/checkpoints: cannot be written" in message


@pytest.mark.slow
def test_a_real_sweep_end_to_end(tmp_path, decoder, monkeypatch, capsys):
    # The worker is a process of its own; no time is to be lost there on optimising tiny programs.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    (tmp_path / "toy.py").write_text(CONFIG)
    typed = ["sweep", f"--config={tmp_path}/toy.py:{decoder}", f"--workdir={tmp_path}/w"]
    before = (decoder / "model.safetensors").read_bytes()
    assert main.main(typed) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "pretrained first: toy-s-b0, toy-m-b0" in said
    with open(tmp_path / "w/report/results.csv") as f:
        rows = list(csv.DictReader(f))
    assert [(r["size"], r["ratio"]) for r in rows] == [
        ("s", "4"), ("s", "16"), ("m", "4"), ("m", "16"),
    ]  # fmt: skip
    for row in rows:
        assert 0 < float(row["ordinary/loss"]) < 8
        assert 0 < float(row["val_loss"]) < 8
        assert row["train/steps"] == "3"
        assert float(row["counterfactual/vectors"]) * int(row["ratio"]) >= float(
            row["counterfactual/tokens"]
        )
    assert int(rows[0]["params"]) < int(rows[2]["params"])
    assert (decoder / "model.safetensors").read_bytes() == before
    job = tmp_path / "w/jobs/toy-s-r4-b0-s0"
    assert [p.name for p in (job / "checkpoints").iterdir() if p.name.isdigit()] == ["3"]
    records = [json.loads(line) for line in (job / "passages.jsonl").read_text().splitlines()]
    assert len(records) == 8
    intervals = json.loads((tmp_path / "w/ledger/toy-s-r4-b0-s0.json").read_text())["intervals"]
    low, high = intervals["ordinary/loss"]
    assert low <= float(rows[0]["ordinary/loss"]) <= high

    page = tmp_path / "w/report/report.html"
    drawn = page.read_bytes()
    page.write_text("as an older jaxcomp drew it")
    assert main.main(typed) == 0
    assert "all 4 jobs are done" in capsys.readouterr().out
    assert page.read_bytes() == drawn
