"""A sweep on two hosts that are one slice: every job on both at the same time, one ledger."""

import json
import signal
import time
from pathlib import Path

import pytest
from conftest import mesh_of
from processes import Processes, cli, make_weights
from sweep import sweep_stub

from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import grid, hosts, jobs

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
    work = tmp_path / "w"
    work.mkdir()
    (work / "trouble-toy-s-r16-b0-s0").write_text("fail")
    first = start([SCRIPT, str(work)])
    assert first.wait() == [1, 0], first.text(0) + first.text(1)
    rows = ledger(work)
    failed = rows.pop("toy-s-r16-b0-s0")
    assert failed["status"] == "failed"
    assert "planted failure" in failed["error"]
    # The others went on. Two processes, two bases and three jobs that did not fail.
    ran = (work / "ran.txt").read_text().split()
    assert len(ran) == 10
    assert {ran.count(name) for name in ran} == {2}
    sweep_stub.run(CFG, tmp_path / "alone")
    alone = ledger(tmp_path / "alone")
    assert {k: v["metrics"] for k, v in rows.items()} == {k: alone[k]["metrics"] for k in rows}

    # The same command: what failed is done; one more: nothing is left, and nobody waits.
    (work / "trouble-toy-s-r16-b0-s0").unlink()
    assert start([SCRIPT, str(work)]).wait() == [0, 0]
    assert ledger(work)["toy-s-r16-b0-s0"]["status"] == "done"
    last = start([SCRIPT, str(work)])
    assert last.wait() == [0, 0]
    assert "before=4" in last.text(0)
    assert not list((work / "claims").glob("*.lock"))


def test_a_job_that_fails_on_one_host_alone_ends_the_command(start, tmp_path):
    work = tmp_path / "w"
    work.mkdir()
    (work / "alone-toy-s-r4-b0-s0").write_text("")
    running = start([SCRIPT, str(work)])
    codes = running.wait()
    assert 0 not in codes
    said = running.error(0)
    assert "toy-s-r4-b0-s0 failed on process 1 alone: ValueError: only here" in said
    assert said.endswith("start all processes again with the same command: it resumes")


@pytest.mark.slow
def test_a_save_that_fails_ends_the_command_with_its_error(start, tmp_path):
    """Orbax on the other process would wait ten minutes for it."""
    config = make_weights(tmp_path)
    running = start([str(Path(__file__).with_name("vanishing_sweep.py")), config, tmp_path / "w"])
    assert 0 not in running.wait()
    said = running.error(0)
    assert "toy-s-r4-b0-s0 failed on process 0 alone" in said
    assert str(tmp_path / "w/jobs/toy-s-r4-b0-s0/checkpoints") in said
    assert "Traceback" not in running.text(0) + running.text(1)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sweep_that_is_told_to_stop_saves_what_runs(start, tmp_path, count):
    """On one machine two workers run two jobs; on two hosts, the one that only follows is told."""
    work = tmp_path / "w"
    work.mkdir()
    (work / "loop").write_text("")
    running = start([SCRIPT, str(work)], count)
    running.until(lambda: len(list(work.glob("looping-*"))) == 2)
    running.running[-1].send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert running.wait() == [143] * count, running.text(0)
    assert time.monotonic() - begin < 20
    saved = {path.name: int(path.read_text()) for path in work.glob("saved-*")}
    assert saved.keys() == {p.name.replace("looping", "saved") for p in work.glob("looping-*")}
    assert len(saved) == 2
    if count == 2:
        assert len(set(saved.values())) == 1
    assert not list((work / "claims").glob("*.lock"))
    assert not [row for row in ledger(work).values() if row["status"] == "failed"]


def test_several_workers_of_several_hosts_are_refused(monkeypatch, tmp_path):
    for name, value in (("PROCESSES", "2"), ("PROCESS", "0")):
        monkeypatch.setenv(f"JAXCOMP_{name}", value)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    with pytest.raises(ConfigError, match="--workers=2, but the 2 processes of a cluster run one"):
        hosts.joined([], CFG, sweep_stub.StubWork(), tmp_path, 2).__enter__()


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
            found = jobs._run_job(task, tmp_path / "alone", lambda text, share: None)
            row = rows[task.id]["metrics"]
            assert row.keys() == found["metrics"].keys()
            for name, value in found["metrics"].items():
                wanted = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-9)
                assert row[name] == wanted, name
