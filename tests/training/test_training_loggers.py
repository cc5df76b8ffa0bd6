"""Where scalars go: a logger of one's own, W&B, trackio; and where a package is missing."""

import json
import struct
from importlib import util

import pytest
import training_models as tiny
from test_training_loop import Killed, killed_after

from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, TrainConfig
from jaxcomp.training import loggers
from jaxcomp.training.loop import fit


@pytest.fixture
def notes(monkeypatch):
    """A registered logger `notes`, which keeps what it is called with."""
    monkeypatch.setattr(loggers, "LOGGERS", type(loggers.LOGGERS)("train.loggers"))
    kept = []

    @loggers.run_logger("notes")
    class Notes:
        def __init__(self, run):
            kept.append(("run", run))

        def log(self, step, scalars):
            kept.append((step, scalars))

        def flush(self):
            kept.append(("flush", None))

        def close(self):
            kept.append(("close", None))

    return kept


def run(*names, project="experiment", **changes):
    made = tiny.run(**changes)
    manifest = made.manifest.__class__(
        **{**vars(made.manifest), "config": Config(name=project, train=TrainConfig(loggers=names))}
    )
    settings = TrainConfig(**{**vars(made.settings), "loggers": names})
    return type(made)(**{**vars(made), "settings": settings, "manifest": manifest})


def test_a_logger_of_ones_own_gets_every_scalar_and_goes_on_in_the_same_run(notes, mesh, tmp_path):
    with pytest.raises(Killed):  # two steps after the checkpoint of step 3
        fit(run("notes", make_batches=killed_after(5)), tmp_path, mesh)
    first, notes[:] = list(notes), []
    fit(run("notes"), tmp_path, mesh)
    assert [what for what, _ in first] == ["run", 2, "flush", 4, "close"]
    assert [what for what, _ in notes] == ["run", 4, 6, "flush", "close"]
    (_, began), (_, resumed) = first[0], notes[0]
    assert (began.step, resumed.step) == (0, 3)
    assert began.id == resumed.id
    assert (began.name, began.project, began.workdir) == ("tiny", "experiment", tmp_path)
    assert began.config["train"]["loggers"] == ["notes"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        scalars = next(scalars for step, scalars in notes if step == row["step"])
        assert {"loss", "grad_norm", "tokens_per_second"} <= scalars.keys()
        assert scalars["loss"] == row["loss"]
    notes.clear()
    fit(run("notes"), tmp_path.with_name(f"{tmp_path.name}-other"), mesh)
    assert notes[0][1].id != began.id
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_an_error_before_anything_is_written(monkeypatch, mesh, tmp_path):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    said = r"train\.loggers names wandb, but the package wandb is not installed; .* --extra wandb"
    with pytest.raises(ConfigError, match=said):
        fit(run("wandb"), tmp_path / "w", mesh)
    assert not (tmp_path / "w").exists()
    with pytest.raises(ConfigError, match=said):
        loggers.check_all(Config(train=TrainConfig(loggers=("wandb",))))


def test_an_unknown_logger_is_named_with_the_known_ones():
    said = r"train\.loggers = 'wanbd': expected one of .*trackio; did you mean wandb\?"
    with pytest.raises(ConfigError, match=said):
        validate(Config(train=TrainConfig(loggers=("wanbd",))))


def killed_and_resumed(name, project, tmp_path, mesh):
    """The id of a run that was killed after a logged step that no checkpoint has, and resumed."""
    with pytest.raises(Killed):
        fit(run(name, project=project, make_batches=killed_after(5)), tmp_path, mesh)
    fit(run(name, project=project), tmp_path, mesh)
    return json.loads((tmp_path / loggers.ID).read_text())["id"]


def records(raw):
    """The records of a file of W&B: a LevelDB log after 7 bytes."""
    at, whole = 7, b""
    while at < len(raw):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
        _, size, kind = struct.unpack_from("<IHB", raw, at)
        whole += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or the last part
            yield whole
            whole = b""


def test_wandb_has_one_run_with_each_step(mesh, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="uv sync --extra wandb")
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    found = killed_and_resumed("wandb", "tests", tmp_path / "w", mesh)
    files = sorted(tmp_path.glob(f"wandb/offline-*/run-{found}.wandb"), key=lambda f: f.parent.name)
    assert len(files) == len(list(tmp_path.glob("wandb/offline-*/*.wandb"))) == 2
    steps = {}
    for number, file in enumerate(files):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.run.run_id:
                assert (record.run.run_id, record.run.project) == (found, "tests")
            items = {i.key or ".".join(i.nested_key): i for i in record.history.item}
            if items:
                assert "loss" in items
                steps.setdefault(number, []).append(record.history.step.num)
    assert steps == {0: [2, 4], 1: [4, 6]}


def test_trackio_has_one_run_with_each_step(mesh, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="uv sync --extra trackio")
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    found = killed_and_resumed("trackio", "tests", tmp_path / "w", mesh)
    assert SQLiteStorage.get_runs("tests") == [f"tiny-{found}"]
    logs = SQLiteStorage.get_logs("tests", f"tiny-{found}")
    assert {log["step"] for log in logs if "loss" in log} == {2, 4, 6}
    assert capsys.readouterr().out == ""  # which is for results
