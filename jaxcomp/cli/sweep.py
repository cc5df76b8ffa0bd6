"""`jaxcomp sweep`, `report` and `plan`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from jaxcomp.cli import common
from jaxcomp.cli.common import FAILED, Command, Flags
from jaxcomp.cli.overrides import number
from jaxcomp.config import Config, ConfigError
from jaxcomp.runtime import distributed, paths
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.plugins import load_plugins


def _sweep_flags(parser: argparse.ArgumentParser) -> None:
    common.parallel_flags(parser)
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="i/n",
        help="run only the i-th of n parts (0 <= i < n), for machines that share the workdir",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print one command a job and run none, for GNU parallel and job arrays; they may run "
        "in any order, at once, and twice. What has to be pretrained first is made by the one that "
        "needs it first; on the same machine the others wait for it, other machines make their own "
        "(run `jaxcomp pretrain` first to make it once)",
    )
    _reuse_flag(parser)


def _reuse_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reuse",
        default="",
        metavar="PLACE[,PLACE]",
        help="take over finished jobs with the same config hash; PLACE is a sweep's workdir, its "
        "report/rows.parquet, or a folder of such tables",
    )


def _report_flags(parser: argparse.ArgumentParser) -> None:
    common.common_flags(parser)
    _reuse_flag(parser)
    parser.add_argument(
        "--compare",
        metavar="DIR[,DIR]",
        action="append",
        default=[],
        help="the same sizes swept against another decoder: an effect of size is claimed only "
        "where both show it; or at another strength of the prior, or from bases of another text: "
        "does that change what size does? Of the people world: any other arm "
        "(docs/how-to/compare-sweeps.md)",
    )


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="paper",
        help="default: paper, the paper's 27 setups",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="SLICE[,SLICE]",
        help="v5e:4x4, v5p:4x4x4, v6e:8x8, ... (chips along each axis) or h100:8 (lower bounds "
        "only: it is not compiled); of several, each setup takes the first that holds it",
    )
    parser.add_argument(
        "--rate",
        type=number(0, kind=float),
        metavar="USD",
        help="price of a chip's hour (default: a list price)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write the table there too (Markdown), and a page with figures beside it (.html)",
    )


def sweep(flags: Flags) -> int:
    from jaxcomp.sweep import jobs, runner

    cfg = common.config_of(flags)
    if flags.list:
        print("\n".join(_commands(cfg, flags)))
        return 0
    common.check_writable(flags)
    workdir = common.workdir_of(flags, cfg)
    shard = runner.parse_shard(flags.shard)
    common.together(flags, cfg)
    summary = runner.run(
        cfg,
        workdir,
        work=jobs.SweepWork(flags.typed),
        shard=shard,
        workers=common.workers_of(flags, cfg),
        reuse=_places_of(flags.reuse),
        out=common.say,
    )
    return distributed.by_lead(lambda: _reported(cfg, workdir, summary))


def _reported(cfg: Config, workdir: Path, summary: Any) -> int:
    """The report, drawn again also where nothing has run: jaxcomp may be newer than the page.
    Returns the exit code."""
    if not summary.ran and not summary.failed:
        print(f"all {summary.before} jobs are done; the report is drawn again")
    from jaxcomp.analysis.report import report as write_report  # loads SciPy and JAX

    _print_report(write_report(cfg, workdir))
    return FAILED if summary.failed else 0


def _commands(cfg: Config, flags: Flags) -> list[str]:
    """A job is the only one of its shard where there are as many shards as jobs."""
    from jaxcomp.sweep import grid

    if flags.shard != "0/1":
        raise ConfigError(f"--shard={flags.shard} with --list, which gives every job its own shard")
    n, typed = len(grid.expand(cfg)), [word for word in flags.argv if word != "--list"]
    return [shlex.join(["jaxcomp", *typed, f"--shard={i}/{n}"]) for i in range(n)]


def report(flags: Flags) -> int:
    from jaxcomp.analysis.report import report as write_report
    from jaxcomp.sweep import grid, rows, store

    if flags.overrides:
        raise ConfigError(
            f"report takes no fields of a config (found --{flags.overrides[0][0]}): it reports on "
            "what a sweep has done"
        )
    if not (flags.workdir or flags.config):
        raise ConfigError("report needs --workdir=DIR of a sweep (or --config)")
    asked = common.config_of(flags) if flags.config else None
    if flags.reuse and asked is None:
        raise ConfigError("report --reuse needs --config=FILE, whose jobs are taken over")
    common.check_writable(flags)
    workdir = paths.path(flags.workdir) if asked is None else common.workdir_of(flags, asked)
    if flags.reuse and asked is not None:
        store.Ledger(workdir).check(asked)
        found = rows.finished(grid.expand(asked), _places_of(flags.reuse))
        store.Ledger(workdir).open(asked)
        store.Ledger(workdir).reuse(found)
    cfg = _made_by(workdir)
    if asked is not None:
        store.Ledger(workdir).check(asked)
    others = [paths.path(place) for given in flags.compare for place in _places(given)]
    written = write_report(cfg, workdir, [(_made_by(other), other) for other in others])
    return FAILED if _print_report(written).failed else 0


def _places_of(given: str) -> list[Path]:
    return [paths.path(place) for place in given.split(",") if place]


def _places(given: str) -> list[str]:
    """`A,B` as two folders, unless that is the name of one (a config's argument holds commas)."""
    places = [x for x in given.split(",") if x]
    if not places:
        raise ConfigError(
            f"--compare={given} names no folder; expected the workdir of a sweep, or leave it out"
        )
    return [given] if paths.path(given).exists() else places


def _made_by(workdir: Path) -> Config:
    """The config of the sweep whose workdir it is."""
    from jaxcomp.sweep import store

    path = workdir / "sweep.json"
    if not path.is_file():
        raise ConfigError(f"{workdir}: holds no sweep.json; expected the workdir of a sweep")
    return load_plugins(from_dict(store.made_by(path)["config"], where=str(path)))


def _print_report(written: Any) -> Any:
    from jaxcomp.analysis.tables import counted

    print(written.sentence)
    for job, message in written.failed:
        print(f"failed: {job}: {message}")
    if written.missing:
        some = ", ".join(written.missing[:5]) + (", ..." if len(written.missing) > 5 else "")
        print(f"missing: {counted(len(written.missing), 'job')} ({some})")
    done = counted(written.done, "job")
    print(f"{done} in {written.folder / 'report.html'}, report.md and results.csv")
    return written


def plan(flags: Flags) -> int:
    from jaxcomp.analysis import plan_page
    from jaxcomp.sweep.plan import main

    names = [name for name in flags.topology.split(",") if name]
    if not names:
        raise ConfigError(
            "--topology names no slice; expected one or more, as in v5e:4x4,v5p:4x4x4"
        )
    if flags.out and flags.out.endswith(".html"):
        raise ConfigError(
            f"--out={flags.out}: expected a Markdown file, such as plan.md; the page is written "
            "beside it"
        )
    rows = main.plan(common.config_of(flags), names, out=common.say)
    print(f"\n{plan_page.printed(rows, flags.rate)}", end="")
    if flags.out:
        plan_page.write(rows, flags.rate, flags.out)
    return FAILED if any(row.failure for row in rows) else 0


COMMANDS = (
    Command(
        "sweep",
        "run the whole grid: train, evaluate, report",
        "jaxcomp sweep --config=tiny --workdir=runs/tiny",
        "Every family x size x ratio x seed of the config. Finished jobs are kept in "
        "WORKDIR/ledger,\nso the same command resumes after any interruption, retries what "
        "failed, and only redraws\nthe report when all is done. The report is "
        "WORKDIR/report/report.html.",
        _sweep_flags,
        sweep,
        processes="all",
    ),
    Command(
        "report",
        "write tables, plots and the verdict of a sweep",
        "jaxcomp report --workdir=runs/tiny",
        "Works on an unfinished sweep too and says what is missing. Only --workdir is needed, "
        "neither\nthe data nor the models.",
        _report_flags,
        report,
        "",
    ),
    Command(
        "plan",
        "check which TPU slice a config fits, how fast it is there, and its price",
        "jaxcomp plan --config=paper --topology=h100:8",
        "Compiles the training step, and compressing, prefill and decoding, of every setup for a\n"
        "TPU slice, with the real compiler and without a TPU (extra `tpu`). Mesh, micro-batches\n"
        "and remat are chosen by estimate, at most two choices compiled. Exits with 1 where a\n"
        "setup fits no given slice. What is compiled is kept in $JAXCOMP_CACHE, so the same\n"
        "command resumes, and prints at once when all is done. For h100:N the same arithmetic\n"
        "without a compiler.",
        _plan_flags,
        plan,
        processes="one",
    ),
)
