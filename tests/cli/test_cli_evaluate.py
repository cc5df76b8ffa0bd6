"""The forms of `jaxcomp eval` and `inspect`: what each asks for, passes on and refuses."""

import dataclasses
import json
import re
import sys

import pytest

import jaxcomp
from jaxcomp.analysis import checkpoints_page
from jaxcomp.cli import main, overrides
from jaxcomp.config import to_dict
from jaxcomp.evals import checkpoints, evaluation, versions
from jaxcomp.evals.evaluation import Evaluated
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.pairs.minimal_pairs import Passage
from jaxcomp.evals.tasks import drift
from jaxcomp.sweep import jobs
from jaxcomp.training import manifest
from jaxcomp.training.identity import of_training

PASSAGES = [Passage(str(i), f"The {i} dogs barked.", "x") for i in range(4)]


def told(capsys):
    return capsys.readouterr().err


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """What `follow` was asked for; its runs hold nothing."""
    cfg, asked = overrides.load("configs/tiny.py"), []
    # A place's letter is its seed, and a capital one has another ratio.
    made = {
        name: dataclasses.replace(
            cfg,
            compressor="llama/24",
            seed="ab".index(name[0].lower()),
            memory=dataclasses.replace(cfg.memory, ratio=4 if name[0].isupper() else 16),
        )
        for name in ("a", "b", "a2", "A")
    }

    def follow(place, *, more, say, **moved):
        asked.append((place, more, *moved.values()))
        return checkpoints.Followed(tmp_path / place, made[place], [], 0)

    def open_run(place, **moved):
        return made[place.name], tmp_path

    # By sys.modules: jaxcomp.inference has a function of the module's name.
    monkeypatch.setattr(checkpoints, "follow", follow)
    monkeypatch.setattr(sys.modules["jaxcomp.inference.load"], "open_run", open_run)

    def write(found, folder):
        (folder / "checkpoints.md").write_text("the table")
        return folder / "checkpoints.html"

    monkeypatch.setattr(checkpoints_page, "write", write)
    return asked


def test_base_models_of_several_runs_are_named_for_all_or_for_each(runs, tmp_path, capsys):
    argv = ["eval", "--run=a,b", "--checkpoints=all", f"--out={tmp_path}"]
    (tmp_path / "checkpoints.md").write_text("")
    assert main.main([*argv, "--compressor=x,y", "--decoder=d"]) == 0
    assert runs == [("a", None, "x", "d"), ("b", None, "y", "d")]
    assert main.main([*argv, "--compressor=x,y,z"]) == 2
    assert "--compressor names 3 folders for 2 runs" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["a,b,a", "b,a,a2"])
def test_one_run_given_twice_is_refused_before_anything_is_measured(runs, capsys, given):
    assert main.main(["eval", f"--run={given}", "--checkpoints=all"]) == 2
    said = told(capsys)
    assert f"a and {given[4:]} are one run twice" in said
    assert not runs


@pytest.mark.parametrize("task", evaluation.shipped())
def test_a_task_refuses_the_flags_that_it_does_not_take(task, capsys):
    for name in evaluation.OPTIONS:
        value = "3" if name in ("limit", "length", "ratio", "batch") else "known"
        assert main.main(["eval", "--run=nowhere", f"--task={task}", f"--{name}={value}"]) == 2
        refused = f"--{name} does not go with --task={task}" in told(capsys)
        assert refused == (name not in evaluation.find(task).options), name


