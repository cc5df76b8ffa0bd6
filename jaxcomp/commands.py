"""What each command does: a function of the parsed flags that returns an exit code.

Rooms that need JAX are imported inside it, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from jaxcomp import compiled, distributed, settings, storage
from jaxcomp.config import Config, ConfigError, config_hash, to_dict

Flags = argparse.Namespace
FAILED = 1


def pretrain(flags: Flags) -> int:
    """Base models and the decoder of a config, made in the workdir."""
    from jaxcomp.sweep import hosts, jobs

    # "decoder" stands where a compressor is named, but is no size of a family.
    only_decoder = ("compressor", "decoder") in flags.overrides
    flags.overrides = [o for o in flags.overrides if o != ("compressor", "decoder")]
    cfg = config_of(flags)
    _writable(flags)
    workdir = _workdir(flags, cfg)
    work = jobs.PretrainWork(flags.typed)
    with hosts.joined(flags.argv, cfg, work, workdir, flags.workers) as team:
        if team.follows:
            return team.wait()
        return _pretrain(flags, cfg, workdir, work, team.worker, only_decoder)


def _pretrain(
    flags: Flags, cfg: Config, workdir: Path, work: Any, team: Any, only_decoder: bool
) -> int:
    from jaxcomp.sweep import grid, jobs, runner
    from jaxcomp.sweep.claims import Claims
    from jaxcomp.sweep.ledger import Ledger

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
    with runner.crew(work, workdir, _workers(flags, cfg), len(todo), team) as hands:
        say(jobs.check_data(grid.expand(cfg)[0].config, workdir))
        with Claims(workdir / "claims") as claims:
            ledger = Ledger(workdir)
            failed = runner.run_tasks(todo, work, workdir, claims, ledger, hands, say)
    return FAILED if failed else 0


def train(flags: Flags) -> int:
    """One compressor."""
    from jaxcomp.train import compress, profiling

    cfg = config_of(flags)
    needs_compressor(cfg, "train")
    profile = profiling.window(flags.profile, cfg.train.optim.steps)
    together(flags, cfg)
    _writable(flags)
    workdir, root = run_folders(flags, cfg)
    compiled.keep()
    summary = compress.train(cfg, workdir, root=root, profile=profile)
    print(json.dumps(summary, indent=1))
    print(f"next: jaxcomp eval with the same flags; the run is in {workdir}")
    return 0


def sweep(flags: Flags) -> int:
    """The whole grid."""
    from jaxcomp.sweep import hosts, jobs, runner
    from jaxcomp.sweep.results import current

    cfg = config_of(flags)
    _writable(flags)
    workdir = _workdir(flags, cfg)
    shard = runner.parse_shard(flags.shard)
    work, workers = jobs.SweepWork(flags.typed), _workers(flags, cfg)
    with hosts.joined(flags.argv, cfg, work, workdir, flags.workers) as team:
        if team.follows:
            return team.wait()
        summary = runner.run(
            cfg,
            workdir,
            work=work,
            shard=shard,
            workers=workers,
            reuse=[storage.path(d) for d in flags.reuse.split(",") if d],
            out=say,
            team=team.worker,
        )
    page = workdir / "report" / "report.html"
    if not summary.ran and not summary.failed and page.exists() and current(cfg, workdir):
        print(f"nothing to do: all {summary.before} jobs are done; the report is {page}")
        return 0
    from jaxcomp.sweep.report import report as write_report  # loads SciPy and JAX

    _print_report(write_report(cfg, workdir))
    return FAILED if summary.failed else 0


def report(flags: Flags) -> int:
    """Tables and plots of a sweep, finished or not."""
    from jaxcomp.sweep import ledger
    from jaxcomp.sweep.report import report as write_report

    if flags.overrides:
        raise ConfigError(
            f"report takes no fields of a config (found --{flags.overrides[0][0]}): it reports on "
            "what a sweep has done"
        )
    if not (flags.workdir or flags.config):
        raise ConfigError("report needs --workdir=DIR of a sweep (or --config)")
    asked = config_of(flags) if flags.config else None
    _writable(flags)
    workdir = storage.path(flags.workdir) if asked is None else _workdir(flags, asked)
    cfg = _made_by(workdir)
    if asked is not None:
        ledger.Ledger(workdir).check(asked)
    others = [storage.path(place) for given in flags.beside for place in _places(given)]
    written = write_report(cfg, workdir, [(_made_by(other), other) for other in others])
    return FAILED if _print_report(written).failed else 0


def _places(given: str) -> list[str]:
    """`A,B` as two folders, unless that is the name of one (a config's argument holds commas)."""
    places = [x for x in given.split(",") if x]
    if not places:
        raise ConfigError(
            f"--beside={given} names no folder; expected the workdir of a sweep, or leave it out"
        )
    return [given] if storage.path(given).exists() else places


def _made_by(workdir: Path) -> Config:
    """The config of the sweep whose workdir it is."""
    from jaxcomp.sweep import ledger

    path = workdir / "sweep.json"
    if not path.is_file():
        raise ConfigError(f"{workdir}: holds no sweep.json; expected the workdir of a sweep")
    return settings.from_dict(ledger.made_by(path)["config"], where=str(path))


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
    if flags.run and not {"reconstruct", "probe"} & set(only):
        raise ConfigError(
            f"--run={flags.run} goes with --only=reconstruct or probe; nothing else uses it"
        )
    run = storage.path(flags.run) if flags.run else None
    measurements.bench(config_of(flags), only, out=say, trained=run)
    return 0


def plan(flags: Flags) -> int:
    """What a sweep needs of a TPU slice."""
    from jaxcomp.plan import main
    from jaxcomp.plan.table import table

    for name, least in (("rate", 0.0), ("efficiency", 1e-3)):
        value = getattr(flags, name)
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(f"--{name}={value}: expected a number of at least {least:g}")
    if flags.efficiency > 1:
        raise ConfigError(f"--efficiency={flags.efficiency}: expected a share, at most 1")
    names = [name for name in flags.topology.split(",") if name]
    if not names:
        raise ConfigError(
            "--topology names no slice; expected one or more, as in v5e:4x4,v5p:4x4x4"
        )
    rows = main.plan(config_of(flags), names, out=say)
    text = table(rows, flags.efficiency, flags.rate)
    print(f"\n{text}", end="")
    if flags.out:
        storage.path(flags.out).write_text(text)
    return FAILED if any(row.failure for row in rows) else 0


def doctor(flags: Flags) -> int:
    """What to see before a long run."""
    from jaxcomp.doctor import main

    cfg = main.chosen(config_of(flags))
    needs_compressor(cfg, "doctor")
    workdir, root = run_folders(flags, cfg)
    failed = main.doctor(cfg, workdir, root=root, out=say)
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return FAILED if failed else 0


# --- what the flags say ------------------------------------------------------------------------


def config_of(flags: Flags) -> Config:
    if not flags.config:
        raise ConfigError("--config is missing; try --config=tiny")
    return settings.load(flags.config, flags.overrides)


def together(flags: Flags, cfg: Config) -> None:
    """Joins the other processes of this run, if there are any; only process 0 prints then."""
    distributed.start(flags.argv, config=config_hash(to_dict(cfg)))
    if not distributed.is_lead():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _workdir(flags: Flags, cfg: Config) -> Path:
    return storage.path(flags.workdir) if flags.workdir else Path("runs") / cfg.name


def _writable(flags: Flags) -> None:
    """Raises StorageError where --workdir is in a bucket that this machine may not write to."""
    if flags.workdir:
        storage.probe(flags.workdir)


def run_folders(flags: Flags, cfg: Config) -> tuple[Path, Path]:
    """Where a single run is, and where bases made locally are looked for."""
    if flags.workdir:
        return storage.path(flags.workdir), storage.path(flags.workdir)
    root = Path("runs") / cfg.name
    name = cfg.compressor.replace("/", "-")
    return root / f"{name}-r{cfg.memory.ratio}-b{cfg.base_seed}-s{cfg.seed}", root


def needs_compressor(cfg: Config, command: str) -> None:
    if not cfg.compressor:
        known = [f"{f}/{s}" for f, sizes in cfg.families.items() for s in sizes]
        raise ConfigError(
            f"{command} needs --compressor=FAMILY/SIZE; known: {', '.join(known) or 'none'}"
        )


def _workers(flags: Flags, cfg: Config) -> int:
    if flags.workers is None:
        return cfg.sweep.workers
    if flags.workers < 0:
        raise ConfigError(f"--workers={flags.workers}: expected at least 0 (0: one a core on CPU)")
    return flags.workers


def say(text: str) -> None:
    print(text, flush=True)
