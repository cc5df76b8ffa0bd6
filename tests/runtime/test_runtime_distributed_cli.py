"""The command line on two processes: told to stop, killed, and started again, as a user does it."""

import json
import signal
import time

import pytest
from processes import Processes, cli, make_weights, rows

pytestmark = pytest.mark.slow

STEPS = 60
SET = (f"--train.optim.steps={STEPS}", "--train.checkpoint_every=20", "--train.log_every=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return folder, make_weights(folder)


@pytest.fixture
def train(place):
    folder, config = place
    running = []

    def begin(name, *args):
        command = cli("train", f"--config={config}", f"--workdir={folder / name}", *SET, *args)
        running.append(Processes(command, 2, 2, folder=folder, JAXCOMP_HEARTBEAT_TIMEOUT=10))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def checkpoints(workdir):
    found = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(p.name) for p in found if p.name.isdigit())


def steps(workdir):
    return len(rows(workdir)) if (workdir / "metrics.jsonl").exists() else 0


def told_by_lead_alone(running):
    assert "val_loss" in running.text(0)
    other = running.text(1).splitlines()
    assert not [line for line in other if "Gloo" not in line], other


def test_stopped_then_killed_then_finished_is_a_run_never_disturbed(place, train):
    folder, _ = place
    whole, torn = folder / "whole", folder / "torn"
    told_by_lead_alone(train("whole", "--profile=2:4").ok())
    for i in range(2):
        assert list((whole / "profile" / f"process-{i}").rglob("*.xplane.pb"))

    # The one that does not lead is told to stop: both save after the same step.
    first = train("torn", "--profile=2:4")
    first.until(lambda: steps(torn) >= 5)
    first.running[1].send_signal(signal.SIGTERM)
    assert first.wait() == [143, 143]
    assert all("stopped; the same command resumes: jaxcomp train" in first.text(i) for i in (0, 1))
    stopped = checkpoints(torn)[-1]
    assert 5 <= stopped < STEPS
    assert len(rows(torn)) == stopped

    # The one that leads is killed, some steps after the next checkpoint.
    second = train("torn", "--profile=2:4")
    second.until(lambda: steps(torn) >= stopped + 5)
    second.running[0].send_signal(signal.SIGKILL)
    codes = second.wait()
    assert codes == [-signal.SIGKILL, 1]
    assert "process 0 (" in second.error(1)
    assert checkpoints(torn)[-1] < STEPS

    told_by_lead_alone(train("torn", "--profile=2:4").ok())
    one, other = (json.loads((w / "summary.json").read_text()) for w in (whole, torn))
    assert one == other
    assert (whole / "metrics.jsonl").read_bytes() == (torn / "metrics.jsonl").read_bytes()


# A disk of process 1 that takes no file above 20 kB, also of root.
SMALL = """
import os, resource, sys
from jaxcomp.cli import main as cli
if os.environ["JAXCOMP_PROCESS"] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
sys.exit(cli.main())
"""


def test_a_save_that_fails_on_one_process_ends_all_with_one_line_each(place):
    """Orbax alone has them wait for each other ten minutes."""
    folder, config = place
    train = ["train", f"--config={config}", f"--workdir={folder / 'small'}", *SET]
    running = Processes(["-c", SMALL, *train], 2, 2, folder=folder)
    try:
        running.until(lambda: steps(folder / "small") >= 19)
        began = time.monotonic()
        while any(process.poll() is None for process in running.running):
            assert time.monotonic() - began < 60, [running.text(i) for i in (0, 1)]
            time.sleep(0.1)
    finally:
        running.close()
    assert [p.returncode for p in running.running] == [1, 2]
    assert "checkpoints: cannot be written" in running.error(1)
    assert "process 1 ended: " in running.error(0)
    assert not any("Traceback" in running.text(i) for i in (0, 1))
