"""Whose answer it is: the passage's, the world's, or neither; and shares with their intervals.

Every outcome is one of OUTCOMES, by one of SCORINGS:

    mean   the option with the higher mean ln p a token; equal: other
    sum    the option with the higher sum of ln p; equal: other
    free   the option that the greedy answer contains, whole words after SQuAD's normalisation;
           both or neither: other

`mean` is the primary one. The sum takes a few nats off for every further token of a name, so it
prefers the shorter option, and the more so the finer a tokenizer cuts; the mean does not grow with
length. It is no probability, and prefers names whose later tokens follow from the first.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from scipy import stats

from jaxcomp.use.pair import Score

PASSAGE, WORLD, OTHER = OUTCOMES = ("passage", "world", "other")
SCORINGS = ("mean", "sum", "free")
PRIMARY = "mean"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """As SQuAD's evaluate-v1.1.py: lower case, without ASCII punctuation and articles, single
    spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def free(answer: str, passage: str, world: str) -> str:
    """The outcome of a generated answer."""
    said = f" {normalise(answer)} "
    found = [f" {normalise(option)} " in said for option in (passage, world)]
    return OTHER if found[0] == found[1] else PASSAGE if found[0] else WORLD


def likelier(options: Sequence[Score], scoring: str) -> str:
    """The outcome of the likelihoods of the passage's answer and of the world's."""
    nats = [s.nats / s.tokens if scoring == "mean" else s.nats for s in options]
    return OTHER if nats[0] == nats[1] else PASSAGE if nats[0] < nats[1] else WORLD


def share(count: int, n: int) -> dict[str, Any]:
    """`count` of `n` with Wilson's 95% interval [low, high]; no numbers where n is 0."""
    if not n:
        return {"count": count, "n": n, "rate": None, "low": None, "high": None}
    interval = stats.binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return {"count": count, "n": n, "rate": count / n, "low": low, "high": high}
