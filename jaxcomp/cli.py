"""The commands: `jaxcomp pretrain | train | eval | sweep | report | bench`.

A command is a function of the parsed flags that returns an exit code, listed in `COMMANDS` with the
flags it takes. Rooms that need JAX are imported inside it, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jaxcomp
from jaxcomp import settings
from jaxcomp.config import Config, ConfigError

Flags = argparse.Namespace
FIELDS = """
Any field of the config can be set: --train.optim.lr=3e-4 --data.path=FILE --sweep.ratios=4,16
(see jaxcomp/config.py for all of them). An unknown field is an error that suggests the nearest.
"""
USAGE = 2
FAILED = 1
INTERRUPTED, TERMINATED = 130, 143


class Command(NamedTuple):
    name: str
    help: str
    about: str  # the first paragraphs of its --help
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Flags], int]


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop like Ctrl-C, so that claims are released and workers ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 only on success)."""
    argv = list(sys.argv[1:] if argv is None else argv)
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


# --- commands --------------------------------------------------------------------------------


def pretrain(flags: Flags) -> int:
    """Base models and the decoder of a config, made in the workdir."""
    from jaxcomp.sweep import grid, jobs, runner
    from jaxcomp.sweep.claims import Claims
    from jaxcomp.sweep.ledger import Ledger

    # "decoder" stands where a compressor is named, but is no size of a family.
    only_decoder = ("compressor", "decoder") in flags.overrides
    flags.overrides = [o for o in flags.overrides if o != ("compressor", "decoder")]
    cfg = _config(flags)
    workdir = _workdir(flags, cfg)
    work = jobs.PretrainWork(flags.typed)
    tasks = []
    if cfg.compressor:
        tasks = [jobs.base_task(cfg)]
    else:
        tasks = [jobs.decoder_task(cfg)]
        if not only_decoder:
            every = {job.base: jobs.base_task(job.config) for job in grid.expand(cfg)}
            tasks += every.values()
    todo = [t for t in tasks if not work.ready(t, workdir)]
    if not todo:
        print(f"nothing to do: {', '.join(t.id for t in tasks)} are in {workdir} already")
        return 0
    with Claims(workdir / "claims") as claims:
        failed = runner.run_tasks(
            todo, work, workdir, claims, Ledger(workdir), _workers(flags, cfg), _say
        )
    return FAILED if failed else 0


def train(flags: Flags) -> int:
    """One compressor."""
    from jaxcomp.train import compress

    cfg = _config(flags)
    _needs_compressor(cfg, "train")
    workdir, root = _run_folders(flags, cfg)
    summary = compress.train(cfg, workdir, root=root)
    print(json.dumps(summary, indent=1))
    print(f"next: jaxcomp eval with the same flags; the run is in {workdir}")
    return 0


