"""In-context answer, parametric answer or neither; shares and means with intervals.

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

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxcomp.evals.qa import squad
from jaxcomp.inference.pair import Score

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
    low, high = wilson(count / n, n)
    return {"count": count, "n": n, "rate": count / n, "low": low, "high": high}


def proportion(hits: Sequence[bool], contexts: Sequence[Hashable]) -> dict[str, Any]:
    """The share of `hits`, each about one of `contexts`, as `share`.

    Where some are about the same context, the interval is Wilson's of as many independent ones as
    they are worth: n / deff, deff the variance of the share over contexts (a ratio of sums) by
    that of n independent ones, at least 1, and t's quantile of C - 1 degrees for the normal one
    (Korn and Graubard 1998, Survey Methodology 24:193; with Wilson's as Franco et al. 2019,
    doi:10.1093/jssam/smy019). Where all or none are hits, deff is the largest there can be: those
    of one context alike. Of one context only there is no interval.
    """
    count, n = int(sum(hits)), len(hits)
    found = share(count, n)
    if len(set(contexts)) == n:
        return found
    hits_W, sizes_W = _by_context(hits, contexts)
    C = len(sizes_W)
    if C < 2:
        return found | {"low": None, "high": None}
    rate = count / n
    if 0 < count < n:
        spread = C / (C - 1) * float(((hits_W - rate * sizes_W) ** 2).sum()) / n**2
        effect = max(1.0, spread / (rate * (1 - rate) / n))
    else:
        effect = float((sizes_W**2).sum()) / n
    few = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, C - 1))
    low, high = wilson(rate, n / effect * few**2)
    return found | {"low": low, "high": high}


def wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n, which need not be a whole number."""
    z = float(stats.norm.ppf(0.975))
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def average(values: Sequence[float], contexts: Sequence[Hashable] = ()) -> dict[str, Any]:
    """The mean of `values` with a 95% interval, the percentiles of 2,000 bootstrap means (seed 0);
    no mean of none, and no interval where all are the same, of which nothing else can be drawn.
    Drawn are values, or whole contexts where some values share one, two at least."""
    empty = {"n": len(values), "mean": None, "low": None, "high": None}
    if not values:
        return empty
    empty["mean"] = float(np.mean(values))
    if len(set(values)) < 2:
        return empty
    data, statistic = (values,), np.mean
    if contexts and len(set(contexts)) < len(values):
        data, statistic = _by_context(values, contexts), _ratio
        if len(data[0]) < 2:
            return empty
    drawn = stats.bootstrap(
        data, statistic, n_resamples=_DRAWS, batch=100, paired=True, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return empty | {"low": float(low), "high": float(high)}


def _by_context(
    values: Sequence[float], contexts: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values about each context, and how many there are."""
    sums: dict[Hashable, list[float]] = {}
    for value, context in zip(values, contexts, strict=True):
        sums.setdefault(context, []).append(float(value))
    return np.array([sum(v) for v in sums.values()]), np.array([len(v) for v in sums.values()])


def _ratio(top_W: np.ndarray, bottom_W: np.ndarray, axis: int) -> np.ndarray:
    return top_W.sum(axis) / bottom_W.sum(axis)
