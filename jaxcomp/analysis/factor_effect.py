"""The effect of a factor (factor.py) on the trend with size: slopes, means and their changes.

All numbers are of counterfactual passages, which are the same at every level.

**Slope** of a level: the least-squares line of a metric over the logarithm of compressor parameters
inside a family, from the smallest size to the largest, mean over families, in the metric's unit.
**Mean** of a level: over its sizes.

**Change** of either. Prior strengths: the least-squares line of the levels' slopes (or means) over
the strength, from the weakest to the strongest. Texts: each level less the first. Both are sums of
columns with fixed weights, so the intervals are those of `stats.estimate`, from draws of
pretraining seeds and passages. p: the levels change places inside each unit (a pretraining seed
where there are three, else a run), in all ways up to `stats.EXACT`, else in `stats.DRAWS` random
ways (Fisher 1935); for a text, only its own level and the first. Each text is a claim of its own,
so claims about texts use Holm's method: adjusted p, and bounds at 1 - 0.05 / number of texts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import stats
from jaxcomp.analysis.factor import Factor
from jaxcomp.analysis.paired_tests import holm
from jaxcomp.analysis.tables import no_memory_of, own_no_memory, points
from jaxcomp.analysis.verdict import change_word
from jaxcomp.evals.metrics import Headline
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results


class Change(NamedTuple):
    """How a level's slope (or mean) changes."""

    name: str  # "weakest to strongest", or a level's name
    value: stats.Estimate
    p_fall: float
    p_rise: float
    p_claim: float  # p_fall, adjusted for `Factor.claims`
    word: str  # of the claim that it falls; "" where none is made


class Found(NamedTuple):
    """One metric at one ratio."""

    head: Headline
    ratio: int
    means: tuple[tuple[stats.Estimate | None, ...], ...]  # levels x setups
    setups: tuple[tuple[str, str, float], ...]  # family, size, parameters
    slopes: tuple[stats.Estimate, ...]  # one a level; empty where there is no whole replicate
    of_slopes: tuple[Change, ...]
    of_means: tuple[Change, ...]
    units: int = 0  # what is independent (stats.Sample.units)
    cramped: tuple[str, ...] = ()  # of a claim: levels at which no fall of that size could show


def measure(factor: Factor) -> list[Found]:
    """Every metric of `factor.heads` at every ratio that all levels have."""
    return [_found(factor, h, r) for h in factor.heads for r in factor.ratios]


def claimed(factor: Factor, head: Headline, ratio: int) -> bool:
    """Whether a claim is made: only for the primary endpoint at the primary ratio."""
    return (head, ratio) == (factor.heads[0], factor.cfg.sweep.primary_ratio)


def least(factor: Factor, units: int) -> float:
    """The smallest p that so few levels and units can give, before any adjustment."""
    ways = (math.factorial(len(factor.levels)) if factor.ordered else 2) ** units
    return 1 / ways if ways <= stats.EXACT else 1 / (stats.DRAWS + 1)


