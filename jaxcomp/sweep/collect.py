"""Collect the finished jobs of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config
from jaxcomp.evals import bootstrap
from jaxcomp.evals.metrics import endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.store import DONE, FAILED, Ledger, Row


class Result(NamedTuple):
    """One finished recipe job, with the job of its setup's best rate."""

    job: grid.Job
    metrics: dict[str, Any]
    intervals: dict[str, tuple[float, float]]  # over passages, of one trained model
    tuned: tuple[grid.Job, dict[str, Any]] | None
    sums: Mapping[str, np.ndarray] = MappingProxyType({})  # metric -> 2 x W, of its passages


class Results(NamedTuple):
    """All that a report is made of."""

    cfg: Config
    rows: list[Result]
    grid_rows: list[tuple[grid.Job, dict[str, Any]]]  # every finished job, for lr_grid.csv
    timings: list[tuple[str, dict[str, float]]]
    failed: list[tuple[str, str]]
    missing: list[str]
    finished: Sequence[Row] = ()  # of the ledger, whole


def collect(cfg: Config, ledger: Ledger) -> Results:
    """What the ledger holds of the sweep's jobs."""
    done: dict[str, tuple[grid.Job, dict[str, Any]]] = {}
    failed, missing, timings = [], [], []
    jobs = ledger.jobs(cfg)
    for job in jobs:
        row = ledger.row(job)
        if row is None:
            missing.append(job.id)
        elif row["status"] == FAILED:
            failed.append((job.id, row["error"]))
        elif row["status"] == DONE:
            done[job.id] = (job, row)
            timings.append((job.id, row.get("timings", {})))
    every = [(job, row["metrics"]) for job, row in done.values()]
    best = _best_multiples(jobs, every)
    measured = {(j.setup, j.base_seed, j.seed, j.lr_multiple): (j, m) for j, m in every}
    rows = []
    for job, row in done.values():
        if job.recipe:
            tuned = measured.get((job.setup, job.base_seed, job.seed, best.get(job.setup, 0.0)))
            rows.append(Result(job, row["metrics"], row.get("intervals", {}), tuned))
    return Results(cfg, rows, every, timings, failed, missing, [row for _, row in done.values()])


def with_passages(results: Results, workdir: Path, names: Sequence[str] | None = None) -> Results:
    """The passages of the metrics `names` (None: the two endpoints) beside each row, from
    `jobs/ID/passages.jsonl` under `workdir`.

    All rows or none, since a draw of passages is one draw for all runs: none where records are
    missing (rows taken over by --reuse have none), do not add up to the row's number, or are of
    other passages than those of the first row. Raises ConfigError for a damaged file.
    """
    metrics = names or [h.metric for h in endpoints(results.cfg)]
    rows: list[Result] = []
    first: list[bootstrap.Sums] | None = None
    for row in results.rows:
        found = bootstrap.of_run(workdir / "jobs" / row.job.id / "passages.jsonl", metrics)
        if found is None or not _adds_up(row, metrics, found):
            return results
        first = first or found
        if [s.ids for s in found] != [s.ids for s in first]:
            return results
        sums = {m: s.sums_2W for m, s in zip(metrics, found, strict=True)}
        rows.append(row._replace(sums=sums))
    return results._replace(rows=rows)


def _adds_up(row: Result, metrics: Sequence[str], found: Sequence[bootstrap.Sums]) -> bool:
    for metric, (_, (top_W, bottom_W)) in zip(metrics, found, strict=True):
        value = row.metrics.get(metric)
        # A metric that is not measurable has records and no value; it has no interval either.
        if value is not None and not (
            bottom_W.sum() > 0 and math.isclose(value, top_W.sum() / bottom_W.sum(), rel_tol=1e-6)
        ):
            return False
    return True


def _best_multiples(
    jobs: Sequence[grid.Job], every: Sequence[tuple[grid.Job, dict[str, Any]]]
) -> dict[grid.Setup, float]:
    """Per setup the rate of the lowest mean validation loss over all of its replicates.

    Only where the setup's whole rate grid is finished. A rate that diverged anywhere is no
    candidate; the smaller rate wins a tie, so that the choice never depends on the order of jobs.
    """
    losses: dict[grid.Setup, dict[float, list[float]]] = {}
    for job, metrics in every:
        loss = metrics.get("val_loss")
        by_rate = losses.setdefault(job.setup, {})
        by_rate.setdefault(job.lr_multiple, []).append(math.inf if loss is None else loss)
    wanted: dict[grid.Setup, list[float]] = {}
    for job in jobs:
        wanted.setdefault(job.setup, []).append(job.lr_multiple)
    best: dict[grid.Setup, float] = {}
    for setup, multiples in wanted.items():
        found = losses.get(setup, {})
        finished = sum(map(len, found.values())) == len(multiples)
        if finished and len(set(multiples)) > 1:
            mean, rate = min((sum(x) / len(x), rate) for rate, x in found.items())
            if math.isfinite(mean):
                best[setup] = rate
    return best


def _order(job: grid.Job) -> tuple:
    size = grid.body(grid.model(job.config)), job.setup.size
    own = job.setup.recipe, job.base_seed, job.seed, job.lr_multiple
    return job.setup.family, *size, job.setup.ratio, *own
