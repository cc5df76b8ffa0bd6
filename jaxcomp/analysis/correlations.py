"""Do rank and entropy go with fidelity among models of one size? Size then explains nothing.

The units are the base seeds of a setup (family x size x ratio), each the mean over its training
seeds, which share the base's luck: counted as runs, they would make p too small. Their ranks
inside the setup are correlated over all setups of a ratio.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis.document import Block, Head, Para, Picture, Table
from jaxcomp.analysis.partial_correlation import Correlation, partial_correlation
from jaxcomp.analysis.plots import COLOURS, MARKERS
from jaxcomp.evals.metrics import FIDELITY, PREDICTOR, Headline, of_roles
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results

FIGURE = "fixed-size.png"


class Pair(NamedTuple):
    """What one base seed of a setup gives to a predictor and an outcome."""

    setup: grid.Setup
    x: float
    y: float


class Explained(NamedTuple):
    predictor: Headline
    outcome: Headline
    ratio: int
    found: Correlation
    pairs: list[Pair]  # of setups with two base seeds or more

    @property
    def setups(self) -> list[grid.Setup]:
        return list(dict.fromkeys(p.setup for p in self.pairs))


def explained(results: Results) -> list[Explained]:
    """Every predictor (effective rank, entropy) with every outcome of fidelity, at each ratio; of
    setups with two base seeds or more."""
    predictors = of_roles(results.cfg, PREDICTOR)
    outcomes = of_roles(results.cfg, *FIDELITY)
    out = []
    for ratio in grid.ratios(results.cfg):
        rows = [r for r in results.rows if r.job.setup.ratio == ratio]
        for x in predictors:
            for y in outcomes:
                held = _pairs(rows, x.metric, y.metric)
                if held:
                    names = ["/".join(map(str, p.setup)) for p in held]
                    both = [p.x for p in held], [p.y for p in held]
                    found = partial_correlation(*both, blocks_N=names)
                    out.append(Explained(x, y, ratio, found, held))
    return out


def _pairs(rows: Sequence[Result], x: str, y: str) -> list[Pair]:
    each: dict[grid.Setup, dict[int, list[tuple[float, float]]]] = defaultdict(dict)
    for r in rows:
        one, other = r.metrics.get(x), r.metrics.get(y)
        if one is not None and other is not None and math.isfinite(one) and math.isfinite(other):
            each[r.job.setup].setdefault(r.job.base_seed, []).append((one, other))
    return [
        Pair(setup, *(float(v) for v in np.mean(runs, axis=0)))
        for setup, bases in each.items()
        if len(bases) > 1
        for _, runs in sorted(bases.items())
    ]


def blocks(results: Results) -> list[Block]:
    found = explained(results)
    if not found:
        return []
    rows = [
        [
            f"{e.ratio}x",
            e.predictor.label,
            e.outcome.label,
            *cells(e.found),
            f"{e.found.n} in {len(e.setups)}",
        ]
        for e in found
    ]
    header = ["ratio", "predictor", "with", "rho", "95%, over setups", "p", "base seeds"]
    ratios, primary = [e.ratio for e in found], results.cfg.sweep.primary_ratio
    ratio = primary if primary in ratios else ratios[0]
    return [
        Head("Rank and entropy at fixed size"),
        Para(
            "Spearman's rank correlation among the base seeds of a setup, each the mean over its "
            "training seeds (ranks inside each setup, so size and family explain nothing of it), "
            "95% bootstrap over setups, two-sided permutation p inside setups, not adjusted: "
            "exploratory. A correlation among trained models is no cause."
        ),
        Table(header, rows),
        Para(
            f"At {ratio}x, a point a base seed: both values less their mean over the base seeds of "
            "that size, in the metrics' own units. rho and p are those of the table, of ranks."
        ),
        Picture(FIGURE, plot([e for e in found if e.ratio == ratio])),
    ]


def cells(c: Correlation) -> list[str]:
    if math.isnan(c.rho):
        return ["–", "–", "–"]
    bounds = "–" if math.isnan(c.low) else f"[{c.low:+.2f}, {c.high:+.2f}]"
    return [f"{c.rho:+.2f}", bounds, f"{c.p:.3f}"]


def plot(found: Sequence[Explained]) -> bytes:
    """PNG: a panel a predictor (rows) and outcome (columns) at one ratio; a colour a size's name, a
    marker a family. Values are less the mean of their setup."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    predictors = list(dict.fromkeys(e.predictor for e in found))
    outcomes = list(dict.fromkeys(e.outcome for e in found))
    figure = Figure(
        figsize=(3.2 * len(outcomes), 2.9 * len(predictors)), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    setups = list(dict.fromkeys((s.line, s.size) for e in found for s in e.setups))
    families, sizes = (list(dict.fromkeys(names)) for names in zip(*setups, strict=True))
    look = {
        (line, size): {
            "color": COLOURS[sizes.index(size) % len(COLOURS)],
            "marker": MARKERS[families.index(line) % len(MARKERS)],
            "label": f"{line} {size}" if len(families) > 1 else size,
        }
        for line, size in setups
    }
    handles = {}
    for e in found:
        row, column = predictors.index(e.predictor), outcomes.index(e.outcome)
        ax = figure.add_subplot(len(predictors), len(outcomes), row * len(outcomes) + column + 1)
        handles |= _panel(ax, e, look)
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=min(len(handles), 8),
        fontsize=7, frameon=False,
    )  # fmt: skip
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _panel(ax, e: Explained, look: Mapping[tuple[str, str], Mapping[str, str]]) -> dict:
    handles = {}
    for setup in e.setups:
        x, y = np.array([(p.x, p.y) for p in e.pairs if p.setup == setup]).T
        own = look[setup.line, setup.size]
        (handles[own["label"]],) = ax.plot(
            x - x.mean(), y - y.mean(), linestyle="none", alpha=0.8, markersize=4, **own
        )
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.8", linewidth=0.6, zorder=0)
    rho, _, p = cells(e.found)
    ax.set_title(f"rho {rho}, p {p}", fontsize=8)
    ax.set_xlabel(f"{e.predictor.label}, less its size's mean", fontsize=7)
    ax.set_ylabel(f"{e.outcome.label}, less its size's mean", fontsize=7)
    ax.tick_params(labelsize=6)
    ax.locator_params(axis="x", nbins=6)
    ax.grid(alpha=0.3, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    return handles
