"""The pre-registered verdict of a sweep: is fidelity lost with size while the loss falls?

Fixed before running, in the config: the endpoint, the ratio (`sweep.primary_ratio`), and the
smallest fall that would matter (`sweep.smallest_effect`). One of these words follows:

- **present**: the loss and the endpoint both fall with size, each at one-sided p < 0.05 (an
  intersection-union test, Berger 1982: the larger p decides).
- **absent**: a fall as large as the smallest effect is excluded. In every family the largest size
  keeps less than each smaller one by under the smallest effect, by one-sided 95% bounds of all of
  these differences (again an intersection-union test, so no bound needs adjusting). Against every
  smaller size and not the smallest alone, or a peak in the middle would hide a fall behind a rise.
  Where a family has no size that keeps the smallest effect more than the decoder without memory
  does (the floor), no such fall could show, and nothing is absent.
- **undecided at this power**: neither.
- **undecided: these bases only**: under three base seeds, whatever the numbers. Training seeds of
  one base share its luck, so however many they are they say nothing of other bases.

The primary ratio is tested alone. The others are secondary: their p is adjusted by Holm's method,
and their bounds are at 1 - 0.05 / (number of secondary ratios).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import stats
from jaxcomp.analysis.monotonicity import residual_variance
from jaxcomp.analysis.paired_tests import holm
from jaxcomp.analysis.stats import ALPHA, MIN_REPLICATES, Point, Sizes, Trend

PRESENT, ABSENT, UNDECIDED = "present", "absent", "undecided at this power"
THESE_BASES = "undecided: these bases only"
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
    """What is claimed at one ratio. `p` is of the conjunction "loss falls and fidelity falls"."""

    ratio: int
    word: str  # present | absent | undecided at this power | undecided: these bases only
    p: float  # Holm-adjusted for the secondary ratios
    loss: Trend
    kept: Trend
    worst: Fall | None  # the one with the highest bound; None under 3 base seeds
    needed: Needed | None  # where more base seeds would decide, from 3 on
    detail: str


class Asked(NamedTuple):
    """What was fixed before running, and the endpoint's value without memory."""

    endpoint: str
    smallest: float
    floor: float
    own_floors: Mapping[str, float] = MappingProxyType({})  # families that train their decoders

    def floor_of(self, family: str) -> float:
        return self.own_floors.get(family, self.floor)


class Verdict(NamedTuple):
    sentence: str
    primary_ratio: int
    ratios: tuple[RatioVerdict, ...]


def judge(
    loss: Mapping[int, Sequence[Point]],
    kept: Mapping[int, Sequence[Point]],
    primary_ratio: int,
    *,
    smallest_effect: float,
    floor: float = 0.0,
    own_floors: Mapping[int, Mapping[str, float]] | None = None,
    sizes: Mapping[int, Sizes] | None = None,
    endpoint: str = "counterfactual facts preserved",
) -> Verdict:
    """In which ratios does loss fall with size while fidelity (`kept`, named `endpoint`) falls?

    `smallest_effect` is in the endpoint's unit, and `floor` its value without memory; `own_floors`,
    of each ratio, of families that have another. `sizes`: of each ratio, as for `stats.replicates`.
    """
    at = {r: None if sizes is None else sizes[r] for r in loss}
    trends = {r: (stats.trend(loss[r], at[r]), stats.trend(kept[r], at[r])) for r in sorted(loss)}
    raw = {r: max(a.p_fall, b.p_fall) for r, (a, b) in trends.items()}
    secondary = {r: p for r, p in raw.items() if r != primary_ratio}
    adjusted = raw | holm(secondary)
    out = []
    for ratio, (a, b) in trends.items():
        alpha = ALPHA / max(len(secondary), 1) if ratio in secondary else ALPHA
        found = stats.sample(kept[ratio], at[ratio])
        asked = Asked(endpoint, smallest_effect, floor, (own_floors or {}).get(ratio, {}))
        out.append(_verdict_at(ratio, a, b, adjusted[ratio], found, alpha, asked))
    said = _sentence(out, primary_ratio, endpoint, smallest_effect)
    return Verdict(said, primary_ratio, tuple(out))


