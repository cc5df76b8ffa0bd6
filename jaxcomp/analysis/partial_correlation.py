"""Partial rank correlation of two series given covariates.

Spearman's partial correlation: ranks, residuals of a linear fit on the covariates' ranks, Pearson's
correlation of the residuals. With blocks (runs, passages) it is the association *inside* blocks:
ranks are taken inside each, so that a block's level and scale say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import orth
from scipy.stats import rankdata

DRAWS = 2000  # of the permutation test, and of the bootstrap
MIN_BLOCKS = 3  # resampling one or two blocks shows nothing of how blocks differ
TINY = 1e-9


class Correlation(NamedTuple):
    """NaN where there is nothing to measure: `rho`, or an interval from too few blocks."""

    rho: float  # -1 .. 1
    low: float  # 95% percentile bootstrap
    high: float
    p: float  # two-sided; 1 where rho is NaN
    n: int  # rows that took part


def partial_correlation(
    x_N: ArrayLike,
    y_N: ArrayLike,
    given_NK: ArrayLike | None = None,
    blocks_N: Sequence | np.ndarray | None = None,
    seed: int = 0,
) -> Correlation:
    """Spearman's correlation of x and y given covariates, inside blocks.

    Left out: rows with a value that is not finite, and then blocks of a single row, which have no
    inside. `n` counts the rest.

    p: Freedman and Lane (1983): the residuals of y are permuted inside blocks and fitted on the
    covariates again; `DRAWS` permutations, the observed order among them. It takes rows of a block
    to be exchangeable given the covariates. Steps of one training run are not, unless a covariate
    (the step, the loss) carries their trend.

    Interval: whole blocks are resampled, or rows where there are no blocks. NaN under 3 blocks.

    Args:
        given_NK: covariates, N or N x K; None: none, which gives Spearman's rho.
        blocks_N: labels; rows of one label are one block. None: all rows are one.

    Raises:
        ValueError: series of different lengths.
    """
    x_NC, blocks = _rows(x_N, y_N, given_NK, blocks_N)
    n = len(x_NC)
    scores_NC = _scores(x_NC, blocks)
    rho = float(_rho(scores_NC.T @ scores_NC))
    if not math.isfinite(rho):
        return Correlation(math.nan, math.nan, math.nan, 1.0, n)
    rng = np.random.default_rng(seed)
    p = _permuted(scores_NC, blocks, rng)
    if blocks_N is None:
        return Correlation(rho, *_rows_drawn(x_NC, rng), p, n)
    return Correlation(rho, *_blocks_drawn(scores_NC, blocks, rng), p, n)


def partial_rho(
    x_N: ArrayLike,
    y_N: ArrayLike,
    given_NK: ArrayLike | None = None,
    blocks_N: Sequence | np.ndarray | None = None,
) -> float:
    """The `rho` of `partial_correlation` alone."""
    x_NC, blocks = _rows(x_N, y_N, given_NK, blocks_N)
    scores_NC = _scores(x_NC, blocks)
    return float(_rho(scores_NC.T @ scores_NC))


def _rows(x_N, y_N, given_NK, blocks_N) -> tuple[np.ndarray, np.ndarray]:
    """Columns x, y and covariates of the usable rows, sorted by block, and their block numbers."""
    x, y = np.asarray(x_N, float), np.asarray(y_N, float)
    given = np.empty((len(x), 0)) if given_NK is None else np.asarray(given_NK, float)
    given = given[:, None] if given.ndim == 1 else given
    labels = np.zeros(len(x), int) if blocks_N is None else np.asarray(blocks_N)
    lengths = {"x": len(x), "y": len(y), "covariates": len(given), "blocks": len(labels)}
    if len(set(lengths.values())) > 1 or labels.ndim != 1:
        said = ", ".join(f"{n} {name}" for name, n in lengths.items())
        raise ValueError(f"partial_correlation: {said}; expected one of each a row")
    x_NC = np.column_stack([x, y, given])
    usable = np.isfinite(x_NC).all(axis=1)
    x_NC, labels = x_NC[usable], labels[usable]
    _, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    many = count[number] > 1
    order = np.argsort(number[many], kind="stable")
    _, number = np.unique(number[many][order], return_inverse=True)
    return x_NC[many][order], number.reshape(-1)


def _scores(x_NC: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Ranks inside blocks as shares of the block, less one half, so each block's mean is 0."""
    out = np.empty_like(x_NC)
    for block in np.unique(blocks):
        out[blocks == block] = _ranked(x_NC[blocks == block])
    return out


def _ranked(x_NC: np.ndarray) -> np.ndarray:
    return rankdata(x_NC, axis=-2) / (x_NC.shape[-2] + 1) - 0.5


def _rho(products_XCC: np.ndarray) -> np.ndarray:
    """Partial correlation of columns 0 and 1 given the rest, from sums of products; X any axes."""
    top, given = products_XCC[..., :2, :2], products_XCC[..., 2:, 2:]
    across = products_XCC[..., :2, 2:]
    inverse = np.linalg.pinv(given, rcond=TINY, hermitian=True)
    left = top - across @ inverse @ np.swapaxes(across, -1, -2)
    spread = left[..., [0, 1], [0, 1]]
    whole = top[..., [0, 1], [0, 1]]
    # Constant, or explained whole by the covariates: there is nothing left to correlate.
    some = (spread > TINY * np.maximum(whole, TINY)).all(axis=-1)
    scale = np.sqrt(np.where(some, spread.prod(axis=-1), 1.0))
    return np.where(some, np.clip(left[..., 0, 1] / scale, -1, 1), np.nan)


def _permuted(scores_NC: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> float:
    given = scores_NC[:, 2:]
    basis = orth(given) if given.shape[1] else given  # covariates may repeat each other
    x, y = (v - basis @ (basis.T @ v) for v in scores_NC[:, :2].T)
    x /= math.sqrt(x @ x)

    def fitted(y_XN: np.ndarray) -> np.ndarray:
        inside = y @ y - np.sum((y_XN @ basis) ** 2, axis=-1)
        return np.abs(y_XN @ x) / np.sqrt(np.maximum(inside, TINY * (y @ y)))

    observed = fitted(y)
    extreme = 1
    for draws in _chunks(DRAWS - 1, len(y)):
        # Rows stand block by block, so sorting block + noise shuffles inside each.
        order = np.argsort(blocks + rng.random((draws, len(y))), axis=1)
        extreme += np.count_nonzero(fitted(y[order]) >= observed - TINY)
    return extreme / DRAWS


def _chunks(draws: int, n: int) -> Iterator[int]:
    """Draws at a time, so that memory stays small for long series."""
    size = max(1, 500_000 // max(n, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _rows_drawn(x_NC: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Rows are ranked again in each draw."""
    n = len(x_NC)
    found = []
    for draws in _chunks(DRAWS, x_NC.size):
        scores = _ranked(x_NC[rng.integers(n, size=(draws, n))])
        found.append(_rho(np.swapaxes(scores, 1, 2) @ scores))
    return _percentiles(np.concatenate(found))


def _blocks_drawn(
    scores_NC: np.ndarray, blocks: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    count = int(blocks[-1]) + 1
    if count < MIN_BLOCKS:
        return math.nan, math.nan
    # Ranks belong to their block, so a draw of blocks is a sum of their products.
    per_block = np.stack([v.T @ v for v in (scores_NC[blocks == b] for b in range(count))])
    times = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return _percentiles(_rho(np.einsum("db,bij->dij", times, per_block)))


def _percentiles(rhos: np.ndarray) -> tuple[float, float]:
    found = rhos[np.isfinite(rhos)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
