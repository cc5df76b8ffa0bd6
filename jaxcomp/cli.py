"""The commands: `jaxcomp pretrain | train | eval | sweep | report | bench`.

`COMMANDS` lists them with the flags they take; what they do is in commands.py.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jaxcomp
from jaxcomp import commands
from jaxcomp.allocator import one_arena
from jaxcomp.commands import Flags
from jaxcomp.config import ConfigError

FIELDS = """
Any field of the config can be set: --train.optim.lr=3e-4 --data.path=FILE --sweep.ratios=4,16
(see jaxcomp/config.py for all of them). An unknown field is an error that suggests the nearest.
"""
USAGE = 2
INTERRUPTED, TERMINATED = 130, 143


class Command(NamedTuple):
    name: str
    help: str
    about: str  # the first paragraphs of its --help
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Flags], int]
    epilog: str = FIELDS


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop like Ctrl-C, so that claims are released and workers ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 only on success)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    one_arena()
    parser = _parser()
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        flags, rest = parser.parse_known_args(argv)
        if not hasattr(flags, "command"):
            parser.print_help()
            return USAGE
        flags.overrides = overrides(rest)
        flags.typed = _typed(argv)
        return flags.command.run(flags)
    except KeyboardInterrupt as e:
        _complain(f"stopped; the same command resumes: jaxcomp {shlex.join(argv)}", "")
        return TERMINATED if isinstance(e, Terminated) else INTERRUPTED
    except Exception as e:
        message = expected(e)
        if message is None:
            raise
        _complain(message)
        return USAGE
    finally:
        signal.signal(signal.SIGTERM, before)


def expected(error: Exception) -> str | None:
    """The message of an error that a user can mend; None for a bug, which shows its traceback.

    Expected are the error classes that the rooms of jaxcomp define, and what the operating system
    says about files.
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


def overrides(rest: Sequence[str]) -> list[tuple[str, str]]:
    """`["--a.b=1", "--c", "2"]` -> `[("a.b", "1"), ("c", "2")]`."""
    out: list[tuple[str, str]] = []
    parts = iter(rest)
    for part in parts:
        key, mark, text = part.removeprefix("--").partition("=")
        if not part.startswith("--") or not key:
            raise ConfigError(f"{part!r} is not a flag; expected --field=value")
        if not mark:
            text = next(parts, "--")
            if text.startswith("--"):
                raise ConfigError(f"--{key} has no value; expected --{key}=value")
        out.append((key, text))
    return out


# --- flags -----------------------------------------------------------------------------------


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE[:ARG]", help="a config file, such as configs/tiny.py:full"
    )
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config's name>")


def _parallel(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="local processes (default: sweep.workers; 0: one a core on CPU, else one)",
    )


def _sweep_flags(parser: argparse.ArgumentParser) -> None:
    _parallel(parser)
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="i/n",
        help="run only the i-th of n parts (0 <= i < n), for machines that share the workdir",
    )
    parser.add_argument(
        "--reuse",
        default="",
        metavar="DIR[,DIR]",
        help="take over finished jobs of other sweeps whose config hash is the same",
    )


def _report_flags(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--beside",
        metavar="DIR",
        help="the same sizes swept against a decoder that another reference compressor taught: an "
        "effect of size is claimed only where both show it",
    )


def _bench_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="configs/tiny.py",
        help="the config whose shapes are measured (default: configs/tiny.py)",
    )
    parser.add_argument(
        "--only", default="", metavar="WHAT[,WHAT]", help="step, data, memory, generate"
    )


COMMANDS = (
    Command(
        "pretrain",
        "make base language models and the decoder",
        "Pretrains the language models a config starts from, into WORKDIR/bases and "
        "WORKDIR/decoders:\nall bases of the grid and the decoder, or one with "
        "--compressor=FAMILY/SIZE [--base_seed=N],\nor the decoder alone with "
        "--compressor=decoder. Finished ones are left as they are.",
        _parallel,
        commands.pretrain,
    ),
    Command(
        "train",
        "train one compressor against the frozen decoder",
        "Trains --compressor=FAMILY/SIZE at --memory.ratio. A killed run is resumed by the same\n"
        "command.",
        _common,
        commands.train,
    ),
    Command(
        "eval",
        "measure what survived in one trained pair",
        "Rebuilds held-out text with the run made by `jaxcomp train` with the same flags, and "
        "writes\neval.json and passages.jsonl beside it.",
        _common,
        commands.evaluate,
    ),
    Command(
        "sweep",
        "run the whole grid: train, evaluate, report",
        "Every family x size x ratio x seed of the config. Finished jobs are kept in "
        "WORKDIR/ledger,\nso the same command resumes after any interruption, retries what "
        "failed, and does nothing\nwhen all is done. The report is WORKDIR/report/report.html.",
        _sweep_flags,
        commands.sweep,
    ),
    Command(
        "report",
        "write tables, plots and the verdict of a sweep",
        "Works on an unfinished sweep too and says what is missing. Only --workdir is needed, "
        "neither\nthe data nor the models.",
        _report_flags,
        commands.report,
        "",
    ),
    Command(
        "bench",
        "measure rates and ratios of this machine",
        "One table: the training step against plain PyTorch (if that is installed) and where it "
        "spends\nits time, the wait for data, growth of memory, the rate of decoding. Nothing is "
        "kept.\nWhat each number means: docs/bench.md.",
        _bench_flags,
        commands.bench,
    ),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="jaxcomp", description=jaxcomp.__doc__, formatter_class=form)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.about,
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
    """One line on stderr, whatever the message held."""
    print(f"jaxcomp: {kind}{' '.join(message.split())}", file=sys.stderr, flush=True)


def _terminated(signum: int, frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
