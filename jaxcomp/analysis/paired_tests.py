"""Pairwise differences between sizes, with paired permutation tests.

The test flips signs: were the two sizes exchangeable inside a replicate, the difference of each
replicate could as well have the other sign (Fisher 1935). Of n replicates the two-sided p is never
below 2 / 2^n, which is 0.25 at three: no pair of sizes can differ there at 0.05, however
clear the difference. `Pair.least` says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from jaxcomp.analysis import stats

FLIPS = 10_000  # above 13 replicates, and of the test over passages
Key = TypeVar("Key", bound=Hashable)


class Pair(NamedTuple):
    """Two sizes of a family; the change is large less small."""

    family: str
    small: str
    large: str
    change: stats.Estimate
    p: float  # two-sided sign flips over replicates
    adjusted: float  # by Holm's method, over all pairs of the family
    least: float  # the smallest p that so few replicates can give
    p_passages: float | None  # over passages: of these trained models, and of no others


def pairs(found: stats.Sample, seed: int = 0) -> list[Pair]:
    """All pairs of sizes inside each family; none where there is no replicate."""
    out = []
    for family in found.families:
        columns = list(itertools.combinations(found.columns(family), 2))
        raw = {pair: _flipped(_differences(found, *pair), seed) for pair in columns}
        adjusted = holm(raw)
        for small, large in columns:
            contrast = np.zeros(len(found.setups))
            contrast[[small, large]] = -1.0, 1.0
            out.append(
                Pair(
                    family,
                    found.setups[small][1],
                    found.setups[large][1],
                    stats.estimate(found, contrast, seed),
                    raw[small, large],
                    adjusted[small, large],
                    2.0 ** (1 - found.units),
                    _over_passages(found, small, large, seed),
                )
            )
    return out


def holm(ps: Mapping[Key, float]) -> dict[Key, float]:
    """p-values adjusted for their number (Holm 1979)."""
    worst, out = 0.0, {}
    for i, (key, p) in enumerate(sorted(ps.items(), key=lambda kv: kv[1])):
        worst = max(worst, min(1.0, p * (len(ps) - i)))
        out[key] = worst
    return out


def _differences(found: stats.Sample, small: int, large: int) -> np.ndarray:
    """Of each unit (`Sample.units`): a base seed with all of its training seeds, or a run."""
    return stats.unit_means(found)[:, [small, large]] @ np.array([-1.0, 1.0])


def _flipped(difference_U: np.ndarray, seed: int) -> float:
    from scipy.stats import permutation_test

    if len(difference_U) < 2 or not difference_U.any():
        return 1.0
    result = permutation_test(
        (difference_U,),
        np.mean,
        permutation_type="samples",
        n_resamples=FLIPS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _over_passages(found: stats.Sample, small: int, large: int, seed: int) -> float | None:
    """In each draw the two sizes change places in half of the passages, in all replicates alike."""
    if found.sums_2RCW is None:
        return None
    one_2RW, two_2RW = found.sums_2RCW[:, :, small], found.sums_2RCW[:, :, large]
    rng = np.random.default_rng(seed)
    swapped_DW = rng.integers(2, size=(FLIPS - 1, one_2RW.shape[-1])).astype(float)
    moved_2DR = np.einsum("dw,krw->kdr", swapped_DW, two_2RW - one_2RW, optimize=True)

    def change(moved_2R: np.ndarray) -> np.ndarray:
        one, two = one_2RW.sum(-1)[:, None] + moved_2R, two_2RW.sum(-1)[:, None] - moved_2R
        return (two[0] / two[1] - one[0] / one[1]).mean(axis=-1)

    observed = abs(change(np.zeros((2, 1, one_2RW.shape[1])))[0])
    extreme = np.count_nonzero(np.abs(change(moved_2DR)) >= observed - 1e-12)
    return (1 + extreme) / FLIPS
