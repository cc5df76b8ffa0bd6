"""Figures of a sweep: loss and facts against size, outcomes of facts, mechanisms."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from jaxcomp.analysis import charts, stats
from jaxcomp.analysis.charts import Chart, Point
from jaxcomp.analysis.tables import no_memory_of, phrase, points
from jaxcomp.evals.metrics import Headline, endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results

SIZE = "compressor parameters"


def main(results: Results) -> Chart | None:
    """The two metrics of the verdict (rows) against size, a panel a ratio; None without them."""
    caption = (
        "Each point is the mean over the runs of a size. Bars: 95% interval, over runs where "
        "there are three, else over the passages of the one run (which says nothing of other "
        f"models).{_baseline(results)}"
    )
    chart = of_metrics(results, "main", endpoints(results.cfg), caption)
    hint = "Rest on a point for its numbers; a click leads to its row."
    return chart and chart._replace(page=hint)


def _baseline(results: Results) -> str:
    found = [(h, no_memory_of(results, h.metric)) for h in endpoints(results.cfg)]
    said = [f"{h.label} {phrase(v, h.unit)}" for h, v in found if v is not None]
    return f" Without memory: {', '.join(said)}." if said else ""


def of_metrics(
    results: Results, name: str, heads: Sequence[Headline], caption: str = ""
) -> Chart | None:
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
    alt = f"{labels} against compressor size, one panel a ratio"
    return Chart(name, rows, alt, caption) if rows else None


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
            head.label: phrase(mean.value, head.unit),
            "95% interval": "none"
            if low is None or high is None
            else f"{phrase(low, head.unit)} to {phrase(high, head.unit)} (over {over})",
            "pretraining seeds": str(len({p.base_seed for p in runs})),
            "runs": str(len(runs)),
        }
        out.append(
            {
                "x": params,
                "value": mean.value,
                "low": possible(low, head),
                "high": possible(high, head),
                "series": family,
                "link": f"#{place(family, size, ratio)}",
                "about": about,
            }
        )
    return out


def place(family: str, size: str, ratio: int) -> str:
    """The anchor of a setup's row."""
    return f"setup-{family}-{size}-{ratio}".replace(" ", "_")


def passages_interval(
    results: Results, head: Headline, ratio: int, run: stats.Point
) -> tuple[float, float] | None:
    key = (run.family, run.size, ratio, run.base_seed, run.seed)
    for r in results.rows:
        s = r.job.setup
        if (s.line, s.size, s.ratio, r.job.base_seed, r.job.seed) == key:
            return r.intervals.get(head.metric)
    return None


def possible(bound: float | None, head: Headline) -> float | None:
    """A share is drawn between 0% and 100%."""
    return bound if bound is None or head.unit != "share" else min(max(bound, 0.0), 1.0)


ORDER = ("preserved", "overwritten", "reverted", "swapped", "substituted", "omitted")


def facts(results: Results) -> Chart | None:
    """What became of the facts of the primary endpoint: by size, and by kind of fact over all
    sizes; a panel a ratio. None where it was not measured."""
    column = endpoints(results.cfg)[1].metric
    group = column.rpartition("/")[0]
    base = group.rpartition("/")[0]
    names = {m for r in results.rows for m in r.metrics if m.startswith(f"{base}/")}
    parts = {name: name for name in ORDER if f"{group}/{name}" in names}
    kinds = sorted({m.split("/")[-2] for m in names if m.endswith(f"/{ORDER[0]}")} - {"all"})
    ratios = grid.ratios(results.cfg)
    by_size, by_kind = [], []
    for ratio in ratios:
        rows = [r for r in results.rows if r.job.setup.ratio == ratio]
        bars: dict[str, list[Result]] = defaultdict(list)
        for r in sorted(rows, key=lambda r: (r.job.setup.line, r.metrics["params"])):
            bars[f"{r.job.setup.line} {r.job.setup.size}"].append(r)
        each = [b for name, runs in bars.items() for b in _bar(name, runs, group, parts)]
        if each:
            order = list(bars)
            by_size.append(
                charts.stacked(each, f"By size, {ratio}x", "of these facts", parts, order)
            )
        each = [b for kind in kinds for b in _bar(kind, rows, f"{base}/{kind}", parts)]
        if each:
            by_kind.append(
                charts.stacked(each, f"By kind, {ratio}x", "of these facts", parts, kinds)
            )
    rows = [row for row in (by_size, by_kind) if row]
    caption = (
        "Facts that the source states against the prior: what the rebuilt text says in their "
        "place. Means over all runs; below, by kind of fact, over all sizes."
    )
    return Chart("facts", rows, "What became of the facts", caption, parts) if rows else None


def _bar(name: str, runs: Sequence[Result], group: str, parts: Iterable[str]) -> list[Point]:
    out = []
    for place, part in enumerate(parts):
        held = [v for r in runs if (v := r.metrics.get(f"{group}/{part}")) is not None]
        if held:
            share = statistics.fmean(held)
            out.append(
                {
                    "bar": name,
                    "part": part,
                    "share": share,
                    "place": place,
                    "value": f"{share:.1%}",
                    "runs": len(held),
                }
            )
    return out
