"""Tables of a sweep from its ledger: results.csv, lr_grid.csv, timings.csv, and verdicts.

Only what a rerun reproduces goes into results.csv; numbers have six significant digits, rows are
sorted, columns have a fixed order, so the file is the same byte for byte.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from jaxcomp.analysis import stats
from jaxcomp.analysis.verdict import Verdict, judge
from jaxcomp.config import Config
from jaxcomp.evals.metrics import Headline, endpoints, headlines, without_memory
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results, _order

ID_COLUMNS = (
    "family", "size", "ratio", "base_seed", "seed", "config_hash", "lr", "params", "params_body",
    "val_loss",
)  # fmt: skip
TUNED_COLUMNS = ("tuned_lr", "tuned_lr_multiple", "tuned_val_loss")


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
    """With the recipe's rate, or with the rate tuned per size, over the whole grid: what is
    unfinished is inconclusive."""
    cfg = results.cfg
    loss, kept = endpoints(cfg)
    ratios = [r for r in grid.ratios(cfg) if not tuned or r in cfg.sweep.lr_ratios]
    return judge(
        {r: points(results.rows, loss.metric, r, tuned) for r in ratios},
        {r: points(results.rows, kept.metric, r, tuned) for r in ratios},
        cfg.sweep.primary_ratio,
        smallest_effect=cfg.sweep.smallest_effect,
        no_memory=no_memory_of(results, kept.metric) or 0.0,
        own_no_memory={r: own_no_memory(results, kept.metric, r, tuned) for r in ratios},
        sizes={r: grid.sizes(cfg, r) for r in ratios},
    )


def no_memory_of(results: Results, metric: str) -> float | None:
    """The same metric of the frozen decoder without memory, where it was measured. A run that
    trains its decoder too has a no-memory baseline of its own, which is no part of it."""
    values = [_no_memory(r.metrics, metric) for r in results.rows if not own_decoder(r)]
    held = [v for v in values if v is not None]
    return statistics.fmean(held) if held else None


def own_no_memory(
    results: Results, metric: str, ratio: int, tuned: bool = False
) -> dict[str, float]:
    """Line -> the highest no-memory baseline of its runs, where they train their decoders too."""
    out: dict[str, float] = {}
    for r in results.rows:
        if own_decoder(r) and r.job.setup.ratio == ratio:
            value = _no_memory(r.metrics if not tuned else (r.tuned[1] if r.tuned else {}), metric)
            if value is not None:
                out[r.job.setup.line] = max(value, out.get(r.job.setup.line, value))
    return out


def own_decoder(r: Result) -> bool:
    """Whether this run trained its decoder too, so that no other run shares its baseline."""
    return r.job.config.train.train_decoder


def _no_memory(metrics: Mapping[str, Any], metric: str) -> float | None:
    value = metrics.get(without_memory(metric))
    return value if value is not None and math.isfinite(value) else None


# --- cells -----------------------------------------------------------------------------------


def header(head: Headline) -> str:
    """A column's name with its unit; shares are in percent."""
    return f"{head.label} ({'%' if head.unit == 'share' else head.unit})"


def number(value: float | None, unit: str = "", signed: bool = False) -> str:
    """Three digits, without the unit, which stands in the header."""
    if value is None or math.isnan(value):
        return "–"
    sign = "+" if signed else ""
    if unit == "share":
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"


def cell(e: stats.Estimate | None, unit: str = "", signed: bool = False) -> str:
    """`26.0 ± 5.3`: the mean and half of its 95% interval, where there is one."""
    if e is None:
        return "–"
    scale = 100 if unit == "share" else 1
    half = "" if e.half is None else f" ± {scale * e.half:.2g}"
    return number(e.value, unit, signed) + half


def phrase(value: float, unit: str, step: bool = False) -> str:
    """A number with its unit, in a sentence; `step`: it is a difference of two."""
    if unit == "share":
        return f"{100 * value:.2g} percentage points" if step else f"{value:.1%}"
    return f"{number(value)} {unit}"


def counted(n: int, what: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_phrase(p: float) -> str:
    """`p = 0.016`, `p < 0.001`."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


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
    return csv_of(lines)


def lr_grid_csv(results: Results) -> str:
    """Every finished job, those of the rate grid included, with the headline numbers."""
    heads = [h.metric for h in headlines(results.cfg)]
    lines: list[list[Any]] = [[*_id_columns(results.cfg), "lr_multiple", *heads]]
    for job, m in sorted(results.grid_rows, key=lambda r: _order(r[0])):
        lines.append([*_ids(job, m), job.lr_multiple, *(m.get(h) for h in heads)])
    return csv_of(lines)


def timings_csv(results: Results) -> str:
    names = sorted({k for _, t in results.timings for k in t})
    lines: list[list[Any]] = [["job", *names]]
    lines += [[i, *(t.get(n) for n in names)] for i, t in sorted(results.timings)]
    return csv_of(lines)


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


def csv_of(lines: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[text(v) for v in line] for line in lines])
    return out.getvalue()