def written(workdir, cfg):
    made = manifest.new("compressor", of_training(cfg), cfg)
    manifest.write_json(workdir / "run.json", to_dict(made))


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A run whose evaluation is one number, beside pairs that are yet to be asked."""
    cfg = dataclasses.replace(overrides.load("configs/tiny.py"), compressor="llama/24")
    written(tmp_path, cfg)
    monkeypatch.setattr(jaxcomp.inference, "load", lambda *a, **k: "pair")
    found = {"test/loss": 0.5, "test/left_out": 3, "edits/number/left_out": 1}
    monkeypatch.setattr(jobs, "measure", lambda *a: (found, [{}] * 4))
    monkeypatch.setattr(drift, "passages_of_run", lambda place: PASSAGES)
    return tmp_path


def pairs_of(file):
    return {k: v for k, v in metrics_of(file).items() if k.startswith("pairs/")}


def metrics_of(file):
    return json.loads(file.read_text())["metrics"]


def test_pairs_that_cannot_be_asked_lose_nothing(measured, monkeypatch, capsys):
    """A text without any place for a rule: the rest is kept, the reason said, no value made up."""
    real = drift.run

    def run(pair, passages, out=None, *, say):
        monkeypatch.setattr(drift, "prepare", lambda *a: ([], {"left_out": {}}))
        monkeypatch.setattr(drift, "about_of", lambda *a, **k: {})
        return real(pair, passages, out, say=say)

    monkeypatch.setattr(drift, "run", run)
    assert main.main(["eval", f"--run={measured}", "--all"]) == 0
    both = capsys.readouterr()
    assert "minimal pairs: not measurable: no minimal pair of 4 passages can be asked" in both.err
    cost = re.search(r"^4 passages in ([\d.]+) s: ([\d.e-]+) s a passage", both.err, re.M)
    assert cost
    assert float(cost[2]) == pytest.approx(float(cost[1]) / 4, abs=0.05)
    assert "left out, too long               3  test/left_out\n" in both.out
    assert "edits/number" not in both.out
    assert metrics_of(measured / "eval.json")["test/loss"] == 0.5
    none = pairs_of(measured / "eval.json")
    assert len(none) == 3 * (len(DIMENSIONS) + 1)
    assert set(none.values()) == {None}

    every = {
        d: {n: {"rate": 0.25} for n in ("memory", "no_memory", "pair_accuracy")}
        for d in (*DIMENSIONS, "all")
    }
    monkeypatch.setattr(drift, "run", lambda *a, **k: Evaluated({"dimensions": every}, True))
    assert main.main(["eval", f"--run={measured}", "--all"]) == 0
    assert pairs_of(measured / "eval.json") == dict.fromkeys(none, 0.25)


def test_what_was_measured_is_kept_though_the_pairs_are_stopped(measured, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(drift, "run", stopped)
    main.main(["eval", f"--run={measured}", "--all"])
    assert metrics_of(measured / "eval.json")["test/loss"] == 0.5


def test_what_is_measured_already_is_not_measured_again(measured, monkeypatch, capsys):
    """And only the pairs are asked that are missing; another training is another run."""
    (measured / "summary.json").write_text('{"train_loss": 1.0}')
    made, asked = [], []

    def measure(cfg, workdir, *_):
        made.append(1)
        (workdir / "passages.jsonl").write_text("{}")
        return {"test/loss": 0.5}, [{}]

    def pairs(*_, **__):
        asked.append(1)
        rates = {n: {"rate": 0.25} for n in ("memory", "no_memory", "pair_accuracy")}
        return Evaluated({"dimensions": {"all": rates}}, True)

    def counts(*argv):
        made.clear()
        asked.clear()
        assert main.main(["eval", f"--run={measured}", *argv]) == 0
        idle = "nothing to do" in told(capsys)
        return len(made), len(asked), idle

    monkeypatch.setattr(jobs, "measure", measure)
    monkeypatch.setattr(drift, "run", pairs)
    assert counts() == (1, 0, False)
    assert counts() == (0, 0, True)
    assert counts("--all") == (0, 1, False)
    assert counts("--all") == counts() == (0, 0, True)
    assert metrics_of(measured / "eval.json")["pairs/all/memory"] == 0.25
    (measured / "passages.jsonl").unlink()
    assert counts() == (1, 0, False)
    (measured / "summary.json").write_text('{"train_loss": 0.9}')
    assert counts("--all") == (1, 1, False)
    monkeypatch.setattr(versions, "DRIFT", versions.DRIFT + 1)
    assert counts("--all") == (1, 1, False)
    # A result that is kept is of the run that is there.
    cfg = dataclasses.replace(overrides.load("configs/tiny.py"), compressor="llama/24", seed=1)
    written(measured, cfg)
    assert counts() == (1, 0, False)
    argv = ["eval", "--config=configs/tiny.py", "--compressor=llama/24", f"--workdir={measured}"]
    assert main.main(argv) == 2
    assert "was made by another config: seed was 1, now 0" in told(capsys)
