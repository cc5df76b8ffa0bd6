"""A sweep on two hosts that are one slice: every job on both at the same time, one ledger."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import mesh_of
from processes import Processes, cli, make_weights
from sweep import sweep_stub
from sweep.sweep_stub import workers_of

from jaxcomp.cli import overrides
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import grid, jobs

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("stub_sweep.py"))
CFG = sweep_stub.config(base_seeds=(0,))


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(args, count=2):
        running.append(Processes(args, count, 2, folder=tmp_path, JAXCOMP_START_TIMEOUT=60))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def ledger(workdir):
    found = {}
    for path in sorted((workdir / "ledger").glob("*.json")):
        found[path.stem] = json.loads(path.read_text())
    return found


def test_every_task_runs_on_both_and_is_written_once(start, tmp_path):
    """A job that fails ends the program; started again, it does that one last."""
    work = tmp_path / "w"
    work.mkdir()
    (work / "trouble-toy-s-r4-b0-s0").write_text("fail")
    first = start([SCRIPT, str(work)])
    assert first.wait() == [1, 1], first.text(0) + first.text(1)
    for i in range(2):
        assert "toy-s-r4-b0-s0 failed: ValueError: planted failure" in first.error(i)
        assert "start all processes again with the same command" in first.error(i)
    assert {name: row["status"] for name, row in ledger(work).items()} == {
        "toy-s-r4-b0-s0": "failed"
    }
    assert start([SCRIPT, str(work)]).wait() == [1, 1]
    rows = ledger(work)
    assert len(rows) == 4
    assert rows.pop("toy-s-r4-b0-s0")["status"] == "failed"
    # Two processes, two bases and three jobs that did not fail.
    ran = (work / "ran.txt").read_text().split()
    assert len(ran) == 10
    assert {ran.count(name) for name in ran} == {2}
    sweep_stub.run(CFG, tmp_path / "alone")
    alone = ledger(tmp_path / "alone")
    assert {k: v["metrics"] for k, v in rows.items()} == {k: alone[k]["metrics"] for k in rows}

    (work / "trouble-toy-s-r4-b0-s0").unlink()
    assert start([SCRIPT, str(work)]).wait() == [0, 0]
    assert ledger(work)["toy-s-r4-b0-s0"]["status"] == "done"
    last = start([SCRIPT, str(work)])
    assert last.wait() == [0, 0]
    assert "before=4" in last.text(0)


def test_a_job_that_fails_on_one_process_alone_ends_the_command(start, tmp_path):
    work = tmp_path / "w"
    work.mkdir()
    (work / "alone-toy-s-r4-b0-s0").write_text("")
    running = start([SCRIPT, str(work)])
    assert running.wait() == [1, 1]
    assert "toy-s-r4-b0-s0 failed: ValueError: only here" in running.error(1)
    assert "process 1 ended: toy-s-r4-b0-s0 failed: ValueError: only here" in running.error(0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sweep_that_is_told_to_stop_saves_what_runs(start, tmp_path, count):
    """On one machine two workers run two jobs, and an engine tells them too; of two processes that
    are one run, the one that does not lead is told."""
    work = tmp_path / "w"
    work.mkdir()
    (work / "loop").write_text("")
    running = start([SCRIPT, str(work)], count)
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


def test_a_real_sweep_has_the_rows_of_one_process(start, tmp_path):
    config = make_weights(tmp_path)
    few = [("train.optim.steps", "3"), ("data.eval_passages", "2")]
    typed = [f"--{name}={value}" for name, value in few]
    running = start(cli("sweep", f"--config={config}", f"--workdir={tmp_path / 'w'}", *typed))
    running.ok(200)
    cfg = overrides.load(str(config), few)
    rows = ledger(tmp_path / "w")
    assert rows.keys() == {job.id for job in grid.expand(cfg)}
    assert len(rows) == 2
    with use_mesh(mesh_of((1, 2, 1))):
        for task in jobs.SweepWork().tasks(grid.expand(cfg), tmp_path / "alone"):
            found = jobs._run_job(task, tmp_path / "alone", "", lambda text, share: None)
            row = rows[task.id]["metrics"]
            assert row.keys() == found["metrics"].keys()
            for name, value in found["metrics"].items():
                wanted = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-9)
                assert row[name] == wanted, name
