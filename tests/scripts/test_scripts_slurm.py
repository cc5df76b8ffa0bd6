"""slurm.sbatch, with stubs of srun and scontrol. Real SLURM: docs/how-to/run-on-slurm.md."""

import os
import signal
import time

import pytest
from conftest import HANGS_S
from scripts_stub import Stubs, words

JOB = ("jaxcomp", "sweep", "--note=a b")
ARRAY = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}


def slurm(tmp_path, *args, srun="", scancel="", **env):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/jaxcomp").touch(0o755)
    stubs = Stubs(tmp_path, srun=srun, scontrol="", scancel=scancel)
    own = {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(tmp_path)}
    return stubs, args, own | env


def run(tmp_path, *args, **more):
    stubs, args, env = slurm(tmp_path, *args, **more)
    return stubs.run("slurm.sbatch", *args, **env)


def test_runs_the_command_once_per_task(tmp_path):
    done = run(tmp_path, *JOB)
    ((name, *flags),) = done.calls
    assert (done.code, name, flags[-3:]) == (0, "srun", list(JOB))
    assert "--gpu-bind=none" in flags


@pytest.mark.parametrize(("code", "queued"), [(143, True), (3, False), (1, False)])
def test_queues_again_what_saved_and_stopped_and_nothing_else(tmp_path, code, queued):
    done = run(tmp_path, *JOB, srun=f"exit {code}")
    assert (["scontrol", "requeue", "42"] in done.calls) is queued
    assert done.code == (0 if queued else code)


@pytest.mark.parametrize("cancelled", [False, True])
def test_sigterm_reaches_the_tasks_and_the_job_is_queued_again(tmp_path, cancelled):
    """srun would kill its tasks at a SIGTERM, so it goes to them by scancel; to those of a job that
    the user has cancelled it goes from SLURM, and scancel fails."""
    saves = "trap 'sleep 0.5; exit 143' TERM; echo $$ >srun.pid; while :; do sleep 0.05; done"
    scancel = "kill -TERM $(<srun.pid)" + ("; exit 1" if cancelled else "")
    stubs, args, env = slurm(tmp_path, *JOB, srun=saves, scancel=scancel)
    process = stubs.popen("slurm.sbatch", *args, **env)
    pid, end = tmp_path / "srun.pid", time.monotonic() + HANGS_S
    while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == (143 if cancelled else 0), err
    calls = stubs.calls()[1:]
    assert calls[0] == ["scancel", "--signal=TERM", "42"]
    assert calls[1:] == ([] if cancelled else [["scontrol", "requeue", "42"]])


def test_an_array_hands_each_job_its_index(tmp_path):
    (call,) = run(tmp_path, *JOB, "--shard=%a/4", **ARRAY).calls
    assert call[-1] == "--shard=2/4"


def test_dry_run(tmp_path):
    done = run(tmp_path, "--dry-run", *JOB, SLURM_JOB_ID="")
    assert done.calls == []
    assert words(done.out.strip())[-3:] == list(JOB)


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        (("--nodes=2", *JOB), {}, ["--nodes=2", "flags of sbatch come before"]),
        (("--dry-run",), {}, ["no command"]),
        (JOB, {"SLURM_JOB_ID": ""}, ["not inside a SLURM job"]),
        (JOB, ARRAY, ["the same", "--shard=%a/4"]),
        ((*JOB, "--shard=%a/4"), {}, ["no array", "--array=0-3"]),
        (JOB, {"SLURM_SUBMIT_DIR": "/"}, ["no .venv/bin/jaxcomp in /", "uv sync"]),
    ],
)
def test_wrong_arguments_are_one_sentence_before_any_call(tmp_path, args, env, expected):
    done = run(tmp_path, *args, **env)
    assert (done.code, done.out, done.calls) == (2, "", [])
    (line,) = done.err.splitlines()
    assert all(w in line for w in expected), line
