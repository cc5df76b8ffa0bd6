"""How sure the decoder is: along the source, along its own words, and from sample to sample."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from jaxcomp.evals.reconstruction import matches

KEYS = ("entropy_source", "entropy_own", "top1_source", "top1_own")


class Sureness(NamedTuple):
    """Sums over one passage's tokens, end tokens included; entropies in nats."""

    entropy_source: float
    top1_source: float
    tokens_source: int
    entropy_own: float
    top1_own: float
    tokens_own: int


def measure(rows: Sequence[Sureness]) -> dict[str, float | int | None]:
    """Mean conditional entropy (nats/token) and top-1 probability along source and own output.

    Sums over sums: each token weighs the same. None where there is no token.
    """
    out: dict[str, float | int | None] = {}
    for along in ("source", "own"):
        count = sum(getattr(r, f"tokens_{along}") for r in rows)
        for what in ("entropy", "top1"):
            total = float(np.sum([getattr(r, f"{what}_{along}") for r in rows]))
            out[f"{what}_{along}"] = total / count if count else None
    return out


def agreement(samples: Sequence[Sequence[Sequence[int]]]) -> float | None:
    """How much sampled rebuilds of one passage agree: `samples[passage][sample]` is a token list.

    For two samples: positions holding the same token / the length of the longer one (1 if both are
    empty). Mean over the pairs of a passage, then over passages; None without a pair.
    """
    means = []
    for one in samples:
        pairs = [matches(a, b) for a, b in combinations(one, 2)]
        if pairs:
            means.append(np.mean([same / length if length else 1.0 for same, length in pairs]))
    return float(np.mean(means)) if means else None
