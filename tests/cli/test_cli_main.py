import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest
from sweep import sweep_stub

from jaxcomp.cli import main, overrides
from jaxcomp.cli.overrides import pairs
from jaxcomp.config import ConfigError
from jaxcomp.sweep import jobs

CONFIG = """
def get_config(arg):
    sizes = {s: {"hidden_size": h} for s, h in (("s", 16), ("m", 32))}
    return {"families": {"toy": sizes}, "sweep": {"ratios": [4, 16], "workers": 2}}
"""


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """--config and --workdir of a sweep whose jobs are stand-ins."""
    monkeypatch.setattr(jobs, "SweepWork", lambda command: sweep_stub.StubWork())
    (tmp_path / "toy.py").write_text(CONFIG)
    return [f"--config={tmp_path}/toy.py", f"--workdir={tmp_path}/w"]


def error(capsys):
    """The one line on stderr."""
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("jaxcomp: ")
    return line


@pytest.mark.parametrize("command", [c.name for c in main.COMMANDS])
def test_help_answers_without_jax(command):
    code = (
        "import sys; from jaxcomp.cli import main as cli\n"
        f"try: cli.main(['{command}', '--help'])\n"
        "finally: assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    using = command in ("demo", "compress", "reconstruct", "ask", "inspect", "export", "select")
    assert ("--config" in done.stdout) != using
    assert ("--run" in done.stdout) == ((using and command != "select") or command == "eval")
    assert ("--workdir" in done.stdout) == (not using and command != "plan")
    # A report is of what was run; everything else that makes something takes any field.
    assert ("--train.optim.lr=3e-4" in done.stdout) == (not using and command != "report")


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: command.name)
def test_help_begins_with_a_sentence_and_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main.main([command.name, "--help"])
    _, sentence, example, *_ = capsys.readouterr().out.split("\n\n")
    assert re.fullmatch(r"[A-Z][^.]*\.", sentence)
    assert example == f"  {command.example}"
    name, *words = shlex.split(example)
    assert (name, words[0]) == ("jaxcomp", command.name)
    flags, rest = main._parser().parse_known_args(words)
    assert flags.command == command
    overrides.load("tiny", pairs(rest))  # every other word is a field of the config


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"jaxcomp {metadata.version('jaxcomp')}\n"


def test_sweep_then_again_then_report(flags, tmp_path, capsys):
    assert main.main(["sweep", *flags]) == 0
    first = (tmp_path / "w/report/results.csv").read_bytes()
    assert "lose faithfulness? Inconclusive. One pretraining seed" in capsys.readouterr().out
    assert main.main(["sweep", *flags]) == 0
    assert "all 4 jobs are done" in capsys.readouterr().out
    (tmp_path / "w/report/results.csv").unlink()
    assert main.main(["report", flags[1]]) == 0
    assert (tmp_path / "w/report/results.csv").read_bytes() == first
    table = tmp_path / "w/report/rows.parquet"
    capsys.readouterr()
    assert main.main(["sweep", flags[0], f"--workdir={tmp_path / 'x'}", f"--reuse={table}"]) == 0
    assert f"reused 4 finished jobs of {table}" in capsys.readouterr().out
    assert (tmp_path / "x/report/results.csv").read_bytes() == first
    # A report of rows that are published needs no run.
    again = ["report", flags[0], f"--workdir={tmp_path / 'y'}", f"--reuse={table}"]
    assert main.main(again) == 0
    assert (tmp_path / "y/report/results.csv").read_bytes() == first
    assert main.main([*again[:1], *again[2:]]) == 2
    assert "report --reuse needs --config" in error(capsys)
    # A single run does not go into the folder of a sweep.
    assert main.main(["train", *flags, "--compressor=toy/s"]) == 2
    assert f"--workdir={tmp_path}/w holds the sweep of {tmp_path}/w/sweep.json" in error(capsys)
    # Another config in the same workdir is refused by its field.
    assert main.main(["sweep", *flags, "--train.optim.lr=0.5"]) == 2
    assert "train.optim.lr was 0.001, now 0.5" in error(capsys)
    assert main.main(["report", flags[1], f"--compare={tmp_path}"]) == 2
    assert "sweep.json" in error(capsys)
    for empty in ("", ","):
        assert main.main(["report", flags[1], f"--compare={empty}"]) == 2
        assert f"--compare={empty} names no folder" in error(capsys)


def test_a_failed_setup_is_exit_code_1_and_shown(flags, tmp_path, capsys):
    (tmp_path / "w").mkdir()
    (tmp_path / "w/trouble-toy-s-r4-b0-s0").write_text("fail")
    assert main.main(["sweep", *flags]) == 1
    assert "failed: toy-s-r4-b0-s0: ValueError: planted failure" in capsys.readouterr().out
    assert main.main(["report", flags[1]]) == 1


def test_list_prints_a_command_for_each_job_and_runs_none(flags, capsys, tmp_path):
    assert main.main(["sweep", *flags, "--list"]) == 0
    rows = [shlex.split(row) for row in capsys.readouterr().out.splitlines()]
    assert not (tmp_path / "w").exists()
    assert len(rows) == 4  # sizes x ratios
    for done, (name, *command) in enumerate(rows[:2], 1):
        assert name == "jaxcomp"
        assert main.main(command) == 0
        assert f"\n{done} job{'s' * (done > 1)} in " in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_say_how_to_resume(flags, capsys, monkeypatch, number, code):
    def interrupted(parsed):
        os.kill(os.getpid(), number)
        for _ in range(1000):  # a handler runs when the main thread next comes to it
            time.sleep(0.01)
        return 0

    command = next(c for c in main.COMMANDS if c.name == "sweep")._replace(run=interrupted)
    monkeypatch.setattr(main, "COMMANDS", (command,))
    # A shell's background job begins with SIGINT ignored.
    at_start = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main.main(["sweep", *flags]) == code
    finally:
        signal.signal(signal.SIGINT, at_start)
    assert f"the same command resumes: jaxcomp sweep {flags[0]}" in error(capsys)
    assert signal.getsignal(signal.SIGTERM) is before


def test_bugs_keep_their_traceback():
    assert main.expected(ValueError("a bug")) is None
    assert main.expected(ConfigError("x")) == "x"
    assert "disk is full" in (main.expected(OSError(28, "No space left on device")) or "")


def test_cards_do_not_name_folders():
    typed = main._typed(["sweep", "--config=configs/tiny.py", "--workdir=/home/me", "--seed=3"])
    assert typed == "jaxcomp sweep --config=configs/tiny.py --seed=3"


def test_a_note_is_said_once_though_a_library_listens_too(monkeypatch, capsys):
    def tell(flags):
        logging.getLogger("jaxcomp.runtime.cache").info("one note")
        return 0

    report = next(c for c in main.COMMANDS if c.name == "report")
    monkeypatch.setattr(main, "COMMANDS", [report._replace(run=tell)])
    listener = logging.StreamHandler()
    logging.getLogger().addHandler(listener)
    try:
        assert main.main(["report"]) == 0
    finally:
        logging.getLogger().removeHandler(listener)
    assert capsys.readouterr().err == "one note\n"
    assert logging.getLogger("jaxcomp").propagate
