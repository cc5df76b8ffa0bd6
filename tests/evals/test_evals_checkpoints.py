"""Checkpoints of a run, measured one by one."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.analysis import overlaps as overlaps_room
from jaxcomp.cli import overrides
from jaxcomp.evals import checkpoints
from jaxcomp.evals.bootstrap import finite
from jaxcomp.evals.checkpoints import Followed, follow
from jaxcomp.evals.evaluate import evaluate
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor
from jaxcomp.training.manifest import CheckpointError

pytestmark = pytest.mark.slow


FIELDS = {
    "compressor": "llama/24", "memory.ratio": "16", "train.optim.steps": "6",
    "train.optim.warmup": "1", "train.optim.batch": "4", "train.checkpoint_every": "2",
    "data.val_passages": "4", "data.eval_passages": "6", "eval.batch": "8", "eval.samples": "0",
}  # fmt: skip


def config(keep="9"):
    fields = FIELDS | {"train.keep_checkpoints": keep}
    return overrides.load("configs/tiny.py", list(fields.items()))


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    monkeypatch.setattr(checkpoints, "mesh_for", lambda cfg: mesh_of((1, 1, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with use_mesh(mesh_of((1, 1, 1))):
        compressor.train(config(), folder)
    return folder


@pytest.fixture
def fresh(run):
    (run / checkpoints.ROWS).unlink(missing_ok=True)
    return run


def test_every_checkpoint_has_a_row_and_the_last_is_the_finished_run(fresh):
    said = []
    found = follow(fresh, say=said.append)
    assert [row.step for row in found.rows] == [2, 4, 6]
    assert found.made == 3
    with use_mesh(mesh_of((1, 1, 1))):
        model = compressor.load_run(found.cfg, fresh)
        whole = evaluate(found.cfg, model, *compressor.tokenizers(found.cfg, fresh))
    assert found.rows[-1].metrics == finite(whole.metrics)
    losses = [row.metrics["ordinary/loss"] for row in found.rows]
    assert len(set(losses)) == 3  # other weights at every step
    kept, facts = map(sum, zip(*found.rows[0].passages, strict=True))
    assert kept / facts == found.rows[0].metrics["counterfactual/nonfavourite/all/preserved"]
    assert "3 of 3" in said[-1]


def test_a_stopped_command_goes_on_and_a_finished_one_measures_nothing(fresh, monkeypatch):
    real, calls = checkpoints.evaluate, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(checkpoints, "evaluate", stops)
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


def test_damaged_rows_are_named(fresh):
    follow(fresh)
    file = fresh / checkpoints.ROWS
    about = file.read_text().splitlines()[0]
    for damaged in ("{", "[]", "1", "\0" * 40, "[" * 100_000, '{"step": 4}', '{"step": []}'):
        for text in (damaged, f"{about}\n{damaged}\n"):
            file.write_text(text)
            with pytest.raises(CheckpointError, match=r"checkpoints.jsonl is .*; remove it"):
                follow(fresh)


def test_a_run_with_one_checkpoint_is_told_how_to_keep_more(tmp_path):
    with use_mesh(mesh_of((1, 1, 1))):
        compressor.train(config(keep="1"), tmp_path)
    with pytest.raises(CheckpointError, match="keep_checkpoints"):
        follow(tmp_path)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        follow(tmp_path / "nothing")


def test_a_run_overlaps_with_itself_whole_and_with_another_step_less(fresh, monkeypatch):
    found = follow(fresh)
    monkeypatch.setattr(overlaps_room, "mesh_for", checkpoints.mesh_for)
    real, steps = overlaps_room.load_run, iter([None, None, 2])
    monkeypatch.setattr(overlaps_room, "load_run", lambda *a, **k: real(*a, **k, step=next(steps)))
    every: Any = overlaps_room.overlaps([found] * 3)
    assert every[0, 1].cka == pytest.approx(1.0)
    assert every[0, 1].cosine == pytest.approx(1.0)
    assert every[0, 2].cka < 1.0
    vectors = found.rows[-1].metrics["counterfactual/vectors"]
    steps = iter([None])
    assert overlaps_room.memories(found).vec_WD.shape == (vectors, 64)


def test_memories_of_other_passages_are_not_compared_though_they_are_as_many(monkeypatch):
    drawn = np.random.default_rng(0).normal(size=(4, 20, 8)).astype(np.float32)
    every = [overlaps_room.Memories(*x) for x in zip(drawn, ["a", "a", "b", "b"], strict=True)]
    monkeypatch.setattr(overlaps_room, "memories", lambda run: every[run])
    found = overlaps_room.overlaps(cast(Any, range(4)))
    compared = {pair for pair, overlap in found.items() if overlap is not None}
    assert compared == {(0, 1), (2, 3)}
    assert len(found) == 6
    every[1] = overlaps_room.Memories(np.ones((20, 16), np.float32), "a")  # of another width
    assert overlaps_room.overlaps(cast(Any, range(2))) == {(0, 1): None}


CHANGES = ({}, {"data": {"seed": 1}}, {"world": {"seed": 1}}, {"memory": {"ratio": 4}})


@pytest.mark.parametrize("change", CHANGES)
def test_what_memories_are_of_is_their_passages_and_ratio(fresh, monkeypatch, change):
    opened, root = checkpoints.open_run(fresh)
    toks, cfg, width = compressor.tokenizers(opened, root), opened, 8
    for part, fields in change.items():
        cfg = dataclasses.replace(cfg, **{part: dataclasses.replace(getattr(cfg, part), **fields)})

    def read(graphdef, state, ctx_BGT, ctx_len_BG, ratio):
        seg_BM = np.ones((len(ctx_BGT), 2), np.int32)
        return SimpleNamespace(vec_BMD=np.zeros((*seg_BM.shape, width)), seg_BM=seg_BM)

    monkeypatch.setattr(overlaps_room, "mesh_for", checkpoints.mesh_for)
    monkeypatch.setattr(overlaps_room, "load_run", lambda *a, **k: nnx.Dict())
    monkeypatch.setattr(overlaps_room, "tokenizers", lambda *a: toks)
    monkeypatch.setattr(overlaps_room.decode, "read", read)
    found = []
    for one in (opened, cfg):
        monkeypatch.setattr(overlaps_room, "open_run", lambda place, one=one: (one, root))
        found.append(overlaps_room.memories(Followed(fresh, opened, [], 0)))
    assert found[0].vec_WD.shape == found[1].vec_WD.shape == (12, width)
    # The world's passages do not depend on data.seed.
    assert (found[0].of == found[1].of) == (change in ({}, {"data": {"seed": 1}}))
