"""The figures of a sweep: loss and facts against size, what became of the facts, mechanisms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from jaxcomp.analysis import charts, stats
from jaxcomp.analysis.charts import Chart, Point
from jaxcomp.analysis.tables import points
from jaxcomp.evals.metrics import Headline, endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results

SIZE = "compressor parameters"


def main(results: Results) -> Chart | None:
    """The two metrics of the verdict (rows) against size, a panel a ratio; None without them."""
    return of_metrics(results, "main", endpoints(results.cfg))


def of_metrics(results: Results, name: str, heads: Sequence[Headline]) -> Chart | None:
    """Metrics (rows) against size, a panel a ratio; None where nothing was measured."""
    ratios = grid.ratios(results.cfg)
    found = {(h, r): sizes(results, h, r) for h in heads for r in ratios}
    rows = [
        [
            charts.lines(
                found[h, r],
                f"{h.label[0].upper()}{h.label[1:]}, {r}x",
                SIZE,
                "" if h.unit == "share" else h.unit,
                log=True,
                share=h.unit == "share",
            )
            for r in ratios
            if found[h, r]
        ]
        for h in heads
        if any(found[h, r] for r in ratios)
    ]
    labels = " and ".join(h.label for h in heads)
    return (
        Chart(name, rows, f"{labels} against compressor size, one panel a ratio") if rows else None
    )


def sizes(results: Results, head: Headline, ratio: int) -> list[Point]:
    """A point a setup: the mean over its runs and its 95% interval, over runs where there are
    three, else over the passages of its one run."""
    held: dict[tuple[str, float, str], list[stats.Point]] = defaultdict(list)
    for p in points(results.rows, head.metric, ratio):
        if p.value is not None and math.isfinite(p.value):
            held[p.family, p.params, p.size].append(p)
    out = []
    for (family, params, size), runs in sorted(held.items()):
        mean = stats.mean(runs)
        assert mean is not None  # every run held has a value
        bounds, over = mean.bounds, ", ".join(mean.levels)
        if len(runs) == 1:
            bounds, over = passages_interval(results, head, ratio, runs[0]), "passages of its run"
        low, high = bounds or (None, None)
        about = {
            "setup": f"{family} {size}, {ratio}x",
            head.label: shown(mean.value, head.unit),
            "95% interval": "none"
            if low is None or high is None
            else f"{shown(low, head.unit)} to {shown(high, head.unit)} (over {over})",
            "pretraining seeds": str(len({p.base_seed for p in runs})),
            "runs": str(len(runs)),
        }
        out.append(
            {
                "x": params,
                "value": mean.value,
                "low": _possible(low, head),
                "high": _possible(high, head),
                "series": family,
                "link": f"#{family}-{size}-{ratio}",
                "about": about,
            }
        )
    return out


def passages_interval(
    results: Results, head: Headline, ratio: int, run: stats.Point
) -> tuple[float, float] | None:
    key = (run.family, run.size, ratio, run.base_seed, run.seed)
    for r in results.rows:
        s = r.job.setup
        if (s.line, s.size, s.ratio, r.job.base_seed, r.job.seed) == key:
            return r.intervals.get(head.metric)
    return None


def _possible(bound: float | None, head: Headline) -> float | None:
    """A share is drawn between 0% and 100%."""
    return bound if bound is None or head.unit != "share" else min(max(bound, 0.0), 1.0)


def shown(value: float, unit: str) -> str:
    """Three digits; a share as a percentage."""
    return f"{value:.1%}" if unit == "share" else f"{value:.3g}"
