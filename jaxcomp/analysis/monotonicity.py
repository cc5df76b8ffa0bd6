"""Peak and monotonicity of a metric over the sizes of a family."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from jaxcomp.analysis import stats

NULL_DRAWS = 2000


class Peak(NamedTuple):
    """Where the mean over replicates is highest (or lowest), and in which draws it is where."""

    family: str
    size: str
    value: stats.Estimate
    shares: tuple[tuple[str, float], ...]  # size -> share of the bootstrap's draws; smallest first
    low: str | None  # the sizes between which 95% of the draws have it; None under 3 replicates
    high: str | None
    p_bent: float | None  # of the test that the metric is monotone; small: it is not


def peaks(found: stats.Sample, highest: bool = True, seed: int = 0) -> list[Peak]:
    """Of each family with a whole replicate. `highest` False: where the metric is lowest.

    A draw in which several sizes are equally good counts for each of them in part. The interval
    runs over sizes in order: at most 2.5% of the draws lie on either side of it.
    """
    weight_DR, value_DRC = stats.drawn(found, seed)
    sign = 1.0 if highest else -1.0
    out = []
    for family in found.families:
        columns = found.columns(family)
        names = [found.setups[c][1] for c in columns]
        drawn_DS = np.einsum(
            "dr,drc->dc",
            weight_DR,
            np.broadcast_to(value_DRC[..., columns], (*weight_DR.shape, len(columns))),
        )
        best = np.isclose(drawn_DS, (sign * drawn_DS).max(axis=1, keepdims=True) * sign, atol=1e-12)
        share_S = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
        own_S = stats.own_weights(found.base_R) @ found.value_RC[:, columns]
        top = int(np.argmax(sign * own_S))
        enough = found.units >= stats.MIN_REPLICATES
        below = np.cumsum(share_S)
        out.append(
            Peak(
                family,
                names[top],
                stats.estimate(found, np.eye(len(found.setups))[columns[top]], seed),
                tuple(zip(names, map(float, share_S), strict=True)),
                names[int(np.argmax(below > 0.025))] if enough else None,
                names[int(np.argmax(below >= 0.975))] if enough else None,
                _bent(stats.unit_means(found)[:, columns], seed) if enough else None,
            )
        )
    return out


def _bent(value_US: np.ndarray, seed: int) -> float | None:
    """p of "monotone in size": the free means against the nearer isotonic fit.

    The squared distance of the means from their increasing or decreasing least-squares fit,
    whichever is nearer, over the variance between replicates (of what size and replicate do not
    explain, pooled over sizes). Under a monotone truth it is at most as large as the distance of
    equal means from the increasing fit (Robertson, Wright and Dykstra 1988, ch. 2), whose
    distribution under normal noise is simulated and depends only on the numbers of both. None for
    fewer than three sizes, which are always monotone, or where replicates do not differ.
    """
    units, sizes = value_US.shape
    spread = residual_variance(value_US)
    if sizes < 3 or not spread > 0:
        return None
    mean_S = value_US.mean(axis=0)
    distance = min(_distance(mean_S), _distance(-mean_S)) * units / spread
    null_D = _null(units, sizes, seed)
    return float((1 + np.count_nonzero(null_D >= distance - 1e-9)) / (1 + len(null_D)))


def residual_variance(value_US: np.ndarray) -> float:
    """Of one size in one replicate, what the size's and the replicate's means do not explain."""
    units, sizes = value_US.shape
    rest = value_US - value_US.mean(axis=0) - value_US.mean(axis=1, keepdims=True) + value_US.mean()
    free = (units - 1) * (sizes - 1)
    # Rounding leaves some 1e-33 where all replicates are the same.
    variance = float(np.sum(rest**2)) / max(free, 1)
    return variance if variance > 1e-20 * float(np.mean(value_US**2)) else 0.0


def _distance(mean_S: np.ndarray) -> float:
    from scipy.optimize import isotonic_regression

    return float(np.sum((mean_S - isotonic_regression(mean_S).x) ** 2))


@functools.lru_cache
def _null(units: int, sizes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean_DS = rng.standard_normal((NULL_DRAWS, sizes)) / np.sqrt(units)
    free = (units - 1) * (sizes - 1)
    spread_D = rng.chisquare(free, size=NULL_DRAWS) / free
    return np.array([_distance(m) for m in mean_DS]) * units / spread_D
