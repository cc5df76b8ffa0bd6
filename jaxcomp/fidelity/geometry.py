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


def stable_rank(singular_S: np.ndarray) -> float:
    """sum sigma^2 / max sigma^2; 0 for an all-zero matrix (Rudelson & Vershynin 2007)."""
    top = float(singular_S.max(initial=0.0))
    return float(((singular_S / top) ** 2).sum()) if top > 0.0 else 0.0


def spectrum(singular_S: np.ndarray, count: int = SPECTRUM) -> list[float]:
    """The `count` largest singular values divided by the sum of all; fewer where fewer exist."""
    total = float(singular_S.sum())
    ordered_S = np.sort(singular_S)[::-1][:count]
    return [float(s / total) if total > 0.0 else 0.0 for s in ordered_S]


class Shape(NamedTuple):
    """One matrix of vectors: how many directions it uses, and how many it could use at most."""

    rank: float
    participation: float
    stable: float
    bound: int


def shape(vec_MD: np.ndarray) -> Shape:
    """The three ranks of one matrix of vectors, and their bound min(M, D)."""
    singular_S = np.linalg.svd(np.asarray(vec_MD, np.float64), compute_uv=False)
    ranks = effective_rank(singular_S), participation_ratio(singular_S), stable_rank(singular_S)
    return Shape(*ranks, min(vec_MD.shape))


def centred(vec_MD: np.ndarray) -> np.ndarray:
    """The vectors less their mean, float64."""
    vec_MD = np.asarray(vec_MD, np.float64)
    return vec_MD - vec_MD.mean(0)


def at_positions(memories: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each memory position that at least two passages have: its vector in each of them, less
    their mean. What a position says of the passage, without what it says of every passage."""
    most = max((len(vec_MD) for vec_MD in memories), default=0)
    held = ([vec_MD[m] for vec_MD in memories if len(vec_MD) > m] for m in range(most))
    return [centred(np.stack(vec_WD)) for vec_WD in held if len(vec_WD) > 1]


def measure(memories: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    """Geometry of a set of passages, one matrix `vec_MD` of its valid vectors each.

    Per-passage values are means over passages with at least one vector; pooled values are of all
    vectors of all passages stacked, once as they are and once with their mean taken away (a common
    offset is one direction and can hide the others); per-position values are of the vectors that
    the passages have at one place, less their mean, mean over places that two passages or more
    have. None where there is no vector at all.

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
    out["stable_rank"] = float(np.mean([s.stable for s in shapes]))
    inside = [shape(centred(vec_MD)).rank for vec_MD in memories if vec_MD.size]
    out["centred_rank"] = float(np.mean(inside))
    out["rank_bound"] = float(np.mean([s.bound for s in shapes]))
    pooled_WD = np.concatenate([np.asarray(v, np.float64) for v in memories if v.size])
    singular_S = np.linalg.svd(pooled_WD, compute_uv=False)
    out["pooled_rank"] = effective_rank(singular_S)
    out["pooled_participation"] = participation_ratio(singular_S)
    out["pooled_stable_rank"] = stable_rank(singular_S)
    out["pooled_bound"] = min(pooled_WD.shape)
    out["pooled_centred_rank"] = shape(centred(pooled_WD)).rank
    places = at_positions(memories)
    if places:
        out["position_rank"] = float(np.mean([shape(vec_WD).rank for vec_WD in places]))
        # One direction fewer than vectors: less their mean, they add up to nothing.
        out["position_bound"] = float(np.mean([min(len(v) - 1, v.shape[1]) for v in places]))
    for i, value in enumerate(spectrum(singular_S), start=1):
        out[f"spectrum_{i}"] = value
    return out


KEYS = (
    "rank",
    "participation",
    "stable_rank",
    "centred_rank",
    "rank_bound",
    "pooled_rank",
    "pooled_participation",
    "pooled_stable_rank",
    "pooled_bound",
    "pooled_centred_rank",
    "position_rank",
    "position_bound",
    *(f"spectrum_{i}" for i in range(1, SPECTRUM + 1)),
)
