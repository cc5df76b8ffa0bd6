"""Processes that do not come, fail or die: the others end with one clear error, and do not hang."""

import signal
import time
from pathlib import Path

import pytest
from processes import Processes

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("lonely.py"))


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(*args, **more):
        running.append(Processes([SCRIPT, *args], 2, 2, folder=tmp_path, **more))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def together(running):
    running.until(lambda: all("together" in running.text(i) for i in range(2)))


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_is_named_by_the_other(start, dead):
    running = start("loop")
    together(running)
    running.running[dead].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert running.running[1 - dead].wait(30) == 1
    assert time.monotonic() - begin < 15
    said = running.error(1 - dead)
    assert f"process {dead} (" in said
    assert "died or cannot be reached" in said
    assert said.endswith("start all processes again with the same command: it resumes")


def test_an_error_of_one_process_ends_the_others_with_its_words(start):
    running = start("error")
    assert running.wait() == [1, 2]
    assert "the disk is full" in running.error(1)
    assert "process 1 (" in running.error(0)
    assert "ended: the disk is full" in running.error(0)


def test_an_error_of_process_0_while_it_writes_ends_the_others(start):
    running = start("lead")
    assert running.wait() == [2, 1]
    assert "/nowhere/at/all: No such file" in running.error(0)
    assert "process 0 (" in running.error(1)
    assert "/nowhere/at/all" in running.error(1)


def test_another_version_on_one_host_is_one_error_on_both(start, tmp_path):
    about = tmp_path / "other" / "jaxcomp-9.9.9.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: jaxcomp\nVersion: 9.9.9\n")
    running = start("loop", each=lambda i: {"PYTHONPATH": str(tmp_path / "other")} if i else {})
    assert running.wait() == [2, 2]
    for i in range(2):
        assert "has jaxcomp 9.9.9, process 0" in running.error(i)


def test_who_does_not_come_is_named(start):
    running = start("loop", JAXCOMP_START_TIMEOUT=2, each=lambda i: {"JAXCOMP_PROCESSES": "3"})
    assert running.wait() == [2, 2]
    for i in range(2):
        assert "process 2 of 3 did not start within 2 s" in running.error(i)
