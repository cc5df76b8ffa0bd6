"""The shape of the memory: how many directions its vectors really use.

All measures are of the vectors after the connector, so compressors of every width are compared in
the decoder's space, and only between equal numbers of vectors. Everything is float64 numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SPECTRUM = 8  # pooled singular values that are reported


def effective_rank(singular_S: np.ndarray) -> float:
    """exp(H(sigma / sum sigma)), H in nats; 0 for an all-zero matrix (Roy & Vetterli 2007)."""
    total = float(singular_S.sum())
    if total <= 0.0:
        return 0.0
    p_S = singular_S[singular_S > 0.0] / total
    return float(np.exp(-(p_S * np.log(p_S)).sum()))


def participation_ratio(singular_S: np.ndarray) -> float:
    """(sum sigma^2)^2 / sum sigma^4; 0 for an all-zero matrix."""
    top = float(singular_S.max(initial=0.0))
    if top <= 0.0:
        return 0.0
    # Scaled by the largest value first: fourth powers of tiny values would underflow to 0 / 0.
    squares_S = (singular_S / top) ** 2
    return float(squares_S.sum() ** 2 / (squares_S**2).sum())


def spectrum(singular_S: np.ndarray, count: int = SPECTRUM) -> list[float]:
    """The `count` largest singular values divided by the sum of all; fewer where fewer exist."""
    total = float(singular_S.sum())
    ordered_S = np.sort(singular_S)[::-1][:count]
    return [float(s / total) if total > 0.0 else 0.0 for s in ordered_S]


class Shape(NamedTuple):
    """One matrix of vectors: how many directions it uses, and how many it could use at most."""

    rank: float
    participation: float
    bound: int


def shape(vec_MD: np.ndarray) -> Shape:
    """Effective rank and participation ratio of one passage's memory, and their bound min(M, D)."""
    singular_S = np.linalg.svd(np.asarray(vec_MD, np.float64), compute_uv=False)
    return Shape(effective_rank(singular_S), participation_ratio(singular_S), min(vec_MD.shape))


def measure(memories: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    """Geometry of a set of passages, one matrix `vec_MD` of its valid vectors each.

    Per-passage values are means over passages with at least one vector; pooled values are of all
    vectors of all passages stacked, once as they are and once with their mean taken away (a common
    offset is one direction and can hide the others). None where there is no vector at all.

    Raises:
      ValueError: a matrix is not two-dimensional or holds a number that is not finite.
    """
    for i, vec_MD in enumerate(memories):
        if vec_MD.ndim != 2 or not np.isfinite(vec_MD).all():
            raise ValueError(
                f"memory {i}: expected a matrix (vectors x width) of finite numbers, found shape "
                f"{vec_MD.shape}, all finite: {bool(np.isfinite(vec_MD).all())}; the compressor "
                "has diverged or its output was cut wrongly"
            )
    shapes = [shape(vec_MD) for vec_MD in memories if vec_MD.size]
    out: dict[str, float | int | None] = dict.fromkeys(KEYS)
    if not shapes:
        return out
    out["rank"] = float(np.mean([s.rank for s in shapes]))
    out["participation"] = float(np.mean([s.participation for s in shapes]))
    out["rank_bound"] = float(np.mean([s.bound for s in shapes]))
    pooled_WD = np.concatenate([np.asarray(v, np.float64) for v in memories if v.size])
    singular_S = np.linalg.svd(pooled_WD, compute_uv=False)
    out["pooled_rank"] = effective_rank(singular_S)
    out["pooled_participation"] = participation_ratio(singular_S)
    out["pooled_bound"] = min(pooled_WD.shape)
    centred_S = np.linalg.svd(pooled_WD - pooled_WD.mean(0), compute_uv=False)
    out["pooled_centred_rank"] = effective_rank(centred_S)
    for i, value in enumerate(spectrum(singular_S), start=1):
        out[f"spectrum_{i}"] = value
    return out


KEYS = (
    "rank",
    "participation",
    "rank_bound",
    "pooled_rank",
    "pooled_participation",
    "pooled_bound",
    "pooled_centred_rank",
    *(f"spectrum_{i}" for i in range(1, SPECTRUM + 1)),
)
