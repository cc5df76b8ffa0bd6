"""The command line: parsing, exit codes, and messages of errors that a user can fix.

Which commands there are, and their flags: the files of `PARTS`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import locale
import logging
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from jaxcomp.cli import demo, evaluate, inference, selecting, sweep, train
from jaxcomp.cli.overrides import pairs
from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed
from jaxcomp.runtime.allocator import one_arena
from jaxcomp.runtime.preemption import Terminated, on_sigterm

ABOUT = "Train, evaluate and inspect soft context compressors in JAX."
USAGE = 2
INTERRUPTED, TERMINATED, CUT = 130, 143, 141  # as a shell reports SIGINT, SIGTERM and SIGPIPE
LONGEST = 2000  # characters of an error's line


PARTS = (demo, train, sweep, evaluate, inference, selecting)
COMMANDS = tuple(command for part in PARTS for command in part.COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 only on success)."""
    if locale.getencoding().lower() != "utf-8":  # files are UTF-8 whatever the terminal is
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        os.environ["PYTHONUTF8"] = "1"  # of worker processes
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack ≤, × or a text's letters
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_cut():
            raise
        return CUT


def _main(argv: list[str]) -> int:
    one_arena()
    parser = _parser()
    before, notes = signal.signal(signal.SIGTERM, on_sigterm), _notes()
    try:
        for text in argv:
            if not text.isascii() and "\\udc" in ascii(text):
                raise ConfigError(
                    f"{text!r} is not text in this terminal's encoding, "
                    f"{sys.getfilesystemencoding()}; expected UTF-8 (LC_ALL=C.UTF-8)"
                )
        flags, rest = parser.parse_known_args(argv)
        if not hasattr(flags, "command"):
            parser.print_help()
            return USAGE
        _need_home()
        flags.overrides = pairs(rest)
        flags.typed, flags.argv = _typed(argv), argv
        if flags.command.processes == "one":
            distributed.refuse_several(flags.command.name)
        code = flags.command.run(flags)
        distributed.finish()
        return code
    except KeyboardInterrupt as e:
        _complain(f"stopped; the same command resumes: jaxcomp {shlex.join(argv)}", "")
        code = TERMINATED if isinstance(e, Terminated) else INTERRUPTED
        distributed.leave(code, "a stop was requested")
        return code
    except Exception as e:
        if isinstance(e, BrokenPipeError) and _output_is_cut():
            distributed.leave(CUT, "what read its output has ended")
            return CUT
        return _failed(e)
    finally:
        signal.signal(signal.SIGTERM, before)
        logger = logging.getLogger("jaxcomp")
        logger.removeHandler(notes)
        logger.propagate = True


def _need_home() -> None:
    """Many a library looks for a home folder. Raises ConfigError where there is none."""
    if os.path.expanduser("~") == "~":
        cache = os.environ.get("JAXCOMP_CACHE")
        if not cache:
            raise ConfigError(
                "no home folder: HOME is not set, and this user has no entry in the passwd file; "
                "set HOME, or JAXCOMP_CACHE, to a folder that may be written"
            )
        os.environ["HOME"] = os.path.abspath(cache)


def _output_is_cut() -> bool:
    """Has the reader of the output ended (`| head`)? What is yet to be written is dropped then."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(io.UnsupportedOperation):  # one without a file below
            watch = select.poll()
            watch.register(stream.fileno(), 0)  # which reports errors alone
            if watch.poll(0):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                found = True
    return found


class _Notes(logging.Handler):
    """To the standard error of the moment: that of a live display puts lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _notes() -> logging.Handler:
    """Brings what jaxcomp logs (how far a long preparation is, among others) to standard error."""
    notes = _Notes()
    notes.addFilter(lambda one: distributed.is_lead() or one.levelno > logging.INFO)
    logger = logging.getLogger("jaxcomp")
    logger.setLevel(logging.INFO)
    logger.addHandler(notes)
    logger.propagate = False  # a library's handler on the root logger would say it again
    return notes


def _failed(error: Exception) -> int:
    """The exit code, after the one line of an expected error; a bug is raised again."""
    distributed.wait_if_lost(error)
    message = expected(error)
    if message is None:
        if distributed.count() > 1:
            traceback.print_exception(error)
            distributed.leave(distributed.LOST, f"{type(error).__name__}: {error}")
        raise error
    code = distributed.LOST if isinstance(error, distributed.Ended) else USAGE
    _complain(message)
    distributed.leave(code, message)
    return code


def expected(error: Exception) -> str | None:
    """The message of an error that a user can fix; None for a bug, which shows its traceback.

    Expected are the error classes that the packages of jaxcomp define, and what the operating
    system says about files.
    """
    own = type(error).__module__.split(".")[0] == "jaxcomp"
    if own and isinstance(error, (ValueError, RuntimeError)):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the workdir"
            return f"the disk is full (writing {where}): free some space, run the same again"
        return f"{error.filename or 'file'}: {error.strerror or error}"
    return None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="jaxcomp", description=ABOUT, formatter_class=form)
    parser.add_argument(
        "--version", action="version", version=f"jaxcomp {metadata.version('jaxcomp')}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.\n\n  {command.example}\n\n"
            f"{command.about}",
            epilog=command.epilog,
            formatter_class=form,
            allow_abbrev=False,
        )
        command.flags(sub)
        sub.set_defaults(command=command)
    return parser


def _typed(argv: Sequence[str]) -> str:
    """The command as typed, for model cards: without folders, which name somebody's machine."""
    kept = [a for a in argv if not a.startswith(("--workdir", "--workers"))]
    return shlex.join(["jaxcomp", *kept])


def _complain(message: str, kind: str = "error: ") -> None:
    """One line on stderr, whatever the message held: a name in a damaged file may be endless."""
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"jaxcomp: {kind}{line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
