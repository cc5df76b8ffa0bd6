"""Plots of a sweep: one metric a picture, against compressor size, one line per ratio."""

from __future__ import annotations

import io
import math
from collections import defaultdict

from jaxcomp.analysis import stats
from jaxcomp.analysis.tables import floor_of, own_decoder, points
from jaxcomp.evals.metrics import Headline
from jaxcomp.sweep.collect import Results

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", "--", ":", "-.")


def plot(results: Results, head: Headline) -> bytes | None:
    """PNG of one metric; None where nothing was measured.

    Colours are ratios, markers and line styles are families. Bars are 95% intervals: over
    replicates (`stats.mean`) where a point has at least three, else over the passages of its one
    model. Dotted: the frozen decoder without memory.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    families = sorted({r.job.setup.line for r in results.rows})
    drawn = False
    for i, ratio in enumerate(sorted({r.job.setup.ratio for r in results.rows})):
        for j, family in enumerate(families):
            style = {
                "color": COLOURS[i % len(COLOURS)],
                "marker": MARKERS[j % len(MARKERS)],
                "linestyle": STYLES[j % len(STYLES)],
            }
            label = f"{ratio}x" + (f" {family}" if len(families) > 1 else "")
            drawn |= _line(ax, results, head, ratio, family, label, style)
    if not drawn:
        return None
    floor = floor_of(results, head.metric)
    if floor is not None:
        others = any(own_decoder(r) for r in results.rows)
        label = "no memory, frozen decoder" if others else "no memory"
        ax.axhline(floor, color="0.5", linewidth=0.8, linestyle=":", label=label)
    ax.set_xscale("log")
    ax.set_xlabel("compressor parameters")
    ax.set_title(head.label, fontsize=10)
    ax.grid(alpha=0.3, which="both", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _line(ax, results: Results, head: Headline, ratio: int, family: str, label, style) -> bool:
    """One line with bars, and the tuned rate's as hollow markers; False where it is empty."""
    found = summary(results, head.metric, ratio, family)
    if not found:
        return False
    x, mean, low, high = (list(c) for c in zip(*found, strict=True))
    bars = [
        [m - a if a is not None else 0.0 for m, a in zip(mean, low, strict=True)],
        [b - m if b is not None else 0.0 for m, b in zip(mean, high, strict=True)],
    ]
    bars = [[max(0.0, v) for v in side] for side in bars]
    ax.errorbar(x, mean, yerr=bars, label=label, capsize=2, markersize=4, linewidth=1.2, **style)
    tuned = summary(results, head.metric, ratio, family, tuned=True)
    if tuned:
        look = {**style, "linestyle": (0, (1, 3)), "markerfacecolor": "none"}
        ax.plot(
            [t[0] for t in tuned], [t[1] for t in tuned],
            label=f"{label}, tuned rate", markersize=7, linewidth=0.8, **look,
        )  # fmt: skip
    return True


def summary(
    results: Results, metric: str, ratio: int, family: str, tuned: bool = False
) -> list[tuple[float, float, float | None, float | None]]:
    """(parameters, mean, low, high) of each size, smallest first; bounds None where unknown."""
    held: dict[float, list[stats.Point]] = defaultdict(list)
    for p in points(results.rows, metric, ratio, tuned):
        if p.family == family and p.value is not None and math.isfinite(p.value):
            held[p.params].append(p)
    out = []
    for params, found in sorted(held.items()):
        mean = stats.mean(found)
        assert mean is not None  # every point held has a value
        bounds = mean.bounds
        if len(found) == 1 and not tuned:
            row = next(
                r
                for r in results.rows
                if (r.job.setup.line, r.job.setup.ratio, r.metrics["params"])
                == (family, ratio, params)
                and r.metrics.get(metric) is not None
            )
            bounds = row.intervals.get(metric)
        out.append((params, mean.value, *(bounds or (None, None))))
    return out
