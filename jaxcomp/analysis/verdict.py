"""The pre-registered verdict of a sweep: does fidelity fall with size while loss falls?

Fixed before running, in the config: the endpoint, the ratio (`sweep.primary_ratio`), and the
smallest fall that would matter (`sweep.smallest_effect`). The answer at a ratio is one of:

- **yes**: the loss and the endpoint both fall with size, each at one-sided p < 0.05 (an
  intersection-union test, Berger 1982: the larger p decides).
- **no**: a fall as large as the smallest effect is excluded. In every family the largest size
  preserves less than each smaller one by under the smallest effect, by one-sided 95% bounds of all
  of these differences (again an intersection-union test, so no bound needs adjusting). Every
  smaller size counts: against the smallest alone, a peak in the middle would hide a fall behind a
  rise. Where no size of a family is the smallest effect above the no-memory baseline, no such fall
  could show, so the answer is not "no".
- **inconclusive**: neither. Under three pretraining seeds always: training seeds of one pretrained
  model share its errors, so they say nothing of other pretrained models.

The primary ratio is tested alone. The others are secondary: their p is adjusted by Holm's method,
and their bounds are at 1 - 0.05 / (number of secondary ratios).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import stats
from jaxcomp.analysis.monotonicity import residual_variance
from jaxcomp.analysis.paired_tests import holm
from jaxcomp.analysis.stats import ALPHA, MIN_REPLICATES, Point, Sizes, Trend

PRESENT, ABSENT, INCONCLUSIVE = "yes", "no", "inconclusive (power too low)"
THESE_BASES = "inconclusive (under 3 pretraining seeds)"
POWER = 0.8
TRIED = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)  # base seeds
SIMULATED = 400


class Fall(NamedTuple):
    """By how much the largest size of a family is below a smaller one; negative: it is above."""

    family: str
    small: str
    large: str
    fall: float
    bound: float  # one-sided upper


class Needed(NamedTuple):
    """Base seeds that decide in 4 of 5 sweeps; None: more than the largest of `TRIED`."""

    to_exclude: int | None  # a fall of the smallest effect, where all sizes are equal
    to_find: int | None  # a fall of the smallest effect


class RatioVerdict(NamedTuple):
    """The answer at one ratio. `p` is of the conjunction "loss falls and fidelity falls"."""

    ratio: int
    word: str  # yes | no | one of the two inconclusive ones
    p: float  # Holm-adjusted for the secondary ratios
    loss: Trend
    kept: Trend
    worst: Fall | None = None  # the one with the highest bound; None under 3 base seeds
    needed: Needed | None = None  # where more base seeds would decide, from 3 on
    at_baseline: tuple[str, ...] = ()  # families too near the no-memory baseline for a fall to show


class Criteria(NamedTuple):
    """The smallest effect, and the endpoint's value without memory."""

    smallest: float
    no_memory: float
    own_no_memory: Mapping[str, float] = MappingProxyType({})  # families that train their decoders

    def no_memory_of(self, family: str) -> float:
        return self.own_no_memory.get(family, self.no_memory)


class Verdict(NamedTuple):
    primary_ratio: int
    smallest_effect: float
    ratios: tuple[RatioVerdict, ...]

    @property
    def primary(self) -> RatioVerdict | None:
        return next((v for v in self.ratios if v.ratio == self.primary_ratio), None)


def judge(
    loss: Mapping[int, Sequence[Point]],
    kept: Mapping[int, Sequence[Point]],
    primary_ratio: int,
    *,
    smallest_effect: float,
    no_memory: float = 0.0,
    own_no_memory: Mapping[int, Mapping[str, float]] | None = None,
    sizes: Mapping[int, Sizes] | None = None,
) -> Verdict:
    """In which ratios does loss fall with size while fidelity (`kept`) falls?

    `smallest_effect` is in the endpoint's unit, and `no_memory` its value without memory;
    `own_no_memory`, of each ratio, of families that have another. `sizes`: of each ratio, as
    for `stats.replicates`.
    """
    at = {r: None if sizes is None else sizes[r] for r in loss}
    trends = {r: (stats.trend(loss[r], at[r]), stats.trend(kept[r], at[r])) for r in sorted(loss)}
    raw = {r: max(a.p_fall, b.p_fall) for r, (a, b) in trends.items()}
    secondary = {r: p for r, p in raw.items() if r != primary_ratio}
    adjusted = raw | holm(secondary)
    out = []
    for ratio, (a, b) in trends.items():
        alpha = ALPHA / max(len(secondary), 1) if ratio in secondary else ALPHA
        criteria = Criteria(smallest_effect, no_memory, (own_no_memory or {}).get(ratio, {}))
        plain = RatioVerdict(ratio, few(min(a.bases, b.bases)), adjusted[ratio], a, b)
        enough = min(a.bases, b.bases) >= MIN_REPLICATES
        found = stats.sample(kept[ratio], at[ratio])
        out.append(_decided(plain, found, alpha, criteria) if enough else plain)
    return Verdict(primary_ratio, smallest_effect, tuple(out))