def _found(factor: Factor, head: Headline, ratio: int) -> Found:
    each = [points(level.results.rows, head.metric, ratio) for level in factor.levels]
    params = {(p.family, p.size): p.params for ps in each for p in ps}
    setups = tuple((f, s, x) for (f, s), x in sorted(params.items(), key=lambda kv: kv[1]))
    means = tuple(
        tuple(stats.mean([p for p in ps if (p.family, p.size) == s[:2]]) for s in setups)
        for ps in each
    )
    sample = _sample(grid.sizes(factor.cfg, ratio), each)
    if not len(sample.base_R):
        return Found(head, ratio, means, setups, (), (), ())
    slope_C = _slope(sample.setups[: len(sample.setups) // len(each)], params)
    mean_C = np.full(len(slope_C), 1 / len(slope_C))
    L = len(each)
    slopes = tuple(stats.estimate(sample, np.kron(one_L, slope_C)) for one_L in np.eye(L))
    smallest, cramped = None, ()
    if claimed(factor, head, ratio):
        cramped = _cramped(factor, sample, head.metric, ratio)
        smallest = 0.0 if cramped else factor.cfg.sweep.smallest_effect
    of_slopes, of_means = (
        _changes(factor, sample, column_C, smallest) for column_C in (slope_C, mean_C)
    )
    return Found(head, ratio, means, setups, slopes, of_slopes, of_means, sample.units, cramped)


def _no_memory(results: Results, metric: str, ratio: int) -> float:
    """Without memory; the highest, where runs have decoders of their own."""
    own = own_no_memory(results, metric, ratio).values()
    return max([no_memory_of(results, metric) or 0.0, *own])


def _sample(sizes: stats.Sizes, each: Sequence[Sequence[stats.Point]]) -> stats.Sample:
    """Whole replicates that every level has; columns level by level, smallest size first."""
    keys = set.intersection(
        *({(b[0].base_seed, b[0].seed) for b in stats.replicates(ps, sizes)} for ps in each)
    )
    parts = [stats.sample([p for p in ps if (p.base_seed, p.seed) in keys], sizes) for ps in each]
    sums = [part.sums_2RCW for part in parts if part.sums_2RCW is not None]
    # The same denominators in every run: the passages of the levels are the same.
    same = len(sums) == len(parts) and all(
        s.shape == sums[0].shape and np.array_equal(s[1], sums[0][1]) for s in sums
    )
    return stats.Sample(
        tuple(setup for part in parts for setup in part.setups),
        parts[0].base_R,
        np.concatenate([part.value_RC for part in parts], axis=1),
        np.concatenate(sums, axis=2) if same else None,
    )


def _slope(setups: Sequence[tuple[str, str]], params: dict[tuple[str, str], float]) -> np.ndarray:
    """Weights of one level's columns, so that their sum is the slope."""
    families = sorted({family for family, _ in setups})
    weight_C = np.zeros(len(setups))
    for family in families:
        at = [i for i, setup in enumerate(setups) if setup[0] == family]
        weight_C[at] = _line(np.log([params[setups[i]] for i in at])) / len(families)
    return weight_C


def _line(x: np.ndarray) -> np.ndarray:
    """Weights of values at `x` whose sum is their least-squares line from lowest to highest x."""
    centred = x - x.mean()
    return centred * (x.max() - x.min()) / (centred @ centred)


def _cramped(factor: Factor, sample: stats.Sample, metric: str, ratio: int) -> tuple[str, ...]:
    """Levels at which no size is the smallest effect above the no-memory baseline."""
    smallest = factor.cfg.sweep.smallest_effect
    best_L = sample.value_RC.mean(axis=0).reshape(len(factor.levels), -1).max(axis=1)
    return tuple(
        level.name
        for level, best in zip(factor.levels, best_L, strict=True)
        if best < _no_memory(level.results, metric, ratio) + smallest
    )


def _changes(
    factor: Factor, sample: stats.Sample, column_C: np.ndarray, smallest: float | None
) -> tuple[Change, ...]:
    """`smallest` as for `change_word`; None where no claim is made."""
    L = len(factor.levels)
    if factor.ordered:
        asked = [("weakest to strongest", _line(np.array([x.at for x in factor.levels])))]
    else:
        asked = [(x.name, np.eye(L)[i] - np.eye(L)[0]) for i, x in enumerate(factor.levels) if i]
    value_UL = stats.unit_means(sample).reshape(-1, L, len(column_C)) @ column_C
    ps: dict[str, tuple[float, float]] = {}
    for name, weight_L in asked:
        used_L = np.ones(L, bool) if factor.ordered else weight_L != 0
        ps[name] = permuted(value_UL[:, used_L], weight_L[used_L])
    adjusted = holm({name: p_fall for name, (p_fall, _) in ps.items()})
    out = []
    for name, weight_L in asked:
        contrast_C, p, word = np.kron(weight_L, column_C), adjusted[name], ""
        if smallest is not None:
            word = change_word(sample, contrast_C, p, smallest, factor.claims)
        out.append(Change(name, stats.estimate(sample, contrast_C), *ps[name], p, word))
    return tuple(out)


def permuted(value_UL: np.ndarray, weight_L: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """One-sided p of the weighted sum of levels, mean over units, where the levels of each unit
    change places: that it is as low, and as high, as it was found."""
    orders_PL = np.array(list(itertools.permutations(range(value_UL.shape[1]))))
    sum_UP = value_UL[:, orders_PL] @ weight_L
    units, count = sum_UP.shape
    exact = count**units <= stats.EXACT
    if exact:
        null = np.zeros(1)
        for sum_P in sum_UP:
            null = (null[:, None] + sum_P[None, :]).ravel()
    else:
        rng = np.random.default_rng(seed)
        null = sum((rng.choice(s, size=stats.DRAWS) for s in sum_UP), np.zeros(stats.DRAWS))
    # The first order is the one that was found; drawn ways do not hold it, so it is counted too.
    found, own = sum_UP[:, 0].sum(), 0 if exact else 1
    tiny = 1e-9 * max(1.0, math.fabs(found))
    low, high = np.sum(null <= found + tiny), np.sum(null >= found - tiny)
    return float((low + own) / (len(null) + own)), float((high + own) / (len(null) + own))
