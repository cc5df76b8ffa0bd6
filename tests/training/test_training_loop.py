"""The loop: exact resume, frozen means frozen, one clear error for each thing that goes wrong."""

import dataclasses
import hashlib
import json
from functools import partial

import numpy as np
import pytest
import training_models as tiny
from conftest import mesh_of
from flax import nnx
from jax.sharding import NamedSharding

from jaxcomp.config import ConfigError
from jaxcomp.training.checkpoint import Checkpoints
from jaxcomp.training.loggers import LoggedRun, TensorBoard
from jaxcomp.training.loop import Diverged, TrainingError, fit
from jaxcomp.training.manifest import CheckpointError
from jaxcomp.training.metrics import Logger
from jaxcomp.training.optim import init_state, split_model, split_optim


def arrays(params):
    return {name: np.array(x) for name, x in params.items()}


def digest(params):
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(name.encode() + np.array(params[name]).tobytes())
    return sha.hexdigest()


class Killed(BaseException):
    """kill -9, as near as one process can come."""


def killed():
    raise Killed


def killed_after(steps):
    return lambda: tiny.Batches({steps + 1: killed})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run: its folder and what it gave."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(tiny.run(), folder, mesh_of((1, 1, 1)))


@pytest.mark.parametrize("trained", tiny.TRAINED)
def test_half_and_half_is_the_whole_whatever_is_trained(mesh, tmp_path, trained):
    """Bit for bit, and what is frozen never changes."""
    decayed = dataclasses.replace(tiny.OPTIM, weight_decay=0.1)
    make = partial(tiny.run, decayed, memory=tiny.TRAINED[trained])
    one, frozen = fit(make(), tmp_path / "one", mesh), split_model(make().model(), make().trainable)
    with pytest.raises(Killed):
        fit(make(make_batches=killed_after(3)), tmp_path / "two", mesh)
    two = fit(make(), tmp_path / "two", mesh)
    assert two.numbers == one.numbers
    assert digest(two.trained) == digest(one.trained) != digest(frozen[1])
    assert digest(two.frozen) == digest(one.frozen) == digest(frozen[2])
    parts = {"/".join(name.split("/")[:2]) for name in two.trained}
    inputs = {"compressor/llm", "compressor/mem_ME"} if trained == "last_layer" else set()
    assert parts == {"compressor/connector", "markers_4D"} | inputs
    for name in (each for each in two.trained if each.startswith("compressor/llm")):
        assert name.startswith("compressor/llm/layers/")
        before, after = np.array(frozen[1][name]), np.array(two.trained[name])
        np.testing.assert_array_equal(after[0], before[0], err_msg=name)
        assert (after[1] != before[1]).any(), name


