"""Report section that compares several prior strengths or pretraining texts (factor.py)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcomp.analysis import charts, stats
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.factor import Factor
from jaxcomp.analysis.factor_effect import Change, Found, claimed, least
from jaxcomp.analysis.figures import possible
from jaxcomp.analysis.tables import cell, counted, csv_of, header, p_phrase, p_value, phrase

COLUMNS = (
    "level", "at", "prior_strength", "train_prior_strength", "metric", "family", "size", "params",
    "ratio", "n", "mean", "low", "high",
)  # fmt: skip


def blocks(factor: Factor, found: Sequence[Found]) -> list[Block]:
    """Words, tables and a figure for each ratio."""
    out: list[Block] = [Head(f"Against size and {factor.title}"), Para(_what(factor))]
    out += [Para(claim(factor, f)) for f in found if claimed(factor, f.head, f.ratio)]
    for ratio in factor.ratios:
        mine = [f for f in found if f.ratio == ratio]
        chart = plot(factor, mine, ratio)
        out += [_means(factor, mine, ratio), _slopes(factor, found, mine, ratio)]
        out += [chart] if chart else []
    return out


def _note(factor: Factor, found: Sequence[Found]) -> str:
    units = max((f.units for f in found), default=0)
    least_p = f" No p can be under {least(factor, units):.2g} here." if units else ""
    return (
        "Slope: from the smallest to the largest size along the least-squares line over log "
        "parameters, mean over families. Change: from the weakest to the strongest prior along the "
        "least-squares line; of a text, less the first. ± half of the 95% interval. p: one-sided "
        "permutations of the levels inside a pretraining seed, unadjusted and exploratory. All on "
        f"counterfactual passages.{least_p}"
    )


def claim(factor: Factor, found: Found) -> str:
    """The pre-registered claim of the primary endpoint, in the words of the verdict."""
    asked = (
        "Does a stronger prior make fidelity fall more with size?"
        if factor.ordered
        else f"Does fidelity fall more with size than for {factor.levels[0].name}?"
    )
    if not found.of_slopes:
        return f"{asked} Not measurable yet: no pretraining seed has all runs at every level."
    unit, smallest = found.head.unit, factor.cfg.sweep.smallest_effect

    def said(changes: Sequence[Change]) -> str:
        return "; ".join(
            f"{'' if factor.ordered else f'{c.name} '}{c.word} (change "
            f"{cell(c.value, unit, True)}, {p_phrase(c.p_claim)}; "
            f"{counted(c.value.n, 'run')} per size)"
            for c in changes
        )

    where = (
        f"{header(found.head)} at {found.ratio}x, smallest effect {phrase(smallest, unit, True)}"
    )
    out = (
        f"{asked} {where}: {said(found.of_slopes)}. Are fewer facts preserved, mean over sizes? "
        f"{said(found.of_means)}."
    )
    lowest = factor.claims * least(factor, found.units)
    if lowest >= stats.ALPHA:
        out += (
            f' "Yes" is out of reach with so few pretraining seeds: no p'
            f"{' (adjusted)' if factor.claims > 1 else ''} is under {min(1.0, lowest):.2g}."
        )
    if found.cramped:
        out += (
            f" At {' and at '.join(found.cramped)} no size is {phrase(smallest, unit, True)} above "
            "the no-memory baseline, so a smaller slope may be a floor effect."
        )
    if factor.own_decoders:
        out += (
            " Each prior strength has a single decoder of its own: what another one would change "
            "is in no interval and no p."
        )
    return out


def _what(factor: Factor) -> str:
    each = "; ".join(
        f"{x.name} ({x.results.cfg.name}, {counted(len(x.results.timings), 'job')} done, "
        f"{len(x.results.missing) + len(x.results.failed)} not)"
        for x in factor.levels
    )
    return f"Sweeps of one grid that differ in the {factor.title}: {each}."


def _means(factor: Factor, found: Sequence[Found], ratio: int) -> Table:
    head = [f"at {ratio}x", "family", "size", "parameters", *(x.name for x in factor.levels)]
    rows = [
        [
            header(f.head), family, size, f"{params:,}",
            *(cell(level[i], f.head.unit) for level in f.means),
        ]
        for f in found
        for i, (family, size, params) in enumerate(f.setups)
    ]  # fmt: skip
    return Table(head, rows, "Mean over runs ± half of its 95% interval, from three runs on.", 3)


def _slopes(factor: Factor, every: Sequence[Found], found: Sequence[Found], ratio: int) -> Table:
    head = [f"at {ratio}x", *(f"slope at {x.name}" for x in factor.levels)]
    names = next(([c.name for c in f.of_slopes] for f in found if f.of_slopes), [])
    head += [f"change of slope, {n}" for n in names] + [f"change of mean, {n}" for n in names]
    rows = []
    for f in found:
        cells = [cell(s, f.head.unit, True) for s in f.slopes] or ["–"] * len(factor.levels)
        changes = [
            f"{cell(c.value, f.head.unit, True)} "
            f"(p fall {p_value(c.p_fall)}, rise {p_value(c.p_rise)})"
            for c in (*f.of_slopes, *f.of_means)
        ]
        rows.append([header(f.head), *cells, *(changes or ["–"] * 2 * len(names))])
    return Table(head, rows, _note(factor, every), 1)


def as_csv(factor: Factor, found: Sequence[Found]) -> str:
    """One row a level, metric, setup: the mean over replicates and its 95% interval."""
    lines: list[Sequence] = [COLUMNS]
    for f in found:
        for level, means in zip(factor.levels, f.means, strict=True):
            world = level.results.cfg.world
            for (family, size, params), mean in zip(f.setups, means, strict=True):
                low, high = (mean.bounds if mean else None) or (None, None)
                numbers = (mean.n, mean.value, low, high) if mean else (0, None, None, None)
                lines.append(
                    (
                        level.name, level.at, world.prior_strength, world.train_prior_strength,
                        f.head.metric, family, size, params, f.ratio, *numbers,
                    )
                )  # fmt: skip
    return csv_of(lines)


def plot(factor: Factor, found: Sequence[Found], ratio: int) -> Chart | None:
    """A panel a metric, against the levels, a line a size; None where nothing was measured."""
    panels = []
    for f in found:
        families = {family for family, _, _ in f.setups}
        points = [
            {
                "x": level.at,
                "value": m.value,
                "low": m.bounds and possible(m.bounds[0], f.head),
                "high": m.bounds and possible(m.bounds[1], f.head),
                "series": f"{family} {size}" if len(families) > 1 else size,
                "about": {
                    "setup": f"{family} {size}, {ratio}x",
                    factor.title: level.name,
                    f.head.label: phrase(m.value, f.head.unit),
                    "runs": str(m.n),
                },
            }
            for i, (family, size, _) in enumerate(f.setups)
            for level, means in zip(factor.levels, f.means, strict=True)
            if (m := means[i]) is not None
        ]
        if points:
            unit = "" if f.head.unit == "share" else f.head.unit
            ticks = {x.at: f"{x.at:g}" if factor.ordered else x.name for x in factor.levels}
            panels.append(
                charts.lines(
                    points,
                    f"{f.head.label}, {ratio}x",
                    factor.title,
                    unit,
                    share=f.head.unit == "share",
                    ticks=ticks,
                )
            )
    if not panels:
        return None
    caption = "Means over runs with 95% intervals, from three runs on; a line a size."
    return Chart(
        f"{factor.file}-{ratio}x", [panels], f"Metrics against {factor.title}, {ratio}x", caption
    )
