"""From the ledger to tables: results.csv, lr_grid.csv, timings.csv, and the verdicts.

Only what a rerun reproduces goes into results.csv; numbers have six significant digits, rows are
sorted, columns have a fixed order, so the file is the same byte for byte.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config
from jaxcomp.sweep import grid, passages, stats
from jaxcomp.sweep.headlines import endpoints, headlines
from jaxcomp.sweep.ledger import DONE, FAILED, Ledger
from jaxcomp.sweep.verdict import Verdict, judge

ID_COLUMNS = (
    "family", "size", "ratio", "base_seed", "seed", "config_hash", "lr", "params", "params_body",
    "val_loss",
)  # fmt: skip
TUNED_COLUMNS = ("tuned_lr", "tuned_lr_multiple", "tuned_val_loss")


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
    return Results(cfg, rows, every, timings, failed, missing)


def current(cfg: Config, workdir: Path) -> bool:
    """Is the report that of the ledger as it is now, with nothing failed or missing?"""
    path = workdir / "report" / "results.csv"
    results = collect(cfg, Ledger(workdir))
    unfinished = results.failed or results.missing
    return not unfinished and path.is_file() and path.read_text() == results_csv(results)


def with_passages(results: Results, workdir: Path, names: Sequence[str] | None = None) -> Results:
    """The passages of the metrics `names` (None: the two endpoints) beside each row, from
    `jobs/ID/passages.jsonl` under `workdir`.

    All rows or none, since a draw of passages is one draw for all runs: none where records are
    missing (rows taken over by --reuse have none), do not add up to the row's number, or are of
    other passages than those of the first row. Raises ConfigError for a damaged file.
    """
    metrics = names or [h.metric for h in endpoints(results.cfg)]
    rows: list[Result] = []
    first: list[passages.Sums] | None = None
    for row in results.rows:
        found = passages.of_run(workdir / "jobs" / row.job.id / "passages.jsonl", metrics)
        if found is None or not _adds_up(row, metrics, found):
            return results
        first = first or found
        if [s.ids for s in found] != [s.ids for s in first]:
            return results
        sums = {m: s.sums_2W for m, s in zip(metrics, found, strict=True)}
        rows.append(row._replace(sums=sums))
    return results._replace(rows=rows)


def _adds_up(row: Result, metrics: Sequence[str], found: Sequence[passages.Sums]) -> bool:
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


def points(
    rows: Iterable[Result], metric: str, ratio: int, tuned: bool = False
) -> list[stats.Point]:
    """Of one metric at one ratio; passages only of runs at the recipe's rate."""
    out = []
    for r in rows:
        metrics = r.metrics if not tuned else (r.tuned[1] if r.tuned else {})
        if r.job.setup.ratio == ratio:
            out.append(
                stats.Point(
                    r.job.setup.line,
                    r.job.setup.size,
                    r.metrics["params"],
                    r.job.base_seed,
                    r.job.seed,
                    metrics.get(metric),
                    None if tuned else r.sums.get(metric),
                )
            )
    return out


def verdict(results: Results, tuned: bool = False) -> Verdict:
    """The computed answer, with the recipe's rate or with the rate tuned per size.

    Over the grid as it was asked for: what is unfinished is undecided.
    """
    cfg = results.cfg
    loss, kept = endpoints(cfg)
    ratios = [r for r in grid.ratios(cfg) if not tuned or r in cfg.sweep.lr_ratios]
    return judge(
        {r: points(results.rows, loss.metric, r, tuned) for r in ratios},
        {r: points(results.rows, kept.metric, r, tuned) for r in ratios},
        cfg.sweep.primary_ratio,
        smallest_effect=cfg.sweep.smallest_effect,
        floor=floor_of(results, kept.metric) or 0.0,
        own_floors={r: own_floors(results, kept.metric, r, tuned) for r in ratios},
        sizes={r: grid.sizes(cfg, r) for r in ratios},
        endpoint=kept.label,
    )


