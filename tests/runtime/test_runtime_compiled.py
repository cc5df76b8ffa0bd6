"""Compiled steps that are kept: a command typed again is faster, and its numbers are the same."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from conftest import HANGS_S

from jaxcomp.runtime import compiled

TRAIN = (
    "train", "--config=configs/tiny.py", "--compressor=llama/24", "--train.optim.steps=60",
    "--train.checkpoint_every=10", "--train.log_every=10",
)  # fmt: skip


def typed(workdir, cache, *, kept=None):
    """The command as a user types it, in an environment where JAX was told nothing else."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    env |= {"JAXCOMP_CACHE": str(cache)}
    env |= {} if kept is None else {"JAX_COMPILATION_CACHE_DIR": kept}
    command = [sys.executable, "-m", "jaxcomp", *TRAIN, f"--workdir={workdir}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe)


def finished(child):
    out, err = child.communicate(timeout=HANGS_S)
    assert child.returncode == 0, err
    return out + err


def numbers(workdir):
    return [(workdir / name).read_bytes() for name in ("metrics.jsonl", "summary.json")]


@pytest.mark.slow
def test_a_run_killed_and_typed_again_has_the_numbers_of_one_that_compiled_all(tmp_path):
    cache = tmp_path / "cache"
    finished(typed(tmp_path / "plain", cache, kept=""))
    assert not (cache / "xla").exists()  # the user's own word, here: nowhere
    child = typed(tmp_path / "killed", cache)
    ends = time.monotonic() + HANGS_S
    while not (tmp_path / "killed" / "checkpoints" / "10").is_dir():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < ends
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    files = list((cache / "xla").glob("*train_step*"))
    assert len(files) == 1
    said = finished(typed(tmp_path / "killed", cache))
    assert "cache" not in said
    assert list((cache / "xla").glob("*train_step*")) == files
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "plain")
    # The next start finds damage in the place of all that was kept.
    for n, file in enumerate(sorted((cache / "xla").iterdir())):
        whole = file.read_bytes()
        file.write_bytes((whole[: len(whole) // 2], whole[:50] + bytes(50) + whole[100:])[n % 2])
    said = finished(typed(tmp_path / "damaged", cache))
    assert said.count("Error reading persistent compilation cache entry") == n + 1 >= 2
    assert numbers(tmp_path / "damaged") == numbers(tmp_path / "plain")


def test_a_cache_that_cannot_be_written_stops_no_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "file"))
    compiled.keep()
    assert "every start compiles again" in caplog.text
    assert getattr(jax.config, "jax_compilation_cache_dir", None) is None


@pytest.mark.parametrize("most", [2500, 0])
def test_the_oldest_go_where_there_is_too_much(tmp_path, monkeypatch, most):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "MOST_BYTES", most)
    (tmp_path / "xla").mkdir()
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / "xla" / name).write_bytes(bytes(1000))
        os.utime(tmp_path / "xla" / name, (10**9 - age, 10**9 - age))
    compiled.keep()
    assert {p.name for p in (tmp_path / "xla").iterdir()} == ({"new", "old"} if most else set())
