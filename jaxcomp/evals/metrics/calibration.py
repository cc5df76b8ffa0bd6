"""Calibration on facts.

Does the decoder know when it is wrong? At a fact whose value is one token (relations, orders and
negations take several, and are left out), teacher-forced: confidence is the probability of the most
likely token, and the guess is right where that is the value. The expected calibration error (Guo et
al. 2017, eq. 3) has 10 bins of equal width: Σ over bins |number right − Σ confidence| / n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxcomp.evals.eval_set import EvalSet
from jaxcomp.evals.metric import HIGHER, LOWER, Metric, Values, forced, metrics

if TYPE_CHECKING:  # loads slowly, and headlines need no tokenizer
    from jaxcomp.data.tokenizer import Tokenizer

GROUPS = {"facts": "facts", "nonfavourite": "those whose value is not the favourite"}
BINS = 10  # equal in width, of confidence 0 to 1


class Guess(NamedTuple):
    """The decoder's most likely token where a fact's value stands."""

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


def measure(guesses: Sequence[Guess]) -> Values:
    """The metrics of these guesses; None where there is none."""
    out: Values = {}
    for group in GROUPS:
        mine = [g for g in guesses if group == "facts" or not g.favourite]
        confidence_W = np.array([g.confidence for g in mine], np.float64)
        right_W = np.array([g.right for g in mine], np.float64)
        bin_W = np.minimum((confidence_W * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bin_W, right_W - confidence_W, BINS)
        n = len(mine)
        out[f"calibration/{group}/n"] = n
        out[f"calibration/{group}/accuracy"] = float(right_W.mean()) if n else None
        out[f"calibration/{group}/confidence"] = float(confidence_W.mean()) if n else None
        out[f"calibration/{group}/ece"] = float(np.abs(gaps).sum() / n) if n else None
    return out


def _declared(group: str, which: str) -> tuple[Metric, ...]:
    name = f"<world>/calibration/{group}"
    return (
        Metric(f"{name}/n", "count", f"{which}, of one token"),
        forced(f"{name}/accuracy", "share", "guesses that are right / n", HIGHER),
        forced(f"{name}/confidence", "probability", "mean confidence"),
        forced(f"{name}/ece", "probability", "expected calibration error", LOWER),
    )


@metrics(*(one for group, which in GROUPS.items() for one in _declared(group, which)))
def calibration(eval_set: EvalSet) -> Values:
    guesses = []
    for example, one in zip(eval_set.examples, eval_set.rebuilt, strict=True):
        facts = example.passage.facts
        spans = [(fact.start, fact.end) for fact in facts]
        places = value_tokens(example.text, spans, eval_set.dec_tok)
        for fact, at in zip(facts, places, strict=True):
            if at is not None and at < len(one.top1_L):
                right = bool(one.correct_L[at])
                guesses.append(Guess(float(one.top1_L[at]), right, fact.is_favourite))
    return measure(guesses)
