"""Compressors of several sizes at the same loss: does a larger one then keep fewer facts?

Each run is read where its loss first falls to a level that every run reaches (relations.levels), on
the straight line between its two checkpoints there: its facts kept, and what each passage gives to
them. Runs of one compressor are its replicates. The claim is made at the lowest level, where
training has gone furthest, by the rules and in the words of the sweep's verdict; levels above it
show how it came about.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.analysis import decoder_names, stats
from jaxcomp.analysis.document import Block, Para, Picture, Table
from jaxcomp.analysis.plots import COLOURS, MARKERS
from jaxcomp.analysis.relations import around, levels
from jaxcomp.analysis.size_tables import shown
from jaxcomp.analysis.stats import ALPHA, MIN_REPLICATES, Estimate, Point, Trend
from jaxcomp.analysis.verdict import (
    ABSENT,
    PRESENT,
    UNDECIDED,
    Asked,
    Fall,
    counted,
    falls,
    few,
    no_room,
)
from jaxcomp.config import Config
from jaxcomp.evals.checkpoints import Followed
from jaxcomp.evals.intervals import ratio_interval
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
    if not all(decoder_names.same(cfgs[0], cfg) for cfg in cfgs[1:]):
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
    # A passage has the same slots at every checkpoint, so sums lie on the line that the rates do.
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
    floors = [run.rows[-1].metrics.get(without_memory(kept.metric)) or 0.0 for run in runs]
    asked = Asked(kept.label, cfg.sweep.smallest_effect, max(floors))
    worst = max(falls(sample), key=lambda f: f.bound)
    if trend.p_fall < ALPHA:
        return worst, PRESENT
    absent = worst.bound < asked.smallest and not no_room(sample, asked)
    return worst, ABSENT if absent else UNDECIDED


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
    return [
        Para(_claim(found[-1], head, runs[0].cfg.sweep.smallest_effect)),
        _table(found, head),
        Picture("equal-loss.png", _plot(found, head)),
        Para(_NOTE),
    ]


_NOTE = (
    "Sizes at one loss; n runs of each, with a 95% interval over what is named (passages of one "
    "run say nothing of other models). rho: Spearman's with the parameters of the layers, inside a "
    "base seed and training seed; p, from three base seeds on: one-sided permutations of the "
    "sizes. Only the lowest loss was chosen before looking; the others are exploratory. A "
    "checkpoint before the last one stands at a higher learning rate than the end of its run, and "
    "a size that gets to a loss early has seen fewer passages: equal loss is not equal training."
)


def _claim(at: AtLoss, head: Headline, smallest: float) -> str:
    t = at.trend
    said = f"rho {_trend(t, 'p')}" if t.replicates else "no size has all replicates"
    if at.worst is not None:
        w = at.worst
        said += (
            f"; least sure that the largest is not below: {w.family} {w.large} under {w.small} by "
            f"{w.fall:+.3f}, bound {w.bound:+.3f}"
        )
    return (
        f"At an equal loss of {at.loss:.3f} nats a token, larger compressors keep fewer facts "
        f"({head.label}): {at.word} [{said}; smallest effect {smallest:g}; {counted(t)}]."
    )


def _trend(t: Trend, name: str) -> str:
    """With its p only where there are base seeds enough for a test."""
    return f"{t.rho:+.2f}" + (f", {name} {t.p_fall:.2g}" if t.bases >= MIN_REPLICATES else "")


def _table(found: Sequence[AtLoss], head: Headline) -> Table:
    rows = []
    for at in found:
        trend = _trend(at.trend, "p(fall)") if at.trend.replicates else "–"
        for setup, value, bounds, over in zip(
            at.setups, at.values, at.bounds, at.over, strict=True
        ):
            family, size, params = setup
            span = "–" if bounds is None else f"[{bounds[0]:.3f}, {bounds[1]:.3f}], {over}"
            mean = shown(value) if value.half is None else f"{value.value:.4g} (n = {value.n})"
            rows.append([f"{at.loss:.3f}", family, size, f"{params:,.0f}", mean, span, trend])
    header = ["loss", "family", "size", "parameters of layers", head.label, "95%, over", "rho"]
    return Table(header, rows)


def _plot(found: Sequence[AtLoss], head: Headline) -> bytes:
    """The endpoint against the loss, a line a compressor; training goes from right to left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    setups = sorted({s for at in found for s in at.setups}, key=lambda s: (s[0], s[2], s[1]))
    families = sorted({family for family, _, _ in setups})
    for i, setup in enumerate(setups):
        held = [(at, at.setups.index(setup)) for at in found if setup in at.setups]
        value = [at.values[k].value for at, k in held]
        span = [at.bounds[k] or (v, v) for (at, k), v in zip(held, value, strict=True)]
        ax.errorbar(
            [at.loss for at, _ in held],
            value,
            yerr=[
                [max(0.0, v - low) for v, (low, _) in zip(value, span, strict=True)],
                [max(0.0, high - v) for v, (_, high) in zip(value, span, strict=True)],
            ],
            label=f"{setup[0]} {setup[1]}",
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[families.index(setup[0]) % len(MARKERS)],
            capsize=2, markersize=4, linewidth=1.2,
        )  # fmt: skip
    ax.set_xlabel("loss, nats a token")
    ax.set_title(f"{head.label}, at equal loss", fontsize=10)
    ax.grid(alpha=0.3, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
