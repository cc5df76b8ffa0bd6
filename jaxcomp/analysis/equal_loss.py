"""Facts preserved by compressors of several sizes at equal loss.

Each run is read where its loss first falls to a level that every run reaches (relations.levels), on
the straight line between its two checkpoints there: its facts kept, and what each passage gives to
them. Runs of one compressor are its replicates. The claim is made at the lowest level, where
training has gone furthest, by the rules and in the words of the sweep's verdict; levels above it
show how it came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.analysis import charts, compare_runs, stats
from jaxcomp.analysis.answer import seeds
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.document import Answer, Block, Para, Table
from jaxcomp.analysis.relations import around, levels
from jaxcomp.analysis.stats import ALPHA, MIN_REPLICATES, Estimate, Point, Trend
from jaxcomp.analysis.tables import header, number, p_value, phrase
from jaxcomp.analysis.verdict import (
    ABSENT,
    INCONCLUSIVE,
    PRESENT,
    Criteria,
    Fall,
    at_baseline,
    falls,
    few,
)
from jaxcomp.config import Config
from jaxcomp.evals.bootstrap import ratio_interval
from jaxcomp.evals.checkpoints import Followed
from jaxcomp.evals.metrics import Headline, endpoints, without_memory
from jaxcomp.sweep import grid
from jaxcomp.training.identity import differences, of_job


class AtLoss(NamedTuple):
    """All compressors at one loss, nats a token."""

    loss: float
    setups: tuple[tuple[str, str, float], ...]  # family, size, parameters of the layers
    values: tuple[Estimate, ...]  # of the primary endpoint
    bounds: tuple[tuple[float, float] | None, ...]  # 95%, see `over`
    over: tuple[str, ...]  # what the bounds are over
    trend: Trend
    worst: Fall | None  # of the largest under a smaller one, with the highest bound
    word: str


def by_size(runs: Sequence[Followed]) -> list[AtLoss]:
    """Highest loss first; empty where no loss is common to all, or there is one size only."""
    if len({run.cfg.compressor for run in runs}) < 2:
        return []
    at = sorted((level.loss for level in levels(runs)), reverse=True)
    return [_at(runs, loss) for loss in at]


def differing(cfgs: Sequence[Config]) -> list[str]:
    """Fields other than compressor and seeds that determine a result and are not the same in all
    runs: where there is one, size is not all that is compared."""
    found = {path for cfg in cfgs[1:] for path, *_ in differences(_aside(cfgs[0]), _aside(cfg))}
    if not all(compare_runs.same_decoder(cfgs[0], cfg) for cfg in cfgs[1:]):
        found |= {"folders.decoder"}
    shapes = {(cfg.compressor, grid.model(cfg)) for cfg in cfgs}
    named = [name for name, _ in shapes]
    return sorted(found | {f"families.{name}" for name in named if named.count(name) > 1})


def _aside(cfg: Config) -> dict[str, Any]:
    """What determines a result, less what may differ: a run's size, its base and its seeds."""
    own = ("model", "folders", "base_seed", "seed")
    tree = {k: v for k, v in of_job(cfg).items() if k not in own}
    # Recomputed or cut differently, but the same numbers: a larger size may need it.
    train = {k: v for k, v in tree["train"].items() if k not in ("remat", "loss_chunk")}
    return tree | {"train": train}


def _points(runs: Sequence[Followed], level: float) -> list[Point]:
    out = []
    for run in runs:
        cfg, (loss, kept) = run.cfg, endpoints(run.cfg)
        family, _, size = cfg.compressor.partition("/")
        value, sums_2W = _read(run, loss.metric, kept.metric, level)
        params = float(grid.body(grid.model(cfg)))
        out.append(Point(family, size, params, cfg.base_seed, cfg.seed, value, sums_2W))
    widths = {None if p.sums_2W is None else p.sums_2W[1].tobytes() for p in out}
    # Other passages, or none: intervals do without them.
    return out if len(widths) == 1 else [p._replace(sums_2W=None) for p in out]


def _read(
    run: Followed, loss: str, kept: str, level: float
) -> tuple[float | None, np.ndarray | None]:
    found = around(run.rows, loss, level)
    if found is None:
        return None, None
    before, row, share = found
    first, last = (r.metrics.get(kept) for r in (before, row))
    if first is None or last is None:
        return None, None
    a, b = (np.array(r.passages, float) for r in (before, row))
    kept_now = first * (1 - share) + last * share
    # A passage has the same facts at every checkpoint, so sums lie on the line that the rates do.
    if not a.size or a.shape != b.shape or (a[:, 1] != b[:, 1]).any():
        return kept_now, None
    return kept_now, np.stack([a[:, 0] * (1 - share) + b[:, 0] * share, b[:, 1]])


def _at(runs: Sequence[Followed], level: float) -> AtLoss:
    found = _points(runs, level)
    groups: dict[tuple[str, str, float], list[Point]] = {}
    for p in sorted(found, key=lambda p: (p.family, p.params, p.size)):
        if p.value is not None and math.isfinite(p.value):
            groups.setdefault((p.family, p.size, p.params), []).append(p)
    values, bounds, over = [], [], []
    for points in groups.values():
        mean = stats.mean(points)
        assert mean is not None  # a group holds what was measured
        own = points[0].sums_2W if len(points) == 1 else None
        values.append(mean)
        bounds.append(ratio_interval(*own) if own is not None else mean.bounds)
        over.append("passages of its one run" if own is not None else ", ".join(mean.levels))
    trend = stats.trend(found)
    worst, word = _word(runs, found, trend)
    return AtLoss(
        level, tuple(groups), tuple(values), tuple(bounds), tuple(over), trend, worst, word
    )