def floor_of(results: Results, metric: str) -> float | None:
    """The same metric of the frozen decoder without memory, where it was measured. A run that
    trains its decoder too has a floor of its own, which is no part of it."""
    values = [_floor(r.metrics, metric) for r in results.rows if not own_decoder(r)]
    held = [v for v in values if v is not None]
    return statistics.fmean(held) if held else None


def own_floors(results: Results, metric: str, ratio: int, tuned: bool = False) -> dict[str, float]:
    """Line -> the highest floor of its runs at a ratio, where they train their decoders too."""
    out: dict[str, float] = {}
    for r in results.rows:
        if own_decoder(r) and r.job.setup.ratio == ratio:
            value = _floor(r.metrics if not tuned else (r.tuned[1] if r.tuned else {}), metric)
            if value is not None:
                out[r.job.setup.line] = max(value, out.get(r.job.setup.line, value))
    return out


def own_decoder(r: Result) -> bool:
    """Did this run train its decoder too? Nothing else can then be read beside its floor."""
    return r.job.config.train.train_decoder


def _floor(metrics: Mapping[str, Any], metric: str) -> float | None:
    name, _, rest = metric.partition("/")
    value = metrics.get(f"{name}/floor/{rest}")
    return value if value is not None and math.isfinite(value) else None


# --- files -----------------------------------------------------------------------------------


def text(value: Any) -> str:
    """One cell: integers in full, floats to six significant digits, missing as nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def results_csv(results: Results) -> str:
    """One row a setup and seed, at the recipe's learning rate."""
    metrics = sorted({k for r in results.rows for k in r.metrics} - set(ID_COLUMNS))
    heads = [h.metric for h in headlines(results.cfg)]
    lines: list[list[Any]] = [
        [*_id_columns(results.cfg), *metrics, *TUNED_COLUMNS, *(f"tuned/{h}" for h in heads)]
    ]
    for r in sorted(results.rows, key=lambda r: _order(r.job)):
        job, best = r.tuned or (None, {})
        lines.append(
            [
                *_ids(r.job, r.metrics),
                *(r.metrics.get(m) for m in metrics),
                job.config.train.optim.lr if job else None,
                job.lr_multiple if job else None,
                best.get("val_loss"),
                *(best.get(h) for h in heads),
            ]
        )
    return _csv(lines)


def lr_grid_csv(results: Results) -> str:
    """Every finished job, those of the rate grid included, with the headline numbers."""
    heads = [h.metric for h in headlines(results.cfg)]
    lines: list[list[Any]] = [[*_id_columns(results.cfg), "lr_multiple", *heads]]
    for job, m in sorted(results.grid_rows, key=lambda r: _order(r[0])):
        lines.append([*_ids(job, m), job.lr_multiple, *(m.get(h) for h in heads)])
    return _csv(lines)


def timings_csv(results: Results) -> str:
    names = sorted({k for _, t in results.timings for k in t})
    lines: list[list[Any]] = [["job", *names]]
    lines += [[i, *(t.get(n) for n in names)] for i, t in sorted(results.timings)]
    return _csv(lines)


def _id_columns(cfg: Config) -> tuple[str, ...]:
    """Those of every row; `recipe` after the ratio where the grid has recipes."""
    if not cfg.sweep.recipes:
        return ID_COLUMNS
    at = ID_COLUMNS.index("ratio") + 1
    return (*ID_COLUMNS[:at], "recipe", *ID_COLUMNS[at:])


def _ids(job: grid.Job, m: dict[str, Any]) -> list[Any]:
    setup = job.setup if job.setup.recipe else job.setup[:3]
    where = [*setup, job.base_seed, job.seed, job.hash, job.config.train.optim.lr]
    return [*where, m.get("params"), m.get("params_body"), m.get("val_loss")]


def _order(job: grid.Job) -> tuple:
    size = grid.body(grid.model(job.config)), job.setup.size
    own = job.setup.recipe, job.base_seed, job.seed, job.lr_multiple
    return job.setup.family, *size, job.setup.ratio, *own


def _csv(lines: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[text(v) for v in line] for line in lines])
    return out.getvalue()
