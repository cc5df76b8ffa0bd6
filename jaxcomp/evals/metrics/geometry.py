"""Geometry of the memory.

How many directions the memory vectors really use: after the connector, so compressors of every
width are compared in the decoder's space. σ are singular values in float64, of a passage's matrix
of M memory vectors × D, uncentred unless said. Compare only at the same M, and beside the bound.
Vectors less their mean have one direction fewer than vectors, so `centred_rank` reaches at most
min(M – 1, D), and `pooled_centred_rank` min(vectors – 1, D).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.evals.eval_set import EvalSet
from jaxcomp.evals.metric import PASSAGES, PREDICTOR, Metric, Show, Values, metrics

SPECTRUM = 8  # singular values that are reported


class Shape(NamedTuple):
    """How many directions a matrix of M vectors uses, as its metrics define it (each 0 for a matrix
    of zeros), the most there can be, min(M, D), and σ / Σσ, largest first."""

    rank: float
    participation: float
    stable: float
    bound: int
    spectrum_S: np.ndarray


def shape(vec_MD: np.ndarray) -> Shape:
    singular_S = np.linalg.svd(np.asarray(vec_MD, np.float64), compute_uv=False)
    bound = min(vec_MD.shape)
    if not singular_S.any():
        return Shape(0.0, 0.0, 0.0, bound, singular_S)
    p_S = singular_S / singular_S.sum()
    # Scaled by the largest value first: fourth powers of tiny values would underflow to 0 / 0.
    squares_S = (singular_S / singular_S.max()) ** 2
    participation = float(squares_S.sum() ** 2 / (squares_S**2).sum())
    return Shape(effective_rank(p_S), participation, float(squares_S.sum()), bound, p_S)


def effective_rank(p_S: np.ndarray) -> float:
    """exp(H(p)), H in nats (Roy & Vetterli 2007)."""
    p_S = p_S[p_S > 0.0]
    return float(np.exp(-(p_S * np.log(p_S)).sum()))


def centred(vec_MD: np.ndarray) -> np.ndarray:
    """The vectors less their mean, float64."""
    vec_MD = np.asarray(vec_MD, np.float64)
    return vec_MD - vec_MD.mean(0)


def at_positions(memories: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each memory position that at least two passages have: its vector in each of them."""
    most = max((len(vec_MD) for vec_MD in memories), default=0)
    columns = ([vec_MD[m] for vec_MD in memories if len(vec_MD) > m] for m in range(most))
    return [np.stack(vec_WD).astype(np.float64) for vec_WD in columns if len(vec_WD) > 1]


def measure(memories: Sequence[np.ndarray]) -> Values:
    """Geometry of a set of passages, one matrix `vec_MD` of its valid vectors each.

    Passages without a vector are left out. None where there is nothing to measure.

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
    memories = [vec_MD for vec_MD in memories if vec_MD.size]
    if not memories:
        return dict.fromkeys(KEYS)
    passages, places = [shape(vec_MD) for vec_MD in memories], at_positions(memories)
    pooled_WD = np.concatenate([np.asarray(vec_MD, np.float64) for vec_MD in memories])
    pooled = shape(pooled_WD)
    out: Values = {
        "rank": _mean(s.rank for s in passages),
        "participation": _mean(s.participation for s in passages),
        "stable_rank": _mean(s.stable for s in passages),
        "centred_rank": _mean(shape(centred(vec_MD)).rank for vec_MD in memories),
        "rank_bound": _mean(s.bound for s in passages),
        "pooled_rank": pooled.rank,
        "pooled_participation": pooled.participation,
        "pooled_stable_rank": pooled.stable,
        "pooled_bound": pooled.bound,
        "pooled_centred_rank": shape(centred(pooled_WD)).rank,
        "position_rank": _mean(shape(centred(vec_WD)).rank for vec_WD in places),
        # One direction fewer than vectors: less their mean, they add up to nothing.
        "position_bound": _mean(min(len(v) - 1, v.shape[1]) for v in places),
        "position_uncentred_rank": _mean(shape(vec_WD).rank for vec_WD in places),
    }
    for i in range(SPECTRUM):
        out[f"spectrum_{i + 1}"] = _mean(pooled.spectrum_S[i : i + 1])
        each = (s.spectrum_S[i] for s in passages if len(s.spectrum_S) > i)
        out[f"passage_spectrum_{i + 1}"] = _mean(each)
    return out


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _directions(name: str, definition: str, average: str = "–", bound: str = "", **more: Any):
    return Metric(f"<set>/{name}", "directions", definition, "–", average, "", bound, **more)


_PLACES = "mean over places"
_SHOWN = (
    "effective rank of a passage's memory vectors after the connector, mean over passages; compare "
    "at one ratio only, beside its bound min(M, D)"
)
SHAPES = (
    _directions(
        "rank",
        "effective rank exp(–Σ p ln p), p = σ / Σσ (Roy & Vetterli 2007)",
        PASSAGES,
        "rank_bound",
        shown=(Show("effective rank", 70, PREDICTOR, _SHOWN),),
    ),
    _directions("participation", "participation ratio (Σσ²)² / Σσ⁴", PASSAGES, "rank_bound"),
    _directions(
        "stable_rank",
        "stable rank Σσ² / max σ² (Rudelson & Vershynin 2007)",
        PASSAGES,
        "rank_bound",
    ),
    _directions(
        "centred_rank", "effective rank after the passage's own mean vector is taken away", PASSAGES
    ),
    _directions("rank_bound", "min(M, D), M the passage's valid vectors", PASSAGES),
    _directions(
        "pooled_rank", "effective rank of all vectors of all passages stacked", bound="pooled_bound"
    ),
    _directions("pooled_participation", "participation ratio of the same", bound="pooled_bound"),
    _directions("pooled_stable_rank", "stable rank of the same", bound="pooled_bound"),
    _directions("pooled_bound", "min(vectors, D)"),
    _directions(
        "pooled_centred_rank", "effective rank of the same after their mean vector is taken away"
    ),
    _directions(
        "position_rank",
        "effective rank of the vectors that the passages have at one place of the memory, less "
        "their mean; mean over the places that two passages or more have",
        _PLACES,
        "position_bound",
    ),
    _directions(
        "position_bound",
        "min(passages that have the place – 1, D); mean over the same places (rows of "
        "docs/results/rows made before 2026-11-23, 13:00, have min(passages, D))",
        _PLACES,
    ),
    _directions(
        "position_uncentred_rank",
        "effective rank of the same vectors as they are; mean over the same places",
        _PLACES,
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
def shapes(eval_set: EvalSet) -> Values:
    return measure([one.vec_MD for one in eval_set.rebuilt])