def _decided(
    v: RatioVerdict, found: stats.Sample, alpha: float, criteria: Criteria
) -> RatioVerdict:
    worst = max(falls(found, alpha), key=lambda f: f.bound)
    low = at_baseline(found, criteria)
    absent = worst.bound < criteria.smallest and not low
    word = PRESENT if v.p < ALPHA else ABSENT if absent else INCONCLUSIVE
    ask = word == INCONCLUSIVE and not low
    needed = replicates_needed(found, criteria.smallest, alpha) if ask else None
    return v._replace(word=word, worst=worst, needed=needed, at_baseline=tuple(low))


def few(bases: int) -> str:
    """The word of under three base seeds; of none, where no replicate is whole."""
    return THESE_BASES if bases else INCONCLUSIVE


def at_baseline(found: stats.Sample, criteria: Criteria) -> list[str]:
    """Families without a size whose mean is the smallest effect above the no-memory baseline."""
    mean_C = found.value_RC.mean(axis=0)
    return [
        f
        for f in found.families
        if mean_C[found.columns(f)].max() < criteria.no_memory_of(f) + criteria.smallest
    ]


def falls(found: stats.Sample, alpha: float = ALPHA) -> list[Fall]:
    """Of the largest size of each family against every smaller one, with bounds at 1 - alpha."""
    out = []
    for family in found.families:
        *smaller, largest = found.columns(family)
        for column in smaller:
            contrast = np.zeros(len(found.setups))
            contrast[[column, largest]] = 1.0, -1.0
            change = stats.estimate(found, contrast, level=1 - 2 * alpha)
            bound = math.inf if change.half is None else change.value + change.half
            names = found.setups[column][1], found.setups[largest][1]
            out.append(Fall(family, *names, change.value, bound))
    return out


def change_word(
    found: stats.Sample, contrast_C: np.ndarray, p_fall: float, smallest: float, claims: int = 1
) -> str:
    """The verdict's words for one contrast that is claimed to be below 0: present where its p
    is under 0.05 and its one-sided 95% bound below 0; absent where the other bound excludes a fall
    of `smallest` (0: nothing is absent, since no fall could show). Of several `claims` that are
    tested together, `p_fall` is the adjusted one, and bounds are at 1 - 0.05 / claims."""
    if found.bases < MIN_REPLICATES:
        return few(found.bases)
    change = stats.estimate(found, contrast_C, level=1 - 2 * ALPHA / claims)
    half = math.inf if change.half is None else change.half
    if p_fall < ALPHA and change.value + half < 0:
        return PRESENT
    return ABSENT if smallest > 0 and change.value - half > -smallest else INCONCLUSIVE


# --- how many base seeds would decide -------------------------------------------------------------


def replicates_needed(
    found: stats.Sample, smallest: float, alpha: float = ALPHA, seed: int = 0
) -> Needed:
    """By simulation, of the endpoint alone (for "present" the loss must be seen to fall as well).

    Base seeds, of which `found` has three or more, vary normally around the truth as they were
    found to (each with as many training seeds), family by family, with one spread for all sizes;
    `SIMULATED` sweeps a number. Two truths: all sizes are equal, which should end as "absent"; or
    the endpoint falls by the smallest effect in equal steps from the smallest size to the largest,
    which should be found. The p of a trend is that of the normal approximation. Passages are taken
    as they are.
    """
    value_US = stats.unit_means(found)
    spreads = {
        f: math.sqrt(residual_variance(value_US[:, found.columns(f)])) for f in found.families
    }
    counts = {f: len(found.columns(f)) for f in found.families}

    def first(decides) -> int | None:
        return next((n for n in TRIED if decides(n) >= POWER), None)

    def noise(n: int) -> list[np.ndarray]:
        rng = np.random.default_rng((seed, n))
        return [spreads[f] * rng.standard_normal((SIMULATED, n, counts[f])) for f in counts]

    def excluded(n: int) -> float:
        within = [_within(values, smallest, alpha) for values in noise(n)]
        return float(np.mean(np.all(within, axis=0)))

    def seen(n: int) -> float:
        from scipy.stats import norm, rankdata

        total, variance = np.zeros(SIMULATED), 0.0
        for values in noise(n):
            size = values.shape[-1]
            ranks = rankdata(values - smallest * np.linspace(0, 1, size), axis=-1)
            x = np.arange(size) - (size - 1) / 2
            total += np.sum(ranks @ x / (x @ x), axis=-1)
            variance += n / (size - 1)
        return float(np.mean(norm.cdf(total / math.sqrt(variance)) < alpha))

    return Needed(first(excluded), first(seen))


def _within(values_XUS: np.ndarray, smallest: float, alpha: float) -> np.ndarray:
    """X sweeps: are all falls to the last size below the smallest effect, by their bounds?"""
    from scipy.stats import t as student

    units = values_XUS.shape[1]
    fall = values_XUS[..., :-1] - values_XUS[..., -1:]
    spread = np.std(fall, axis=1, ddof=1) / math.sqrt(units)
    bound = fall.mean(axis=1) + student.ppf(1 - alpha, units - 1) * spread
    return np.all(bound < smallest, axis=-1)
