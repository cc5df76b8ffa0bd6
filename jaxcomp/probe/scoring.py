"""Whose answer it is: the passage's, the world's, or neither; shares and means with intervals.

Every outcome is one of OUTCOMES, by one of SCORINGS:

    mean    the option with the highest mean ln p a token
    sum     the option with the highest sum of ln p
    exact   the side one of whose answers the greedy answer is, by SQuAD's exact match
    holds   the side one of whose answers stands in the greedy answer as whole words

A tie of the first two, both or neither of the last two, and an option that is neither side's are
`other`.

`mean` is the primary one. The sum takes a few nats off for every further token of a name, so it
prefers the shorter option, and the more so the finer a tokenizer cuts; the mean does not grow with
length. It is no probability, and prefers names whose later tokens follow from the first. `holds`
stands beside `exact` because a base model answers in sentences, which match no answer exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxcomp.probe import squad
from jaxcomp.use.pair import Score

PASSAGE, WORLD, OTHER = OUTCOMES = ("passage", "world", "other")
SCORINGS = ("mean", "sum", "exact", "holds")
PRIMARY = "mean"
_DRAWS = 2000


def likelier(options: Sequence[Score], world: int, scoring: str) -> str:
    """The outcome of the options' likelihoods: the passage's is number 0, the world's `world`."""
    nats = [s.nats / s.tokens if scoring == "mean" else s.nats for s in options]
    best = [number for number, found in enumerate(nats) if found == min(nats)]
    if best == [0]:
        return PASSAGE
    return WORLD if best == [world] else OTHER


def said(answer: str, passage: Sequence[str], world: Sequence[str], scoring: str) -> str:
    """The outcome of a generated answer, given the answers of both sides."""
    match = squad.exact if scoring == "exact" else squad.holds
    found = match(answer, passage), match(answer, world)
    return OTHER if found[0] == found[1] else PASSAGE if found[0] else WORLD


def share(count: int, n: int) -> dict[str, Any]:
    """`count` of `n` with Wilson's 95% interval [low, high]; no numbers where n is 0."""
    if not n:
        return {"count": count, "n": n, "rate": None, "low": None, "high": None}
    interval = stats.binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return {"count": count, "n": n, "rate": count / n, "low": low, "high": high}


def average(values: Sequence[float]) -> dict[str, Any]:
    """The mean of `values` with a 95% interval, the percentiles of 2,000 bootstrap means (seed 0);
    no mean of none, and no interval where all are the same, of which nothing else can be drawn."""
    empty = {"n": len(values), "mean": None, "low": None, "high": None}
    if not values:
        return empty
    empty["mean"] = float(np.mean(values))
    if len(set(values)) < 2:
        return empty
    drawn = stats.bootstrap(
        (values,), np.mean, n_resamples=_DRAWS, batch=100, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return empty | {"low": float(low), "high": float(high)}
