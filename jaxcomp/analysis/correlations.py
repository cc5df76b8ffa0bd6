"""Correlations of rank and entropy with fidelity among models of one size.

The units are the base seeds of a setup (family x size x ratio), each the mean over its training
seeds, which are not independent: counted as runs, they would make p too small. Their ranks
inside the setup are correlated over all setups of a ratio.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import charts
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.document import Folded, Table
from jaxcomp.analysis.partial_correlation import Correlation, partial_correlation
from jaxcomp.evals.metrics import FIDELITY, PREDICTOR, Headline, of_roles
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results


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
                found, held = inside_setups(rows, x.metric, y.metric)
                if held:
                    out.append(Explained(x, y, ratio, found, held))
    return out


def inside_setups(rows: Sequence[Result], x: str, y: str) -> tuple[Correlation, list[Pair]]:
    """Two metrics over the base seeds of every setup, ranks inside the setup; and the values."""
    held = _pairs(rows, x, y)
    names = ["/".join(map(str, p.setup)) for p in held]
    both = [p.x for p in held], [p.y for p in held]
    return partial_correlation(*both, blocks_N=names), held


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


def folded(results: Results) -> list[Folded]:
    """Nothing where no setup has two pretraining seeds."""
    found = explained(results)
    if not found:
        return []
    rows = [
        [
            f"{e.ratio}x", e.predictor.label, e.outcome.label, *cells(e.found),
            f"{e.found.n} in {len(e.setups)}",
        ]
        for e in found
    ]  # fmt: skip
    header = ["ratio", "predictor", "with", "rho", "95% interval", "p", "pretraining seeds"]
    caption = (
        "Spearman's rho among the pretraining seeds of a setup, each the mean over its training "
        "seeds (ranks inside each setup, so size explains nothing of it); 95% bootstrap over "
        "setups, two-sided permutation p inside setups, unadjusted and exploratory. A correlation "
        "among trained models is no cause."
    )
    ratios, primary = [e.ratio for e in found], results.cfg.sweep.primary_ratio
    ratio = primary if primary in ratios else ratios[0]
    at = [e for e in found if e.ratio == ratio]
    title = "Do rank and uncertainty explain faithfulness at a fixed size?"
    return [Folded(title, [Table(header, rows, caption, 3), plot(at, ratio)])]


def cells(c: Correlation) -> list[str]:
    if math.isnan(c.rho):
        return ["–", "–", "–"]
    bounds = "–" if math.isnan(c.low) else f"[{c.low:+.2f}, {c.high:+.2f}]"
    return [f"{c.rho:+.2f}", bounds, f"{c.p:.3f}"]


def plot(found: Sequence[Explained], ratio: int) -> Chart:
    """A panel a predictor (rows) and outcome at one ratio, a point a pretraining seed of a setup:
    both values less their mean over the setup."""
    rows: dict[str, list] = {}
    for e in found:
        points = []
        for setup in e.setups:
            mine = [p for p in e.pairs if p.setup == setup]
            x, y = (float(np.mean([getattr(p, k) for p in mine])) for k in ("x", "y"))
            name = f"{setup.line} {setup.size}"
            points += [
                {"x": p.x - x, "value": p.y - y, "series": name, "about": {"setup": name}}
                for p in mine
            ]
        rho, _, p = cells(e.found)
        y = f"{e.outcome.label}, less its size's mean"
        x = f"{e.predictor.label}, less its size's mean"
        title = f"rho {rho}, p {p}"
        rows.setdefault(e.predictor.metric, []).append(
            charts.lines(points, title, x, y, share=e.outcome.unit == "share", joined=False)
        )
    alt = "Effective rank and decoder uncertainty against faithfulness at a fixed size"
    caption = f"At {ratio}x; a point a pretraining seed. rho and p are of ranks, as in the table."
    return Chart("fixed-size", list(rows.values()), alt, caption)
