"""Does a larger compressor overwrite more? First of all, do larger pretrained models know more?

A compressor can put what it knows in the place of what it reads only if it knows something, and
size can matter for that reason only if the sizes know different amounts. So the knowledge of the
pretrained models stands before any word about overwriting, and where it does not grow with size,
nothing is claimed.

**Gate.** In every family the largest model knows more bits than the smallest, by at least a tenth
of its own; from three pretraining seeds on, the 95% interval of the difference excludes 0 too.

**Answer.** Of the pull of the prior where it is measured, else of overwriting. At the primary
ratio, over replicates as in `verdict`: *yes*, it rises with size at one-sided p < 0.05; *no*, in
every family the largest size is above each smaller one by less than `sweep.smallest_effect`
(one-sided 95% bounds); *inconclusive*, neither, or under three pretraining seeds, or a closed gate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import figures, stats
from jaxcomp.analysis.answer import seeds
from jaxcomp.analysis.document import Answer, Block, Head, Table
from jaxcomp.analysis.stats import ALPHA, MIN_REPLICATES, Estimate, Point
from jaxcomp.analysis.tables import cell, number, p_phrase, phrase, points
from jaxcomp.analysis.verdict import falls
from jaxcomp.evals.metrics import OVERWRITING, PLACEHOLDERS, PULL, Headline, of_roles
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results

BITS = "knowledge/base/all/bits"
RETAINED = "knowledge/retained"
LEAST = 0.1  # of the largest model's bits: a smaller difference is none
QUESTION = "Does a larger compressor overwrite more of what it reads?"


class Gate(NamedTuple):
    """Whether the pretrained models of every family differ in what they know, and the sentence."""

    open: bool
    sentence: str


def blocks(results: Results, opened: Gate | None) -> list[Block]:
    """What the pretrained models know, then the answer; nothing without a gate."""
    if opened is None:
        return []
    out: list[Block] = [Head("What the pretrained models know"), _table(results, opened)]
    heads = of_roles(results.cfg, PULL) or of_roles(results.cfg, OVERWRITING)
    out += [_answer(results, head, opened) for head in heads]
    drawn = of_roles(results.cfg, PULL)  # else it is in the figure of outcomes
    chart = figures.of_metrics(results, "overwriting", drawn, drawn[0].meaning) if drawn else None
    return [*out, *([chart] if chart else [])]


def gate(results: Results) -> Gate | None:
    """Do the larger pretrained models know more? None where knowledge is not measured, or the
    grid has one size."""
    sizes = grid.sizes(results.cfg)
    known = any(r.metrics.get(BITS) is not None for r in results.rows)
    if not known or all(len(names) < 2 for names in sizes.values()):
        return None
    found = stats.sample(_of_bases(results, BITS), sizes)
    if not found.families:
        why = "No pretraining seed has a run of every size whose knowledge is measured."
        return Gate(False, why)
    said, opened = [], True
    for family in found.families:
        small, *_, large = found.columns(family)
        contrast = np.zeros(len(found.setups))
        contrast[[small, large]] = -1.0, 1.0
        more, most = stats.estimate(found, contrast), found.value_RC[:, large].mean()
        least = found.value_RC[:, small].mean()
        sure = more.bounds is None or more.bounds[0] > 0
        opened &= sure and more.value >= LEAST * most > 0
        names = f"{family} {found.setups[small][1]} → {found.setups[large][1]}"
        said.append(f"{names}: {number(least)} → {number(most)} bits (difference {cell(more)})")
    rule = "Larger pretrained models know more" if opened else (
        "The pretrained models of all sizes know about equally much, so this sweep says nothing "
        "about overwriting by size"
    )  # fmt: skip
    return Gate(opened, f"{rule}. {'; '.join(said)}; {seeds(found.bases).lower()}.")


def _answer(results: Results, head: Headline, opened: Gate) -> Answer:
    ratio, smallest = results.cfg.sweep.primary_ratio, results.cfg.sweep.smallest_effect
    if not opened.open:
        return Answer(QUESTION, "Inconclusive", opened.sentence)
    held, sizes = points(results.rows, head.metric, ratio), grid.sizes(results.cfg, ratio)
    found, trend = stats.sample(held, sizes), stats.trend(held, sizes)
    if found.bases < MIN_REPLICATES:
        why = f"{seeds(found.bases)} per size cannot answer it at {ratio}x."
        settle = "Run at least 3 pretraining seeds (sweep.base_seeds)."
        return Answer(QUESTION, "Inconclusive", why, _ends(found, head, ratio), settle)
    # `falls` of the negated endpoint: by how much the largest size is above each smaller one.
    negated = found._replace(value_RC=-found.value_RC, sums_2RCW=_negated(found.sums_2RCW))
    worst = max(falls(negated), key=lambda f: f.bound)
    said = (
        f"At {ratio}x, {head.label} {stats.way(trend)} with size "
        f"(Spearman's rho {trend.rho:+.2f}, {p_phrase(min(trend.p_rise, trend.p_fall))})."
    )
    bound = (
        f"the largest size is above a smaller one by at most "
        f"{phrase(max(worst.bound, 0.0), head.unit, step=True)} (95%, {worst.family} {worst.large} "
        f"compared with {worst.small})"
    )
    sign = "Inconclusive"
    if trend.p_rise < ALPHA:
        sign = "Yes"
    elif worst.bound < smallest:
        sign = "No"
    why = f"{said} {bound[0].upper()}{bound[1:]}."
    return Answer(QUESTION, sign, why, _ends(found, head, ratio))


def _negated(sums_2RCW: np.ndarray | None) -> np.ndarray | None:
    return None if sums_2RCW is None else sums_2RCW * np.array([-1, 1]).reshape(2, 1, 1, 1)


def _ends(found: stats.Sample, head: Headline, ratio: int) -> str:
    """The smallest and the largest size of each family, means over replicates."""
    said = []
    for family in found.families:
        small, *_, large = found.columns(family)
        ends = [found.value_RC[:, c].mean() for c in (small, large)]
        names = f"{family} {found.setups[small][1]} → {found.setups[large][1]}"
        said.append(f"{names}: {number(ends[0], head.unit)} → {phrase(ends[1], head.unit)}")
    return (
        f"{head.label[0].upper()}{head.label[1:]} at {ratio}x: {'; '.join(said)}." if said else ""
    )


def _of_bases(results: Results, metric: str) -> list[Point]:
    """One point a pretrained model, whatever the ratios and seeds it was trained at."""
    found: dict[str, Result] = {}
    for r in results.rows:  # rows measured by an earlier version have no knowledge
        if r.metrics.get(metric) is not None:
            found.setdefault(f"{r.job.setup.line} {r.job.base}", r)
    return [
        Point(
            r.job.setup.line,
            r.job.setup.size,
            r.metrics["params"],
            r.job.base_seed,
            0,
            r.metrics.get(metric),
        )
        for r in found.values()
    ]


def _table(results: Results, opened: Gate) -> Table:
    groups = [
        g
        for g in PLACEHOLDERS["group"]
        if any(r.metrics.get(f"knowledge/base/{g}/accuracy") is not None for r in results.rows)
    ]
    setups = sorted(
        {(r.job.setup.line, r.metrics["params"], r.job.setup.size) for r in results.rows}
    )
    body = []
    for line, params, size in setups:
        mine = [r for r in results.rows if (r.job.setup.line, r.job.setup.size) == (line, size)]
        accuracy = [_mean(mine, f"knowledge/base/{g}/accuracy", "share") for g in groups]
        body.append(
            [
                line,
                size,
                f"{params:,}",
                _mean(mine, BITS),
                *accuracy,
                _mean(mine, RETAINED, "share"),
            ]
        )
    named = [f"favourites known, {g} (%)" if g != "all" else "favourites known (%)" for g in groups]
    head = ["family", "size", "parameters", "known (bits)", *named, "retained after training (%)"]
    caption = (
        "Known: the bits by which the pretrained model shortens one mention of "
        "each fact. Retained: the share of them that the compressor's tower still has after "
        "training, mean over all runs. ± half of the 95% interval over pretraining seeds, from "
        "three on."
    )
    return Table(head, body, caption, 2)


def _mean(found: list[Result], metric: str, unit: str = "") -> str:
    held = [
        Point("", "", 0.0, r.job.base_seed, i, value)
        for i, r in enumerate(found)
        if (value := r.metrics.get(metric)) is not None and math.isfinite(value)
    ]
    estimate: Estimate | None = stats.mean(held)
    return cell(estimate, unit)
