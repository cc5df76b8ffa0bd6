"""The part of a report that compares sweeps at several doses, or of several texts (compare.py)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from jaxcomp.analysis import stats
from jaxcomp.analysis.compare import Change, Factor, Found, claimed, least
from jaxcomp.analysis.document import Block, Head, Para, Picture, Table
from jaxcomp.analysis.plots import COLOURS, MARKERS
from jaxcomp.analysis.size_tables import shown
from jaxcomp.analysis.tables import text

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
        out += [_means(factor, mine, ratio), _slopes(factor, mine, ratio)]
        png = plot(factor, mine)
        if png is not None:
            out.append(Picture(f"{factor.file}-{ratio}x.png", png))
    return [*out, Para(_NOTE + _least(factor, found))]


_NOTE = (
    "Slope: from the smallest size to the largest along the least-squares line over log "
    "parameters, mean over families. Change: of a dose, from the weakest to the strongest along "
    "the least-squares line over doses; of a text, less the first. ± half of the 95% interval, "
    "from draws of base seeds (and of passages, where every run has their records). p: one-sided, "
    "the levels changing places inside a base seed (under three of them inside a run, which says "
    "nothing of other bases); in the tables unadjusted and exploratory. In "
    "the claim above the p of several texts are adjusted by Holm's method, of slopes and of means "
    "apart, and bounds for their number. All on counterfactual passages, the same at every level."
)


def _least(factor: Factor, found: Sequence[Found]) -> str:
    units = max((f.units for f in found), default=0)
    if not units:
        return ""
    return f" So few levels and replicates give no p under {least(factor, units):.2g}."


def claim(factor: Factor, found: Found) -> str:
    """The pre-registered claim of the primary endpoint, in the words of the verdict."""
    if not found.of_slopes:
        return f"{_asked(factor)}: not measurable, no replicate is whole at every level yet."
    said = [f"{_named(factor, c)}{c.word} [{_numbers(c)}]" for c in found.of_slopes]
    kept = [f"{_named(factor, c)}{c.word} [{_numbers(c)}]" for c in found.of_means]
    smallest = factor.cfg.sweep.smallest_effect
    where = f"{found.head.label} at {found.ratio}x, smallest effect {smallest:g}"
    return (
        f"{_asked(factor)} ({where}): {'; '.join(said)}. Fewer facts kept, mean over sizes: "
        f"{'; '.join(kept)}.{_reach(factor, found)}{_room(found, smallest)}{_one_each(factor)}"
    )


def _room(found: Found, smallest: float) -> str:
    """Says where size could not show, which takes a slope to zero by itself."""
    if not found.cramped:
        return ""
    return (
        f" At {' and at '.join(found.cramped)} no size keeps {smallest:g} more than the decoder "
        "without memory: a smaller slope may be want of room."
    )


def _one_each(factor: Factor) -> str:
    if not factor.own_decoders:
        return ""
    return (
        " Each dose has a single decoder of its own: what another one would change is in no "
        "interval and no p."
    )


def _reach(factor: Factor, found: Found) -> str:
    """Says where "present" is out of reach, whatever the numbers."""
    lowest = factor.claims * least(factor, found.units)
    if lowest < stats.ALPHA:
        return ""
    adjusted = " (adjusted)" if factor.claims > 1 else ""
    return (
        f' "Present" cannot be reached with so few replicates: no p{adjusted} is under '
        f"{min(1.0, lowest):.2g}."
    )


def _asked(factor: Factor) -> str:
    return (
        "The stronger the prior, the more fidelity falls with size"
        if factor.ordered
        else f"Beside {factor.levels[0].name}, fidelity falls more with size"
    )


def _named(factor: Factor, change: Change) -> str:
    return "" if factor.ordered else f"{change.name} "


def _numbers(change: Change) -> str:
    return f"change {_signed(change.value)}, p {change.p_claim:.2g}; {_units(change.value)}"


def _units(value: stats.Estimate) -> str:
    return f"{value.n} replicate" if value.n == 1 else f"{value.n} replicates"


def _what(factor: Factor) -> str:
    each = "; ".join(
        f"{x.name} ({x.results.cfg.name}, {len(x.results.timings)} jobs done, "
        f"{len(x.results.missing) + len(x.results.failed)} not)"
        for x in factor.levels
    )
    return f"Sweeps of one grid that differ in the {factor.title}: {each}."


def _means(factor: Factor, found: Sequence[Found], ratio: int) -> Table:
    header = [f"at {ratio}x", "family", "size", "parameters", *(x.name for x in factor.levels)]
    rows = []
    for f in found:
        for i, (family, size, params) in enumerate(f.setups):
            cells = [level[i] for level in f.means]
            said = ["–" if c is None else shown(c) for c in cells]
            rows.append([f.head.label, family, size, f"{params:,}", *said])
    return Table(header, rows)


def _slopes(factor: Factor, found: Sequence[Found], ratio: int) -> Table:
    header = [f"at {ratio}x", *(f"slope at {x.name}" for x in factor.levels)]
    names = next(([c.name for c in f.of_slopes] for f in found if f.of_slopes), [])
    header += [f"change of slope, {n}" for n in names] + [f"change of mean, {n}" for n in names]
    rows = []
    for f in found:
        cells = [_signed(s) for s in f.slopes] or ["–"] * len(factor.levels)
        changes = [
            f"{_signed(c.value)} (fall {c.p_fall:.2g}, rise {c.p_rise:.2g})"
            for c in (*f.of_slopes, *f.of_means)
        ]
        rows.append([f.head.label, *cells, *(changes or ["–"] * 2 * len(names))])
    return Table(header, rows)


def _signed(e: stats.Estimate) -> str:
    return f"{e.value:+.3f} (n = {e.n})" if e.half is None else f"{e.value:+.3f} ± {e.half:.2g}"


def as_csv(factor: Factor, found: Sequence[Found]) -> str:
    """One row a level, metric, setup: the mean over replicates and its 95% interval."""
    lines: list[list[str]] = [list(COLUMNS)]
    for f in found:
        for level, means in zip(factor.levels, f.means, strict=True):
            world = level.results.cfg.world
            for (family, size, params), mean in zip(f.setups, means, strict=True):
                low, high = (mean.bounds if mean else None) or (None, None)
                numbers = (mean.n, mean.value, low, high) if mean else (0, None, None, None)
                cells = (
                    level.name, level.at, world.prior_strength, world.train_prior_strength,
                    f.head.metric, family, size, params, f.ratio, *numbers,
                )  # fmt: skip
                lines.append([text(c) for c in cells])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def plot(factor: Factor, found: Sequence[Found]) -> bytes | None:
    """PNG: a panel a metric, against the levels, a line a size; None where nothing was measured.
    Bars are 95% intervals over replicates, where there are three."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not any(mean for f in found for means in f.means for mean in means):
        return None
    figure = Figure(figsize=(3.4 * len(found), 3.1), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    at = [level.at for level in factor.levels]
    step = (max(at) - min(at)) / 80
    for k, f in enumerate(found):
        ax = figure.add_subplot(1, len(found), k + 1)
        families = sorted({family for family, _, _ in f.setups})
        for i, (family, size, _) in enumerate(f.setups):
            held = [(x, means[i]) for x, means in zip(at, f.means, strict=True)]
            drawn = [(x, m) for x, m in held if m is not None]
            ax.errorbar(
                # Side by side, or bars of one dose would hide each other.
                [x + (i - (len(f.setups) - 1) / 2) * step for x, _ in drawn],
                [m.value for _, m in drawn],
                yerr=[m.half or 0.0 for _, m in drawn],
                label=f"{family} {size}" if len(families) > 1 else size,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[families.index(family) % len(MARKERS)],
                capsize=2, markersize=4, linewidth=1.2,
            )  # fmt: skip
        ax.set_xticks(at, [_tick(factor, x) for x in factor.levels], fontsize=7)
        ax.set_xlabel(factor.title, fontsize=8)
        ax.set_title(f.head.label, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.3, linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        if k == 0:
            ax.legend(fontsize=6, frameon=False, title="compressor", title_fontsize=6)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _tick(factor: Factor, level) -> str:
    return f"{level.at:g}" if factor.ordered else level.name.replace(" ", "\n")
