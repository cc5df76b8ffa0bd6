"""Geometry of the memory.

How many directions the memory vectors really use: after the connector, so compressors of every
width are compared in the decoder's space. σ are singular values in float64, of a passage's matrix
of M memory vectors × D, uncentred unless said. Compare only at the same M, and beside the bound.
Vectors less their mean have one direction fewer than vectors, so `centred_rank` reaches at most
min(M – 1, D), and `pooled_centred_rank` min(vectors – 1, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.evals.held import Held
from jaxcomp.evals.metric import PASSAGES, PREDICTOR, Metric, Show, Values, metrics

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


def measure(memories: Sequence[np.ndarray]) -> Values:
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
    empty: Values = dict.fromkeys(KEYS)
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


RANK = "effective rank exp(–Σ p ln p), p = σ / Σσ (Roy & Vetterli 2007)"
SHAPES = (
    Metric(
        "<set>/rank",
        "directions",
        RANK,
        average=PASSAGES,
        bound="rank_bound",
        shown=tuple(
            Show(
                f"{name}/rank",
                "effective rank",
                70,
                PREDICTOR,
                "effective rank of a passage's memory vectors after the connector, mean over "
                "passages; compare at one ratio only, beside its bound min(M, D)",
            )
            for name in ("ordinary", "test")
        ),
    ),
    Metric(
        "<set>/participation",
        "directions",
        "participation ratio (Σσ²)² / Σσ⁴",
        average=PASSAGES,
        bound="rank_bound",
    ),
    Metric(
        "<set>/stable_rank",
        "directions",
        "stable rank Σσ² / max σ² (Rudelson & Vershynin 2007)",
        average=PASSAGES,
        bound="rank_bound",
    ),
    Metric(
        "<set>/centred_rank",
        "directions",
        "effective rank after the passage's own mean vector is taken away",
        average=PASSAGES,
    ),
    Metric(
        "<set>/rank_bound",
        "directions",
        "min(M, D), M the passage's valid vectors",
        average=PASSAGES,
    ),
    Metric(
        "<set>/pooled_rank",
        "directions",
        "effective rank of all vectors of all passages stacked",
        bound="pooled_bound",
    ),
    Metric(
        "<set>/pooled_participation",
        "directions",
        "participation ratio of the same",
        bound="pooled_bound",
    ),
    Metric(
        "<set>/pooled_stable_rank", "directions", "stable rank of the same", bound="pooled_bound"
    ),
    Metric("<set>/pooled_bound", "directions", "min(vectors, D)"),
    Metric(
        "<set>/pooled_centred_rank",
        "directions",
        "effective rank of the same after their mean vector is taken away",
    ),
    Metric(
        "<set>/position_rank",
        "directions",
        "effective rank of the vectors that the passages have at one place of the memory, less "
        "their mean; mean over the places that two passages or more have",
        average="mean over places",
        bound="position_bound",
    ),
    Metric(
        "<set>/position_bound",
        "directions",
        "min(passages that have the place – 1, D); mean over the same places (rows of "
        "docs/results/rows made before 2026-11-23, 13:00, have min(passages, D))",
        average="mean over places",
    ),
    Metric(
        "<set>/position_uncentred_rank",
        "directions",
        "effective rank of the same vectors as they are; mean over the same places",
        average="mean over places",
    ),
    Metric("<set>/spectrum_<i>", "share", "i-th largest pooled σ / Σσ; None beyond the bound"),
    Metric(
        "<set>/passage_spectrum_<i>",
        "share",
        "i-th largest σ / Σσ of a passage; mean over the passages with i vectors or more; None "
        "beyond the bound",
        average=PASSAGES,
    ),
)
KEYS = tuple(c.partition("/")[2] for m in SHAPES for c in m.columns() if c.startswith("test/"))


@metrics(*SHAPES)
def shapes(held: Held) -> Values:
    return measure([one.vec_MD for one in held.rebuilt])
