"""Checkpoints of a run, measured one by one."""

import dataclasses
import json
from typing import Any

import pytest
from conftest import mesh_of

from jaxcomp import settings
from jaxcomp.fidelity.evaluate import evaluate
from jaxcomp.sharding import use_mesh
from jaxcomp.sweep.passages import finite
from jaxcomp.train import compress
from jaxcomp.train.checkpoint import CheckpointError
from jaxcomp.trajectory import follow, main, write
from jaxcomp.trajectory import overlaps as overlaps_room
from jaxcomp.use.layout import ExportError


def config(keep="9"):
    return settings.load(
        "configs/tiny.py",
        [
            ("compressor", "llama/24"),
            ("train.optim.steps", "6"),
            ("train.optim.warmup", "1"),
            ("train.optim.batch", "4"),
            ("train.checkpoint_every", "2"),
            ("train.keep_checkpoints", keep),
            ("data.val_passages", "4"),
            ("data.eval_passages", "6"),
            ("eval.batch", "8"),
            ("eval.samples", "0"),
            ("memory.ratio", "16"),
        ],
    )


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    monkeypatch.setattr(main, "mesh_for", lambda cfg: mesh_of((1, 1, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with use_mesh(mesh_of((1, 1, 1))):
        compress.train(config(), folder)
    return folder


@pytest.fixture
def fresh(run):
    (run / main.ROWS).unlink(missing_ok=True)
    return run


def test_every_checkpoint_has_a_row_and_the_last_is_the_finished_run(fresh):
    said = []
    found = follow(fresh, say=said.append)
    assert [row.step for row in found.rows] == [2, 4, 6]
    assert found.made == 3
    with use_mesh(mesh_of((1, 1, 1))):
        model = compress.load_run(found.cfg, fresh)
        whole = evaluate(found.cfg, model, *compress.tokenizers(found.cfg, fresh))
    assert found.rows[-1].metrics == finite(whole.metrics)
    losses = [row.metrics["ordinary/loss"] for row in found.rows]
    assert len(set(losses)) == 3  # other weights at every step
    kept, slots = map(sum, zip(*found.rows[0].passages, strict=True))
    assert kept / slots == found.rows[0].metrics["counterfactual/nonfavourite/all/kept"]
    assert "3 of 3" in said[-1]


def test_a_stopped_command_goes_on_and_a_finished_one_measures_nothing(fresh, monkeypatch):
    real, calls = main.evaluate, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(main, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        follow(fresh)
    assert follow(fresh).made == 2
    again = follow(fresh)
    assert again.made == 0
    assert len(calls) == 4
    assert [row.step for row in again.rows] == [2, 4, 6]


def test_more_numbers_stand_in_every_row(fresh):
    found = follow(fresh, more=lambda place, step: {"drift/twice": 2 * step})
    assert [row.metrics["drift/twice"] for row in found.rows] == [4, 8, 12]
    with pytest.raises(CheckpointError, match="of another more"):
        follow(fresh)


def test_rows_of_another_evaluation_are_refused(fresh, monkeypatch):
    follow(fresh)
    opened = main.open_run
    other = dataclasses.replace(config().eval, batch=4)

    def changed(place):
        cfg, root = opened(place)
        return dataclasses.replace(cfg, eval=other), root

    monkeypatch.setattr(main, "open_run", changed)
    with pytest.raises(CheckpointError, match=r"trajectory.jsonl is of another eval"):
        follow(fresh)


def test_damaged_rows_are_named(fresh):
    (fresh / main.ROWS).write_text("{}\n{")
    with pytest.raises(CheckpointError, match="damaged"):
        follow(fresh)


def test_a_run_with_one_checkpoint_is_told_how_to_keep_more(tmp_path):
    with use_mesh(mesh_of((1, 1, 1))):
        compress.train(config(keep="1"), tmp_path)
    with pytest.raises(CheckpointError, match="keep_checkpoints"):
        follow(tmp_path)
    with pytest.raises(ExportError, match=r"settings\.json"):
        follow(tmp_path / "nothing")


def test_a_run_overlaps_with_itself_whole_and_with_another_step_less(fresh, monkeypatch):
    found = follow(fresh)
    monkeypatch.setattr(overlaps_room, "mesh_for", main.mesh_for)
    real, steps = overlaps_room.load_run, iter([None, None, 2])
    monkeypatch.setattr(overlaps_room, "load_run", lambda *a, **k: real(*a, **k, step=next(steps)))
    every: Any = overlaps_room.overlaps([found] * 3)
    assert every[0, 1].cka == pytest.approx(1.0)
    assert every[0, 1].cosine == pytest.approx(1.0)
    assert every[0, 2].cka < 1.0
    vectors = found.rows[-1].metrics["counterfactual/vectors"]
    steps = iter([None])
    assert overlaps_room.memories(found).shape == (vectors, 64)


def test_the_document_holds_every_step_of_the_run(fresh, tmp_path):
    page = write([follow(fresh)], tmp_path)
    text = (tmp_path / "trajectory.md").read_text()
    assert "llama/24 r16 b0 s0" in text
    assert "3 checkpoints of 1 run(s)" in text
    assert "data:image/png;base64" in page.read_text()
    assert (tmp_path / "trajectory.png").stat().st_size > 1000
    lines = (fresh / main.ROWS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines[1:]] == [2, 4, 6]
