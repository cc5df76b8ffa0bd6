"""Does the decoder know when it is wrong? Its confidence at the facts, against being right.

Teacher-forced: at the token of a slot's value the decoder has read the true words before it, and
its most likely token is right or wrong. Confidence is the probability of that token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.data.tokenizer import Tokenizer

BINS = 10  # equal in width, of confidence 0 to 1


class Guess(NamedTuple):
    """The decoder's most likely token where a slot's value stands."""

    confidence: float
    right: bool
    favourite: bool  # the value is the prior's favourite


def value_tokens(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> list[int | None]:
    """The number of the token that is exactly `text[start:end]` (spaces around it aside), for each
    span; None where the span is several tokens or a part of one."""
    _, offsets = tokenizer.encode_with_offsets(text)
    found: dict[tuple[int, int], int] = {}
    for i, (start, end) in enumerate(offsets):
        word = text[start:end]
        start += len(word) - len(word.lstrip())
        found[start, start + len(word.strip())] = i
    return [found.get((start, end)) for start, end in spans]


def measure(guesses: Sequence[Guess]) -> dict[str, float | int | None]:
    """`n`, `accuracy`, `confidence` (means) and `ece` of all slots and of those off the favourite.

    Expected calibration error: sum over bins of |right - confidence| / n (Guo et al. 2017, eq. 3).
    None where there is no slot.
    """
    out: dict[str, float | int | None] = {}
    for group in GROUPS:
        held = [g for g in guesses if group == "slots" or not g.favourite]
        confidence_W = np.array([g.confidence for g in held], np.float64)
        right_W = np.array([g.right for g in held], np.float64)
        bin_W = np.minimum((confidence_W * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bin_W, right_W - confidence_W, BINS)
        n = len(held)
        out[f"calibration/{group}/n"] = n
        out[f"calibration/{group}/accuracy"] = float(right_W.mean()) if n else None
        out[f"calibration/{group}/confidence"] = float(confidence_W.mean()) if n else None
        out[f"calibration/{group}/ece"] = float(np.abs(gaps).sum() / n) if n else None
    return out


GROUPS = ("slots", "nonfavourite")
