"""The live display, in a pseudo-terminal of its own, and the plain lines that stand for it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from jaxcomp.runtime import live

TESTS = Path(__file__).parents[1]
SWEEP = f"""
import sys; sys.path.insert(0, {str(TESTS / "sweep")!r})
import sweep_stub as t; from pathlib import Path
t.run(t.config(base_seeds=(0,)), Path(sys.argv[1]), 1.2, hear=print, workers=2)
"""
TRAIN = """
import time
from jaxcomp.runtime import live
from jaxcomp.training.metrics import Progress
with live.line("llama/24", 40, "steps", 10) as row:
    progress = Progress(row, 40, 10)
    for step in range(11, 41):
        time.sleep(0.08)
        progress.count(256)
        progress.show(step, 2.5)
        progress.print(step)
"""


def in_terminal(code, *argv, end=None, **env):
    """What a terminal of 120 columns gets from a Python program, and its exit code; `end` is a
    signal that it is sent when it draws."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=given | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env,
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            found += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if end and "━".encode() in found:
            process.send_signal(end)
            end = None
    os.close(ours)
    return found.decode(), process.wait()


def lines(found):
    """What is on the screen at any time, without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", found).replace("\x1b[2K", "\n").splitlines()


def shown(found, pattern):
    return any(re.search(pattern, line) for line in lines(found))


def test_training_shows_what_how_far_loss_rate_and_time_left():
    found, code = in_terminal(TRAIN)
    assert code == 0
    far = r"llama/24 [━╺╸]+ +\d+/40 steps  loss 2\.5000  [\d,]+ tokens/s  \ds left  [\d.]+ steps/s"
    assert shown(found, far)
    # The rate is that of this command, which began at step 10.
    assert 8 < float(re.findall(r"([\d.]+) steps/s", found)[-1]) < 12.6
    assert shown(found, r"^llama/24: step 40/40  loss 2\.5000  [\d,]+ tokens/s  0s left$")
    assert "\x1b[38;5;" in found


def test_a_sweep_shows_a_line_a_worker(tmp_path):
    found, code = in_terminal(SWEEP, tmp_path / "toys")
    assert code == 0
    assert shown(found, r"toys +[━╺╸]+ [1-4]/4 jobs  about \d+s left  [\d.]+ jobs/(s|min)")
    together = r"  (toy-\S+) +[━╺╸]+ 50%  half *\r\n  (toy-\S+) +[━╺╸]+ 50%  half"
    (first, second), *_ = re.findall(together, re.sub(r"\x1b\[[\d;]*m", "", found))
    assert first != second
    assert shown(found, r"^(toys.*)?\[4/4\] \S+ done: fine; about 0s left")


def test_no_colour_means_none():
    found, _ = in_terminal(TRAIN, NO_COLOR="1")
    assert shown(found, r"llama/24 .*40 steps")
    assert not re.search(r"\x1b\[[\d;]*m", found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_of_any_kind_leaves_a_sane_terminal(number):
    found, code = in_terminal(TRAIN, end=number)
    assert code != 0
    # Neither a hidden cursor, nor another screen, nor a mode that somebody would have to reset.
    assert not re.search(r"\x1b\[\?", found)
    assert re.findall(r"\x1b\[([\d;]*)m", found)[-1] == "0"


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1"}])
def test_without_a_terminal_no_control_characters_are_written(tmp_path, env):
    for code in (SWEEP, TRAIN):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "toys")],
            capture_output=True,
            env=dict(os.environ, TERM="xterm-256color", **env),
            check=True,
        )
        assert not re.search(rb"[\x00-\x09\x0b-\x1f]", done.stdout + done.stderr)
        wanted = rb"\[4/4\] \S+ done: fine; " if code is SWEEP else rb"^llama/24: step 40/40  loss"
        assert re.search(wanted, done.stdout + done.stderr)


def test_a_dumb_terminal_gets_plain_lines():
    found, _ = in_terminal(TRAIN, TERM="dumb")
    assert "\x1b" not in found
    assert "llama/24: step 40/40  loss 2.5000" in found


def test_only_process_0_draws(monkeypatch):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert live.drawn()
    monkeypatch.setattr(live.distributed, "is_lead", lambda: False)
    assert not live.drawn()


def test_a_phase_reports_what_it_does_how_far_it_is_and_when_it_will_end(monkeypatch, capsys):
    with live.phase("quick"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(live, "FIRST_S", 0.02)
    monkeypatch.setattr(live, "EVERY_S", 100)  # a parent draws: it is told every FIRST_S
    said = []
    with live.reported_to(said.append):
        with live.phase("cutting", 200, "blocks") as progress, live.line("a row"):
            progress.done = 50
            time.sleep(0.2)
            with live.phase("inner"):
                time.sleep(0.1)
        count = len(said)
        assert sum(one.startswith("cutting") for one in said) > 1
        time.sleep(0.1)
        assert len(said) == count
    wanted = r"cutting: 50 of 200 blocks \(25%\), 0 s, [\d,.e+]+ a second, about \d s left"
    assert re.fullmatch(wanted, said[0])
    assert said[-1].startswith("inner")
    with live.phase("reading a.jsonl", unit="documents"):
        time.sleep(0.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcomp: reading a.jsonl: 0 documents, 0 s\n")
