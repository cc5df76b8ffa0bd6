"""SAGE's selection (arXiv 2604.15583): of a text's token scores to the spans that are kept.

1. A window has 2% of the text's tokens (rounded down, at least 1; at most the budget).
2. Each start position has the mean of its window's scores. Windows are taken from the best one on,
   the first of equals first.
3. A window that overlaps what is kept is merged with it. One that would exceed the budget is cut:
   of its tokens that are not kept yet, the first ones fill the budget.
4. Spans stand in the order of the text. Spans that touch are one.
"""

from __future__ import annotations

import math

import numpy as np

WINDOW = 0.02  # share of the text's tokens
Spans = list[tuple[int, int]]


class SelectError(ValueError):
    """A text cannot be reduced; the message says why and what to do."""


def check_share(share: float, name: str = "budget") -> None:
    """Raises SelectError for a budget that is no share of a text."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise SelectError(
            f"{name} is {share!r}; expected a share of the text's tokens, above 0 and at most 1"
        )


def tokens_of(share: float, tokens: int) -> int:
    """A share of so many tokens: rounded down, at least 1."""
    return max(1, math.floor(share * tokens + 1e-9))  # 0.07 * 100 is 7.000000000000001


def keep(score_W: np.ndarray, budget: int) -> Spans:
    """The token spans [first, end) that are kept of a text by its tokens' scores.

    Args:
      score_W: finite scores.
      budget: tokens to keep, at least 1.
    """
    n = len(score_W)
    left = min(budget, n)
    size = min(tokens_of(WINDOW, n), left)
    if not n:
        return []
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(score_W, np.float64))])
    best = np.argsort(sums[: n - size + 1] - sums[size:], kind="stable")
    kept_W = np.zeros(n, bool)
    for start in best.tolist():
        new = start + np.flatnonzero(~kept_W[start : start + size])[:left]
        kept_W[new] = True
        left -= len(new)
        if not left:
            break
    return _spans(kept_W)


def keep_units(score_W: np.ndarray, unit_W: np.ndarray, budget: int) -> Spans:
    """As `keep`, of whole units such as sentences, an option of ours: by the mean of their token
    scores, every next one that still fits, and the best one in any case.

    Args:
      score_W: finite scores.
      unit_W: the number of each token's unit, from 0, not falling.
      budget: tokens to keep.
    """
    if not len(score_W):
        return []
    sizes_U = np.bincount(unit_W)
    means_U = np.bincount(unit_W, score_W) / np.maximum(sizes_U, 1)
    left, kept = budget, []
    for unit in [u for u in np.argsort(-means_U, kind="stable").tolist() if sizes_U[u]]:
        if sizes_U[unit] <= left or not kept:
            kept.append(unit)
            left -= sizes_U[unit]
    return _spans(np.isin(unit_W, kept))


def _spans(kept_W: np.ndarray) -> Spans:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept_W, [False]]))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