def _word(
    runs: Sequence[Followed], found: Sequence[Point], trend: Trend
) -> tuple[Fall | None, str]:
    sample, cfg = stats.sample(found), runs[0].cfg
    if trend.bases < MIN_REPLICATES:
        return None, few(trend.bases)
    kept = endpoints(cfg)[1]
    baselines = [run.rows[-1].metrics.get(without_memory(kept.metric)) or 0.0 for run in runs]
    criteria = Criteria(cfg.sweep.smallest_effect, max(baselines))
    worst = max(falls(sample), key=lambda f: f.bound)
    if trend.p_fall < ALPHA:
        return worst, PRESENT
    absent = worst.bound < criteria.smallest and not at_baseline(sample, criteria)
    return worst, ABSENT if absent else INCONCLUSIVE


# --- the page ---------------------------------------------------------------------------------


def blocks(runs: Sequence[Followed]) -> list[Block]:
    """Sizes at equal loss: a claim, a table, a figure; nothing for runs of one size."""
    if len({run.cfg.compressor for run in runs}) < 2:
        return []
    if differ := differing([run.cfg for run in runs]):
        return [
            Para(
                "Not compared by size: the runs differ in more than compressor and seeds: "
                f"{', '.join(differ)}."
            )
        ]
    found = by_size(runs)
    if not found:
        return []
    head = endpoints(runs[0].cfg)[1]
    claim = _claim(found[-1], head, runs[0].cfg.sweep.smallest_effect)
    return [claim, _table(found, head), _plot(found, head)]


def _claim(at: AtLoss, head: Headline, smallest: float) -> Answer:
    t = at.trend
    sign = {PRESENT: "Yes", ABSENT: "No"}.get(at.word, "Inconclusive")
    why = f"{seeds(t.bases)}; " if t.bases else "No pretraining seed has a run of every size; "
    why += f"Spearman's rho with size {_trend(t)}" if t.replicates else "no trend can be measured"
    if at.worst is not None:
        w = at.worst
        why += (
            f"; the largest size preserves at most {phrase(w.bound, head.unit, True)} less than a "
            f"smaller one, at 95% confidence ({w.family} {w.large} compared with {w.small})"
        )
    why += f". Smallest effect: {phrase(smallest, head.unit, True)}."
    settle = "" if t.bases >= MIN_REPLICATES else "Follow runs of at least 3 pretraining seeds."
    question = (
        f"At an equal loss of {at.loss:.3f} nats/token, do larger compressors have fewer "
        f"{head.label}?"
    )
    return Answer(question, sign, why, settle=settle)


def _trend(t: Trend) -> str:
    """With its p only where there are base seeds enough for a test."""
    return f"{t.rho:+.2f}" + (f", p {p_value(t.p_fall)}" if t.bases >= MIN_REPLICATES else "")


def _table(found: Sequence[AtLoss], name: Headline) -> Table:
    rows = []
    for at in found:
        trend = _trend(at.trend) if at.trend.replicates else "–"
        for (family, size, params), value, bounds, over in zip(
            at.setups, at.values, at.bounds, at.over, strict=True
        ):
            span = "–"
            if bounds is not None:
                span = f"{' to '.join(number(b, name.unit) for b in bounds)}, {over}"
            rows.append(
                [
                    f"{at.loss:.3f}", family, size, f"{params:,.0f}", str(value.n),
                    number(value.value, name.unit), span, trend,
                ]
            )  # fmt: skip
    head = ["loss (nats/token)", "family", "size", "parameters of layers", "runs", header(name)]
    caption = (
        "Sizes at one loss: mean over runs, 95% interval over what is named (passages of one run "
        "say nothing of other models). rho: Spearman's with the parameters of the layers; p, from "
        "three pretraining seeds on, one-sided. Only the lowest loss was chosen before looking. A "
        "checkpoint before the last has a higher learning rate than the end of its run, and a size "
        "that reaches a loss early has seen fewer passages: equal loss is not equal training."
    )
    return Table([*head, "95% interval, over", "rho"], rows, caption, 3)


def _plot(found: Sequence[AtLoss], head: Headline) -> Chart:
    """The endpoint against the loss, a line a compressor; training goes from right to left."""
    points = [
        {
            "x": at.loss,
            "value": value.value,
            "low": bounds and bounds[0],
            "high": bounds and bounds[1],
            "series": f"{family} {size}",
            "about": {"setup": f"{family} {size}", head.label: phrase(value.value, head.unit)},
        }
        for at in found
        for (family, size, _), value, bounds in zip(at.setups, at.values, at.bounds, strict=True)
    ]
    panel = charts.lines(
        points,
        f"{head.label}, at equal loss",
        "loss (nats/token)",
        "" if head.unit == "share" else head.unit,
        share=head.unit == "share",
    )
    return Chart("equal-loss", [[panel]], f"{head.label} against the loss, a line a compressor")
