"""Flags and messages that commands share, and how a command is declared.

A command's `run` is a function of the parsed flags that returns an exit code. Modules that need
JAX are imported inside it, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxcomp.cli import overrides
from jaxcomp.cli.overrides import number, shipped
from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.runtime import distributed, paths

Flags = argparse.Namespace
FAILED = 1


# --- what the flags say ------------------------------------------------------------------------


def config_of(flags: Flags) -> Config:
    if not flags.config:
        run = "--run=DIR for a finished run, or " if flags.command.name == "eval" else ""
        raise ConfigError(
            f"--config is missing; expected {run}--config=FILE, such as --config=tiny"
        )
    return overrides.load(flags.config, flags.overrides)


def together(flags: Flags, cfg: Config) -> None:
    """Joins the other processes of this run, if there are any; only process 0 prints then."""
    distributed.start(flags.argv, config=config_hash(to_dict(cfg)))
    if not distributed.is_lead():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


def workdir_of(flags: Flags, cfg: Config) -> Path:
    return paths.path(flags.workdir) if flags.workdir else Path("runs") / cfg.name


def check_writable(flags: Flags) -> None:
    """Raises StorageError where --workdir is in a bucket that this machine may not write to."""
    if flags.workdir:
        paths.check(flags.workdir, write=True)


def run_folders(flags: Flags, cfg: Config) -> tuple[Path, Path]:
    """Where a single run is, and where bases made locally are looked for."""
    if flags.workdir:
        return paths.path(flags.workdir), paths.path(flags.workdir)
    root = Path("runs") / cfg.name
    name = cfg.compressor.replace("/", "-")
    return root / f"{name}-r{cfg.memory.ratio}-b{cfg.base_seed}-s{cfg.seed}", root


def needs_compressor(cfg: Config, command: str) -> None:
    if not cfg.compressor:
        known = [f"{f}/{s}" for f, sizes in cfg.families.items() for s in sizes]
        raise ConfigError(
            f"{command} needs --compressor=FAMILY/SIZE; known: {', '.join(known) or 'none'}"
        )


def workers_of(flags: Flags, cfg: Config) -> int:
    if flags.workers is None:
        return cfg.sweep.workers
    if flags.workers > 1 and distributed.count() > 1:
        raise ConfigError(
            f"--workers={flags.workers}, but the {distributed.count()} processes of a cluster run "
            "one job at a time, all together; leave --workers away, or start a sweep of its own, "
            "with --shard=i/n, on each machine"
        )
    return flags.workers


def say(text: str) -> None:
    print(text, flush=True)


FIELDS = """
Any field of the config can be set: --train.optim.lr=3e-4 --data.path=FILE --sweep.ratios=4,16
(see jaxcomp/config.py for all of them). An unknown field is an error that suggests the nearest.
"""


class Command(NamedTuple):
    name: str
    help: str  # its sentence, without capital and full stop
    example: str  # works once the files and runs that it names are there
    about: str  # the next paragraphs of its --help
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Flags], int]
    epilog: str = FIELDS
    # Of a cluster: "any" does not ask, "one" runs alone, "all" run it together.
    processes: str = "any"


def common_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="a config file, such as my.py:full, or one that ships with jaxcomp: "
        f"{', '.join(shipped())}",
    )
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config's name>")


def parallel_flags(parser: argparse.ArgumentParser) -> None:
    common_flags(parser)
    parser.add_argument(
        "--workers",
        type=number(0),
        metavar="N",
        help="local processes (default: sweep.workers; 0: one a core on CPU, else one)",
    )
