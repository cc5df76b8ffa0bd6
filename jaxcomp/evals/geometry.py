"""The shape of the memory: how many directions its vectors really use.

All measures are of the vectors after the connector, so compressors of every width are compared in
the decoder's space, and only between equal numbers of vectors. Everything is float64 numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SPECTRUM = 8  # singular values that are reported


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
    singular_S = _singular(vec_MD)
    ranks = effective_rank(singular_S), participation_ratio(singular_S), stable_rank(singular_S)
    return Shape(*ranks, min(vec_MD.shape))


def centred(vec_MD: np.ndarray) -> np.ndarray:
    """The vectors less their mean, float64."""
    vec_MD = np.asarray(vec_MD, np.float64)
    return vec_MD - vec_MD.mean(0)


def at_positions(memories: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each memory position that at least two passages have: its vector in each of them."""
    most = max((len(vec_MD) for vec_MD in memories), default=0)
    held = ([vec_MD[m] for vec_MD in memories if len(vec_MD) > m] for m in range(most))
    return [np.stack(vec_WD).astype(np.float64) for vec_WD in held if len(vec_WD) > 1]


def measure(memories: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    """Geometry of a set of passages, one matrix `vec_MD` of its valid vectors each.

    Per-passage values are means over passages with at least one vector; pooled values are of all
    vectors of all passages stacked; per-position values are of the vectors that the passages have
    at one place, mean over places that two passages or more have. Each once as they are and once
    with their mean taken away: a common offset is one direction and can hide the others, and what
    a place says of every passage is none of what it says of this one. None where there is no
    vector at all.

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
    held = [vec_MD for vec_MD in memories if vec_MD.size]
    empty: dict[str, float | int | None] = dict.fromkeys(KEYS)
    return empty | _passages(held) | _pooled(held) | _positions(held) if held else empty


def _passages(memories: Sequence[np.ndarray]) -> dict[str, float]:
    shapes = [shape(vec_MD) for vec_MD in memories]
    out = {
        "rank": float(np.mean([s.rank for s in shapes])),
        "participation": float(np.mean([s.participation for s in shapes])),
        "stable_rank": float(np.mean([s.stable for s in shapes])),
        "centred_rank": float(np.mean([shape(centred(vec_MD)).rank for vec_MD in memories])),
        "rank_bound": float(np.mean([s.bound for s in shapes])),
    }
    each = [spectrum(_singular(vec_MD)) for vec_MD in memories]
    for i in range(max(map(len, each))):
        found = [shares[i] for shares in each if len(shares) > i]
        out[f"passage_spectrum_{i + 1}"] = float(np.mean(found))
    return out


def _pooled(memories: Sequence[np.ndarray]) -> dict[str, float | int]:
    pooled_WD = np.concatenate([np.asarray(v, np.float64) for v in memories])
    singular_S = _singular(pooled_WD)
    out: dict[str, float | int] = {
        "pooled_rank": effective_rank(singular_S),
        "pooled_participation": participation_ratio(singular_S),
        "pooled_stable_rank": stable_rank(singular_S),
        "pooled_bound": min(pooled_WD.shape),
        "pooled_centred_rank": shape(centred(pooled_WD)).rank,
    }
    return out | {f"spectrum_{i}": s for i, s in enumerate(spectrum(singular_S), start=1)}


def _positions(memories: Sequence[np.ndarray]) -> dict[str, float]:
    places = at_positions(memories)
    if not places:
        return {}
    return {
        "position_rank": float(np.mean([shape(centred(vec_WD)).rank for vec_WD in places])),
        # One direction fewer than vectors: less their mean, they add up to nothing.
        "position_bound": float(np.mean([min(len(v) - 1, v.shape[1]) for v in places])),
        "position_uncentred_rank": float(np.mean([shape(vec_WD).rank for vec_WD in places])),
    }


def _singular(vec_MD: np.ndarray) -> np.ndarray:
    return np.linalg.svd(np.asarray(vec_MD, np.float64), compute_uv=False)


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
    "position_uncentred_rank",
    *(f"spectrum_{i}" for i in range(1, SPECTRUM + 1)),
    *(f"passage_spectrum_{i}" for i in range(1, SPECTRUM + 1)),
)
