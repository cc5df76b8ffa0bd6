"""`jaxcomp check`: show one batch, then run every check."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, ConfigError
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.evals.preview import loss, measures, memory
from jaxcomp.evals.preview.batch import Preview
from jaxcomp.evals.preview.check import Check, Finding
from jaxcomp.evals.preview.picture import SECTIONS, WIDTH
from jaxcomp.runtime import live
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.compressor import check_run, load_run, planned
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import SUMMARY

CHECKS = tuple(
    x for module in (memory, loss, measures) for x in vars(module).values() if isinstance(x, Check)
)
_MARKS = {True: "ok", False: "FAIL", None: "-"}


def chosen(cfg: Config) -> Config:
    """`cfg` with a compressor: the one it names, else the first of its families."""
    names = [f"{family}/{size}" for family, sizes in cfg.families.items() for size in sizes]
    return cfg if cfg.compressor else dataclasses.replace(cfg, compressor=(names or [""])[0])


def check(
    cfg: Config, workdir: Path, *, root: Path, out: Callable[[str], Any] = print
) -> list[str]:
    """Prints the picture and the findings; returns the names of the checks that failed.

    `workdir` is where the run is, if it was trained; `root` where bases made locally stand. Nothing
    is written to either. Raises ConfigError as `train.compress.train` does.
    """
    if not OBJECTIVES[cfg.train.objective].previewed:
        raise ConfigError(
            f"train.objective = {cfg.train.objective!r}: check covers rebuilding and continuing; "
            "check the same run with --train.objective=coin in a --workdir of its own"
        )
    finished, failed = (workdir / SUMMARY).is_file(), []
    parts = len(SECTIONS) + len(CHECKS)
    with use_mesh(mesh_for(cfg)), live.line("check", parts, "parts") as row:
        run, toks = planned(cfg, root, workdir)
        if finished:
            check_run(cfg, workdir)
        trained = load_run(cfg, workdir, root=root) if finished else None
        preview = Preview(cfg, run, toks, trained)
        state = f"trained, in {workdir}" if finished else "not trained yet"
        out(f"{cfg.name}: {cfg.compressor} at ratio {cfg.memory.ratio}, {state}")
        for title, lines in SECTIONS.items():
            out(_title(title))
            for line in lines(preview):
                out(line)
            row.done += 1
        out(_title("checks"))
        for one in CHECKS:
            finding = one(preview)
            failed += [one.name] * (finding.ok is False)
            for line in wrapped(one, finding):
                out(line)
            row.done += 1
    return failed


def wrapped(check: Check, finding: Finding) -> list[str]:
    """A finding in lines of at most WIDTH characters."""
    head = f"  {_MARKS[finding.ok]:<6}{check.name:<38}"
    margin = " " * len(head)
    lines = [head + finding.found]
    if finding.ok is False:
        lines += [f"{margin}expected: {check.expected}", f"{margin}fix: {check.fix}"]
    return [part for x in lines for part in textwrap.wrap(x, WIDTH, subsequent_indent=margin)]


def _title(title: str) -> str:
    return f"\n--- {title} {'-' * (WIDTH - 5 - len(title))}"