def test_a_killed_run_ends_bit_for_bit_like_a_whole_one(whole, mesh, tmp_path):
    folder, fitted = whole
    with pytest.raises(Killed):  # two steps after the checkpoint of step 3
        fit(tiny.run(make_batches=killed_after(5)), tmp_path, mesh)
    resumed = fit(tiny.run(), tmp_path, mesh)
    assert resumed.numbers == fitted.numbers
    for name, value in arrays(fitted.trained).items():
        np.testing.assert_array_equal(resumed.trained[name], value, err_msg=name)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert lines == (folder / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [2, 4, 6]
    seconds = json.loads((tmp_path / "timings.json").read_text())["seconds"]
    assert {"data", "compile", "step", "checkpoint", "total"} <= seconds.keys()


@pytest.mark.slow
def test_a_run_goes_on_upon_another_mesh(whole, mesh, tmp_path):
    folder, fitted = whole
    with pytest.raises(Killed):
        fit(tiny.run(make_batches=killed_after(5)), tmp_path, mesh)
    eight = mesh_of((2, 2, 2))
    resumed = fit(tiny.run(), tmp_path, eight)
    where = resumed.trained["compressor/llm/layers/q/w"].sharding
    assert isinstance(where, NamedSharding)
    assert where.mesh == eight
    assert resumed.numbers["tokens"] == fitted.numbers["tokens"]
    for name, value in arrays(fitted.trained).items():
        np.testing.assert_allclose(resumed.trained[name], value, atol=1e-4, err_msg=name)
    # Up to the checkpoint the same file, after it the same numbers up to the order of sums.
    rows = [
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in (folder, tmp_path)
    ]
    assert rows[0][0] == rows[1][0]
    for one, two in zip(*rows, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    again = fit(tiny.run(), tmp_path, eight)
    assert digest(again.trained) == digest(resumed.trained)


def test_a_finished_run_is_only_restored(whole, mesh):
    folder, fitted = whole
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = fit(tiny.run(), folder, mesh)
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before
    assert again.numbers == fitted.numbers
    assert digest(again.trained) == digest(fitted.trained)


def test_only_the_trained_part_moves(whole, mesh):
    _, fitted = whole
    _, trained, frozen = split_model(tiny.pair(), tiny.run().trainable)
    assert any(name.startswith("decoder") for name in frozen)
    assert digest(fitted.frozen) == digest(frozen)
    moved = [name for name in trained if not np.array_equal(fitted.trained[name], trained[name])]
    assert sorted(moved) == sorted(trained)
    assert fitted.numbers["train_loss"] < 5
    expected = [b.ctx_len_BG.sum() + b.tok_len_BO.sum() for b in take(tiny.batches(), 6)]
    assert fitted.numbers["tokens"] == sum(expected)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_markers_stop_after_marker_steps(whole, mesh, tmp_path):
    """They stand at step 6 where they stood at step 3, while everything else went on."""
    _, fitted = whole
    run = tiny.run(keep=9)
    fit(run, tmp_path, mesh)
    checkpoints = Checkpoints(tmp_path, run.manifest.config_hash, keep=9)
    _, trained, _ = split_model(tiny.pair(), run.trainable)
    initial = np.array(trained["markers_4D"])
    template = init_state(trained, split_optim(tiny.OPTIM)[0])
    early = checkpoints.restore(template, None, 3)
    checkpoints.close()
    assert not np.array_equal(early.params["markers_4D"], initial)
    np.testing.assert_array_equal(early.params["markers_4D"], fitted.trained["markers_4D"])
    name = "compressor/mem_ME"
    assert not np.array_equal(early.params[name], fitted.trained[name])


def test_a_batch_that_does_not_divide_over_the_devices_is_named(tmp_path):
    halves = dataclasses.replace(tiny.OPTIM, batch=8, accumulate=2)
    with pytest.raises(ConfigError, match=r"= 4 rows do not divide over .* = 8 devices"):
        fit(tiny.run(halves), tmp_path, mesh_of((1, 8, 1)))


def test_a_loss_that_is_not_finite_names_step_and_the_last_good_checkpoint(mesh, tmp_path):
    def poisoned():
        model = tiny.pair()
        model.compressor.mem_ME = nnx.Param(model.compressor.mem_ME[...] * np.nan)
        return model

    with pytest.raises(Diverged, match=r"at step 1 .* nan.*no checkpoint.*optim.lr"):
        fit(tiny.run(model=poisoned), tmp_path / "a", mesh)
    assert not list((tmp_path / "a" / "checkpoints").glob("[0-9]*"))
    burning = dataclasses.replace(tiny.OPTIM, lr=1e30)
    with pytest.raises(Diverged, match=r"step [2-5] .*step [1-4] in .*optim.lr \(now 1e\+30\)"):
        fit(tiny.run(burning, save=1), tmp_path / "b", mesh)


def test_data_that_ends_is_an_error(mesh, tmp_path):
    with pytest.raises(TrainingError, match="data ended before step 6"):
        fit(tiny.run(make_batches=lambda: iter(take(tiny.batches(), 1))), tmp_path, mesh)


def test_no_steps_give_the_untrained_model(mesh, tmp_path):
    fitted = fit(tiny.run(dataclasses.replace(tiny.OPTIM, steps=0)), tmp_path, mesh)
    _, trained, _ = split_model(tiny.pair(), tiny.run().trainable)
    assert digest(fitted.trained) == digest(trained)
    assert fitted.numbers["steps"] == 0


def test_a_workdir_of_another_config_is_refused_with_what_differs(whole, mesh):
    folder, _ = whole
    other = tiny.run(dataclasses.replace(tiny.OPTIM, lr=5e-3))
    with pytest.raises(ConfigError, match=r"optim.lr was 0.003, now 0.005.*--workdir"):
        fit(other, folder, mesh)


def test_a_workdir_that_cannot_be_written_is_an_error(mesh, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file.*cannot be written.*--workdir"):
        fit(tiny.run(), tmp_path / "file" / "run", mesh)


def test_a_full_disk_leaves_no_checkpoint_that_looks_whole(mesh, tmp_path, monkeypatch):
    _, trained, _ = split_model(tiny.pair(), tiny.run().trainable)
    state = init_state(trained, split_optim(tiny.OPTIM)[0])
    checkpoints = Checkpoints(tmp_path, "a", keep=2)
    checkpoints.save(1, state, None)
    checkpoints.wait()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(f"os.{name}", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*free some space"):
            _ = checkpoints.save(2, state, None), checkpoints.wait()
    with pytest.raises(CheckpointError):
        checkpoints.restore(state, None, 2)
    again = Checkpoints(tmp_path, "a", keep=2)
    assert again.latest == 1
    restored = again.restore(state, None)
    again.close()
    assert digest(restored.params) == digest(trained)


def test_metrics_after_the_last_checkpoint_are_dropped(tmp_path):
    line = '{"step": %d, "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line % 2 + line % 4 + '{"step": 5, "lo')
    run = LoggedRun("p", "n", "id", tmp_path, 3, {})
    logger = Logger(tmp_path, 3, [TensorBoard(run)])
    logger.write(4, {"loss": 2.0, "loss_continue": float("nan")}, {"rate": 1.0})
    logger.close()
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0, "loss_continue": None}]
    assert list((tmp_path / "tensorboard").iterdir())
