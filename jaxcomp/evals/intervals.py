"""How much a number would move with other passages: the bootstrap over those of one pair."""

from __future__ import annotations

import numpy as np

DRAWS = 1000


def ratio_interval(top_W: np.ndarray, bottom_W: np.ndarray) -> tuple[float, float] | None:
    """95% percentile bootstrap of sum(top) / sum(bottom) over passages; None where there are fewer
    than two, or nothing to divide by."""
    count = len(top_W)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    tops, bottoms = times @ top_W, times @ bottom_W
    values = tops[bottoms > 0] / bottoms[bottoms > 0]
    if count < 2 or not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