def _verdict_at(
    ratio: int,
    loss: Trend,
    kept: Trend,
    p: float,
    found: stats.Sample,
    alpha: float,
    asked: Asked,
) -> RatioVerdict:
    endpoint = asked.endpoint
    bases = min(loss.bases, kept.bases)
    if bases < MIN_REPLICATES:
        detail = f"rho of loss {loss.rho:+.2f}, of {endpoint} {kept.rho:+.2f}"
        if not loss.replicates:
            detail = "no replicate in which every size, of two or more, was measured"
        elif not kept.replicates:
            detail = f"{endpoint}: not measured in every size of any replicate"
        return RatioVerdict(ratio, few(bases), p, loss, kept, None, None, detail)
    worst = max(falls(found, alpha), key=lambda f: f.bound)
    low = no_room(found, asked)
    absent = worst.bound < asked.smallest and not low
    word = PRESENT if p < ALPHA else ABSENT if absent else UNDECIDED
    detail = (
        f"loss {stats.way(loss)} with size (rho {loss.rho:+.2f}, p {loss.p_fall:.3g}), "
        f"{endpoint} {stats.way(kept)} (rho {kept.rho:+.2f}, p {kept.p_fall:.3g}); least sure "
        f"that the largest is not below: {worst.family} {worst.large} under {worst.small} by "
        f"{worst.fall:+.3f}, bound {worst.bound:+.3f}"
    )
    needed = None
    if low:
        at = ", ".join(dict.fromkeys(f"{asked.floor_of(family):.3g}" for family in low))
        detail += f"; no room for a fall in {', '.join(low)}, too near the floor {at}"
    elif word == UNDECIDED:
        needed = replicates_needed(found, asked.smallest, alpha)
    return RatioVerdict(ratio, word, p, loss, kept, worst, needed, detail)


def few(bases: int) -> str:
    """The word of under three base seeds; of none, where no replicate is whole."""
    return THESE_BASES if bases else UNDECIDED


def no_room(found: stats.Sample, asked: Asked) -> list[str]:
    """Families of which no size is above the floor by the smallest effect, in the mean."""
    mean_C = found.value_RC.mean(axis=0)
    return [
        f
        for f in found.families
        if mean_C[found.columns(f)].max() < asked.floor_of(f) + asked.smallest
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
    return ABSENT if smallest > 0 and change.value - half > -smallest else UNDECIDED


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


# --- in words -------------------------------------------------------------------------------------


def _sentence(
    ratios: Sequence[RatioVerdict], primary_ratio: int, endpoint: str, smallest: float
) -> str:
    """The verdict in words; every word of it follows from the numbers."""
    by_ratio = {v.ratio: v for v in ratios}
    if primary_ratio not in by_ratio:
        head = f"Primary endpoint (ratio {primary_ratio}) is not in this grid: {UNDECIDED}."
    else:
        v = by_ratio[primary_ratio]
        fewer = min(v.loss, v.kept, key=lambda t: t.replicates)
        head = (
            f"Bigger but less faithful ({endpoint} at {primary_ratio}x, the primary "
            f"endpoint): {v.word} [{v.detail}; smallest effect {smallest:g}; "
            f"{counted(fewer)}].{_power(v, smallest)}"
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for v in ratios:
        if v.ratio != primary_ratio:
            groups[v.word].append(f"{v.ratio}x")
    rest = "; ".join(f"{word} at {', '.join(which)}" for word, which in sorted(groups.items()))
    return head + (f" Secondary ratios (Holm-adjusted): {rest}." if rest else "")


def counted(t: Trend) -> str:
    """`3 replicates`; `4 replicates of 1 base seed`, where bases were trained on several times."""
    said = f"{t.replicates} replicate{'' if t.replicates == 1 else 's'}"
    if t.bases == t.replicates:
        return said
    return f"{said} of {t.bases} base seed{'' if t.bases == 1 else 's'}"


def _power(v: RatioVerdict, smallest: float) -> str:
    if v.word in (PRESENT, ABSENT):
        return ""
    if v.worst is not None and v.needed is None:
        return " More base seeds would not decide."
    if v.needed is None:
        return f" From {MIN_REPLICATES} base seeds on it is said how many would decide."

    def said(n: int | None) -> str:
        return f"more than {TRIED[-1]}" if n is None else str(n)

    return (
        f" To decide in {POWER:.0%} of sweeps takes {said(v.needed.to_exclude)} base seeds if all "
        f"sizes are equal, {said(v.needed.to_find)} if the endpoint falls by {smallest:g} from "
        "smallest to largest (simulated, normal, with the spread between these)."
    )
