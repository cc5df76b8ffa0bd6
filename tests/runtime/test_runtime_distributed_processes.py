"""Processes that do not come, fail or die: the others end with one clear error, and do not hang."""

import signal
from pathlib import Path

import pytest
from processes import Processes

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("lonely.py"))
AGAIN = "start all processes again with the same command: it resumes"


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(*args, **more):
        more = {"JAXCOMP_HEARTBEAT_TIMEOUT": 5} | more
        running.append(Processes([SCRIPT, *args], 2, 2, folder=tmp_path, **more))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def together(running):
    running.until(lambda: all("together" in running.text(i) for i in range(2)))


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_is_named_by_the_other(start, dead):
    """By JAX, which misses its heartbeats; that of process 0 is the end of the service itself."""
    running = start("loop")
    together(running)
    running.running[dead].send_signal(signal.SIGKILL)
    assert running.running[1 - dead].wait(60) == 1
    assert running.error(1 - dead).endswith(AGAIN)
    if dead == 0:
        assert "process 0 (" in running.error(1)
    else:
        assert "unhealthy (stopped sending heartbeats):\n1\n" in running.text(0)


def test_an_error_of_one_process_ends_the_others_with_its_words(start):
    running = start("error")
    assert running.wait() == [1, 2]
    assert "the disk is full" in running.error(1)
    assert "process 1 ended: the disk is full" in running.error(0)


def test_an_error_of_process_0_while_it_writes_ends_the_others(start):
    running = start("lead")
    assert running.wait() == [2, 1]
    assert "/nowhere/at/all: No such file" in running.error(0)
    assert "process 0 ended: FileNotFoundError" in running.error(1)
    assert "/nowhere/at/all" in running.error(1)


def test_another_command_is_one_error_on_both(start):
    running = start("loop", each=lambda i: {"LONELY_CONFIG": f"config {i}"})
    assert running.wait() == [2, 2]
    for i in range(2):
        assert "process 1 was started otherwise than process 0" in running.error(i)
        assert f"the config config {i}" in running.error(i)


def test_who_does_not_come_is_named(start):
    """The time-out is long enough for two processes to start on a machine with other work."""
    running = start("loop", JAXCOMP_START_TIMEOUT=20, each=lambda i: {"JAXCOMP_PROCESSES": "3"})
    assert running.wait() == [1, 1]
    for i in range(2):
        assert "Some timed out task names:\n2" in running.text(i)
        assert running.error(i).endswith(AGAIN)


def test_process_0_that_does_not_come_is_named(start):
    running = start("loop", JAXCOMP_START_TIMEOUT=3, each=lambda i: {"JAXCOMP_PROCESS": "1"})
    assert running.running[1].wait(60) == 1
    assert "process 0 (localhost:" in running.error(1)