def evaluate(flags: Flags) -> int:
    """What survived: one finished run on held-out text."""
    from jaxcomp.sweep import jobs
    from jaxcomp.sweep.headlines import headlines
    from jaxcomp.sweep.ledger import write_text

    cfg = _config(flags)
    _needs_compressor(cfg, "eval")
    workdir, root = _run_folders(flags, cfg)
    metrics, _ = jobs.measure(cfg, workdir, root)
    metrics = jobs.finite(metrics)
    write_text(workdir / "eval.json", json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    for head in headlines(cfg):
        value = metrics.get(head.metric)
        shown = "not measurable" if value is None else f"{value:.4f}"
        print(f"{head.label:>26}  {shown:>14}  {head.metric}")
    print(
        f"all {len(metrics)} metrics: {workdir / 'eval.json'}; one line a passage: passages.jsonl"
    )
    return 0


def sweep(flags: Flags) -> int:
    """The whole grid."""
    from jaxcomp.sweep import jobs, runner
    from jaxcomp.sweep.report import report as write_report

    cfg = _config(flags)
    workdir = _workdir(flags, cfg)
    shard = runner.parse_shard(flags.shard)
    summary = runner.run(
        cfg,
        workdir,
        work=jobs.SweepWork(flags.typed),
        shard=shard,
        workers=_workers(flags, cfg),
        reuse=[Path(d) for d in flags.reuse.split(",") if d],
        out=_say,
    )
    page = workdir / "report" / "report.html"
    if not summary.ran and not summary.failed and page.exists():
        print(f"nothing to do: all {summary.before} jobs are done; the report is {page}")
        return 0
    _print_report(write_report(cfg, workdir))
    return FAILED if summary.failed else 0


def report(flags: Flags) -> int:
    """Tables and plots of a sweep, finished or not."""
    from jaxcomp.sweep import ledger
    from jaxcomp.sweep.report import report as write_report

    if not (flags.workdir or flags.config):
        raise ConfigError("report needs --workdir=DIR of a sweep (or --config)")
    workdir = Path(flags.workdir) if flags.workdir else _workdir(flags, _config(flags))
    made_by = workdir / "sweep.json"
    if not made_by.is_file():
        raise ConfigError(f"{workdir}: holds no sweep.json; expected the workdir of a sweep")
    cfg = settings.from_dict(ledger.read(made_by)["config"], where=str(made_by))
    return FAILED if _print_report(write_report(cfg, workdir)).failed else 0


def _print_report(written: Any) -> Any:
    print(written.sentence)
    for job, message in written.failed:
        print(f"failed: {job}: {message}")
    if written.missing:
        some = ", ".join(written.missing[:5]) + (", ..." if len(written.missing) > 5 else "")
        print(f"missing: {len(written.missing)} jobs ({some})")
    print(f"{written.done} jobs in {written.folder / 'report.html'}, report.md and results.csv")
    return written


def bench(flags: Flags) -> int:
    """Rates and ratios of this machine."""
    from jaxcomp.bench import main as measurements

    only = [name for name in flags.only.split(",") if name] or measurements.KINDS
    measurements.bench(_config(flags), only, out=_say)
    return 0


# --- flags -----------------------------------------------------------------------------------


def _config(flags: Flags) -> Config:
    if not flags.config:
        raise ConfigError("--config is missing; try --config=configs/tiny.py")
    return settings.load(flags.config, flags.overrides)


def _workdir(flags: Flags, cfg: Config) -> Path:
    return Path(flags.workdir) if flags.workdir else Path("runs") / cfg.name


def _run_folders(flags: Flags, cfg: Config) -> tuple[Path, Path]:
    """Where a single run is, and where bases made locally are looked for."""
    if flags.workdir:
        return Path(flags.workdir), Path(flags.workdir)
    root = Path("runs") / cfg.name
    name = cfg.compressor.replace("/", "-")
    return root / f"{name}-r{cfg.memory.ratio}-b{cfg.base_seed}-s{cfg.seed}", root


def _needs_compressor(cfg: Config, command: str) -> None:
    if not cfg.compressor:
        known = [f"{f}/{s}" for f, sizes in cfg.families.items() for s in sizes]
        raise ConfigError(
            f"{command} needs --compressor=FAMILY/SIZE; known: {', '.join(known) or 'none'}"
        )


def _workers(flags: Flags, cfg: Config) -> int:
    return cfg.sweep.workers if flags.workers is None else flags.workers


def _typed(argv: Sequence[str]) -> str:
    """The command as typed, for model cards: without folders, which name somebody's machine."""
    kept = [a for a in argv if not a.startswith(("--workdir", "--workers"))]
    return shlex.join(["jaxcomp", *kept])


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
        pretrain,
    ),
    Command(
        "train",
        "train one compressor against the frozen decoder",
        "Trains --compressor=FAMILY/SIZE at --memory.ratio. A killed run is resumed by the same\n"
        "command.",
        _common,
        train,
    ),
    Command(
        "eval",
        "measure what survived in one trained pair",
        "Rebuilds held-out text with the run made by `jaxcomp train` with the same flags, and "
        "writes\neval.json and passages.jsonl beside it.",
        _common,
        evaluate,
    ),
    Command(
        "sweep",
        "run the whole grid: train, evaluate, report",
        "Every family x size x ratio x seed of the config. Finished jobs are kept in "
        "WORKDIR/ledger,\nso the same command resumes after any interruption, retries what "
        "failed, and does nothing\nwhen all is done. The report is WORKDIR/report/report.html.",
        _sweep_flags,
        sweep,
    ),
    Command(
        "report",
        "write tables, plots and the verdict of a sweep",
        "Works on an unfinished sweep too and says what is missing. Only --workdir is needed.",
        _common,
        report,
    ),
    Command(
        "bench",
        "measure rates and ratios of this machine",
        "One table: the training step against plain PyTorch (if that is installed) and where it "
        "spends\nits time, the wait for data, growth of memory, the rate of decoding. Nothing is "
        "kept.\nWhat each number means: docs/bench.md.",
        _bench_flags,
        bench,
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
            epilog=FIELDS,
            formatter_class=form,
            allow_abbrev=False,
        )
        command.flags(sub)
        sub.set_defaults(command=command)
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(message: str, kind: str = "error: ") -> None:
    """One line on stderr, whatever the message held."""
    print(f"jaxcomp: {kind}{' '.join(message.split())}", file=sys.stderr, flush=True)


def _terminated(signum: int, frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
