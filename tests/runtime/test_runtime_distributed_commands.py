"""Several processes on this machine: told to stop, killed, failing; one run and one sweep."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import mesh_of
from processes import SHORT, Processes, rows, typed
from sweep import sweep_stub
from sweep.sweep_stub import workers_of

from jaxcomp.cli import overrides
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import grid, jobs

pytestmark = pytest.mark.slow

LONELY, SWEEP = (str(Path(__file__).with_name(f)) for f in ("lonely.py", "stub_sweep.py"))
AGAIN = "start all processes again with the same command: it resumes"
CFG = sweep_stub.config(base_seeds=(0,))
STEPS = 60
RUN = {
    "compressor": "llama/24", "train.optim.steps": STEPS, "train.checkpoint_every": 20,
    "train.log_every": 1,
}  # fmt: skip
# A disk of process 1 that takes no file above 20 kB, also of root.
SMALL = """
import os, resource, sys
from jaxcomp.cli import main as cli
if os.environ["JAXCOMP_PROCESS"] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
sys.exit(cli.main())
"""


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(*args, count=2, **more):
        more = {"JAXCOMP_HEARTBEAT_TIMEOUT": 10, "JAXCOMP_START_TIMEOUT": 60} | more
        running.append(Processes(args, count, 2, folder=tmp_path, **more))
        return running[-1]

    yield begin
    for one in running:
        one.close()


# --- processes that do not come, fail or die -----------------------------------------------------


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_is_named_by_the_other(start, dead):
    """By JAX, which misses its heartbeats; that of process 0 is the end of the service itself."""
    running = start(LONELY, "loop", JAXCOMP_HEARTBEAT_TIMEOUT=5)
    running.until(lambda: all("together" in running.text(i) for i in range(2)))
    running.running[dead].send_signal(signal.SIGKILL)
    assert running.running[1 - dead].wait(60) == 1
    assert running.error(1 - dead).endswith(AGAIN)
    if dead == 0:
        assert "process 0 (" in running.error(1)
    else:
        assert "unhealthy (stopped sending heartbeats):\n1\n" in running.text(0)


@pytest.mark.parametrize(
    ("mode", "codes", "failed", "words"),
    [
        ("error", [1, 2], 1, "the disk is full"),
        ("lead", [2, 1], 0, "/nowhere/at/all"),  # while the others wait for what it writes
    ],
)
def test_an_error_of_one_process_ends_the_others_with_its_words(start, mode, codes, failed, words):
    running = start(LONELY, mode)
    assert running.wait() == codes
    assert words in running.error(failed)
    said = running.error(1 - failed)
    assert f"process {failed} ended: " in said
    assert words in said


def test_another_command_is_one_error_on_both(start):
    running = start(LONELY, "loop", each=lambda i: {"LONELY_CONFIG": f"config {i}"})
    assert running.wait() == [2, 2]
    for i in range(2):
        assert "process 1 was started otherwise than process 0" in running.error(i)
        assert f"the config config {i}" in running.error(i)


def test_who_does_not_come_is_named(start):
    """The time-out is long enough for two processes to start on a machine with other work."""
    more = {"JAXCOMP_START_TIMEOUT": 20, "each": lambda i: {"JAXCOMP_PROCESSES": "3"}}
    running = start(LONELY, "loop", **more)
    assert running.wait() == [1, 1]
    for i in range(2):
        assert "Some timed out task names:\n2" in running.text(i)
        assert running.error(i).endswith(AGAIN)
    more = {"JAXCOMP_START_TIMEOUT": 3, "each": lambda i: {"JAXCOMP_PROCESS": "1"}}
    running = start(LONELY, "loop", **more)
    assert running.running[1].wait(60) == 1
    assert "process 0 (localhost:" in running.error(1)


# --- a run ---------------------------------------------------------------------------------------


def checkpoints(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def steps(workdir):
    return len(rows(workdir)) if (workdir / "metrics.jsonl").exists() else 0


def told_by_lead_alone(running):
    assert "val_loss" in running.text(0)
    other = running.text(1).splitlines()
    assert not [line for line in other if "Gloo" not in line], other


def test_stopped_then_killed_then_finished_is_a_run_never_disturbed(start, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"

    def train(workdir):
        return start(*typed("train", workdir, **RUN, profile="2:4"))

    told_by_lead_alone(train(whole).ok())
    for i in range(2):
        assert list((whole / "profile" / f"process-{i}").rglob("*.xplane.pb"))

    # The one that does not lead is told to stop: both save after the same step.
    first = train(torn)
    first.until(lambda: steps(torn) >= 5)
    first.running[1].send_signal(signal.SIGTERM)
    assert first.wait() == [143, 143]
    assert all("stopped; the same command resumes: jaxcomp train" in first.text(i) for i in (0, 1))
    stopped = checkpoints(torn)[-1]
    assert 5 <= stopped < STEPS
    assert len(rows(torn)) == stopped

    # The one that leads is killed, some steps after the next checkpoint.
    second = train(torn)
    second.until(lambda: steps(torn) >= stopped + 5)
    second.running[0].send_signal(signal.SIGKILL)
    assert second.wait() == [-signal.SIGKILL, 1]
    assert "process 0 (" in second.error(1)
    assert checkpoints(torn)[-1] < STEPS

    told_by_lead_alone(train(torn).ok())
    for name in ("summary.json", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (torn / name).read_bytes()


def test_a_save_that_fails_on_one_process_ends_all_with_one_line_each(start, tmp_path):
    """Orbax alone has them wait for each other ten minutes."""
    place = tmp_path / "small"
    running = start("-c", SMALL, *typed("train", place, **RUN)[2:])
    running.until(lambda: steps(place) >= 19)
    assert running.wait(60) == [1, 2]
    assert "checkpoints: cannot be written" in running.error(1)
    assert "process 1 ended: " in running.error(0)
    assert not any("Traceback" in running.text(i) for i in (0, 1))


# --- a sweep on two hosts that are one slice -----------------------------------------------------


@pytest.fixture
def work(tmp_path):
    (tmp_path / "w").mkdir()
    return tmp_path / "w"


def ledger(workdir):
    return {path.stem: json.loads(path.read_text()) for path in (workdir / "ledger").glob("*.json")}


def test_every_task_runs_on_both_and_is_written_once(start, work):
    """A job that fails ends the program; started again, it does that one last."""
    name = "toy-s-r4-b0-s0"
    (work / f"trouble-{name}").write_text("fail")
    first = start(SWEEP, str(work))
    assert first.wait() == [1, 1], first.text(0) + first.text(1)
    for i in range(2):
        assert f"{name} failed: ValueError: planted failure" in first.error(i)
        assert "start all processes again with the same command" in first.error(i)
    assert {name: row["status"] for name, row in ledger(work).items()} == {name: "failed"}
    assert start(SWEEP, str(work)).wait() == [1, 1]
    found = ledger(work)
    assert len(found) == 4
    assert found.pop(name)["status"] == "failed"
    # Two processes, two bases and three jobs that did not fail.
    ran = (work / "ran.txt").read_text().split()
    assert len(ran) == 10
    assert {ran.count(each) for each in ran} == {2}
    sweep_stub.run(CFG, work / "alone")
    alone = ledger(work / "alone")
    assert {k: v["metrics"] for k, v in found.items()} == {k: alone[k]["metrics"] for k in found}

    (work / f"trouble-{name}").unlink()
    assert start(SWEEP, str(work)).wait() == [0, 0]
    assert ledger(work)[name]["status"] == "done"
    last = start(SWEEP, str(work))
    assert last.wait() == [0, 0]
    assert "before=4" in last.text(0)


def test_a_job_that_fails_on_one_process_alone_ends_the_command(start, work):
    (work / "alone-toy-s-r4-b0-s0").write_text("")
    running = start(SWEEP, str(work))
    assert running.wait() == [1, 1]
    assert "toy-s-r4-b0-s0 failed: ValueError: only here" in running.error(1)
    assert "process 1 ended: toy-s-r4-b0-s0 failed: ValueError: only here" in running.error(0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sweep_that_is_told_to_stop_saves_what_runs(start, work, count):
    """On one machine two workers run two jobs, and an engine tells them too; of two processes that
    are one run, the one that does not lead is told."""
    (work / "loop").write_text("")
    running = start(SWEEP, str(work), count=count)
    running.until(lambda: len(list(work.glob("looping-*"))) == 2)
    last = running.running[-1]
    for worker in workers_of(last.pid):
        os.kill(worker, signal.SIGTERM)
    last.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert running.wait() == [143] * count, running.text(0)
    assert time.monotonic() - begin < 20
    saved = {path.name: int(path.read_text()) for path in work.glob("saved-*")}
    assert saved.keys() == {p.name.replace("looping", "saved") for p in work.glob("looping-*")}
    assert len(saved) == 2
    if count == 2:
        assert len(set(saved.values())) == 1
    assert not [row for row in ledger(work).values() if row["status"] == "failed"]


def test_a_real_sweep_has_the_rows_of_one_process(start, work, tmp_path):
    grid_of = {"sizes": "24", "families": "llama", "ratios": "16", "seeds": "0,1", "lr_grid": ""}
    few = {f"sweep.{name}": value for name, value in grid_of.items()}
    few |= {"sweep.workers": "1", "train.optim.steps": "3"}
    start(*typed("sweep", work, **few)).ok(200)
    cfg = overrides.load("configs/tiny.py", list((SHORT | few).items()))
    found = ledger(work)
    assert found.keys() == {job.id for job in grid.expand(cfg)}
    assert len(found) == 2
    with use_mesh(mesh_of((1, 2, 1))):
        for task in jobs.SweepWork().tasks(grid.expand(cfg), tmp_path / "alone"):
            alone = jobs._run_job(task, tmp_path / "alone", "", lambda text, share: None)
            row = found[task.id]["metrics"]
            assert row.keys() == alone["metrics"].keys()
            for name, value in alone["metrics"].items():
                wanted = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-9)
                assert row[name] == wanted, name
