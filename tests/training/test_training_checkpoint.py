"""Checkpoints: any folder's name, whose they are, one training at a time, and what breaks them."""

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import training_models as tiny
from conftest import mesh_of

from jaxcomp.config import ConfigError, to_dict
from jaxcomp.runtime import locks
from jaxcomp.training.checkpoint import Checkpoints, saved_steps
from jaxcomp.training.loop import fit
from jaxcomp.training.manifest import CheckpointError, begin

ODD = ["a[b]c", "größe *?100%25#x&y;'z"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole run, which nobody may change."""
    folder = tmp_path_factory.mktemp("finished")
    fit(tiny.run(), folder, mesh_of((1, 1, 1)))
    return folder


@pytest.fixture
def whole(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "whole")


def refused(folder, mesh, **changes):
    """What a run is refused with, of which nothing may be left."""
    before = sorted(folder.rglob("*"))
    with pytest.raises((ConfigError, CheckpointError)) as error:
        fit(tiny.run(**changes), folder, mesh)
    assert sorted(folder.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(finished, mesh, tmp_path, name):
    folder = tmp_path / name
    fitted = fit(tiny.run(), folder, mesh)
    assert saved_steps(folder) == [3, 6]
    again = fit(tiny.run(), folder, mesh)
    assert again.numbers == fitted.numbers == fit(tiny.run(), finished, mesh).numbers


def test_a_checkpoint_of_another_run_is_not_restored(whole, mesh):
    (whole / "run.json").write_text(json.dumps(to_dict(tiny.run(seed=1).manifest)))
    assert "checkpoints/6 was made by another config" in refused(whole, mesh, seed=1)


def test_who_only_reads_removes_nothing(whole):
    half = whole / "checkpoints" / "9.orbax-checkpoint-tmp"
    half.mkdir()
    assert saved_steps(whole) == [3, 6]
    assert half.is_dir()


# --- one at a time -----------------------------------------------------------------------------


def test_a_second_training_in_one_folder_is_refused_until_the_first_was_killed(
    tmp_path, monkeypatch
):
    code = (
        "import sys, time; from pathlib import Path; from jaxcomp.runtime import locks\n"
        "with locks.training(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        monkeypatch.setattr(locks, "ORPHAN_S", 0.1)
        with pytest.raises(ConfigError, match="another process is training there now"):
            locks.training(tmp_path).__enter__()
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with locks.training(tmp_path):
        pass


def test_damaged_lines_of_the_log_do_not_stop_a_resume(whole, mesh):
    log = whole / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    shutil.rmtree(whole / "checkpoints" / "6")
    damage = [b"\0" * 40 + b"\n", b"{}\n", b'{"step": null}\n', b"[2]\n", b"\xff\n", b'{"st']
    log.write_bytes(lines[0] + b"".join(damage))
    fit(tiny.run(), whole, mesh)
    assert log.read_bytes() == b"".join(lines)


# --- failures ----------------------------------------------------------------------------------


@contextlib.contextmanager
def no_file_above(size):
    """What a full disk does, also to root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_is_one_error_whose_causes_end(mesh, tmp_path, monkeypatch, capfd):
    save = Checkpoints.save

    def small(self, *args):
        with no_file_above(500):
            save(self, *args)

    monkeypatch.setattr(Checkpoints, "save", small)
    with pytest.raises(CheckpointError, match="checkpoints: cannot be written") as raised:
        fit(tiny.run(), tmp_path, mesh)
    seen, error = [], raised.value
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__ or error.__context__
    assert len(str(raised.value)) < 600
    assert "Traceback" not in capfd.readouterr().err
    assert saved_steps(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "share"),
    [("_CHECKPOINT_METADATA", 0.5), ("state/_METADATA", 0.0), ("state/manifest.ocdbt", 0.5)],
)
def test_a_cut_checkpoint_is_one_short_sentence(whole, mesh, capfd, name, share):
    file = whole / "checkpoints" / "6" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    message = refused(whole, mesh)
    assert "checkpoints/6: the checkpoint cannot be read" in message
    assert "remove that folder to go on from the checkpoint before it" in message
    assert len(message) < 500
    assert "Traceback" not in capfd.readouterr().err
    shutil.rmtree(whole / "checkpoints" / "6")
    assert fit(tiny.run(), whole, mesh).numbers["steps"] == 6


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1'])
def test_an_identity_that_is_no_object_is_one_sentence(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json: .*remove it and run again"):
        begin(tmp_path, tiny.made({"seed": 0}))
