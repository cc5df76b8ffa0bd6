"""Uncertainty of the decoder.

Entropy along the source and along the generated text, and agreement between samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import numpy as np

from jaxcomp.evals.eval_set import EvalSet, Sureness
from jaxcomp.evals.metric import (
    FREE_RUNNING,
    PASSAGES,
    POOLED,
    PREDICTOR,
    SAMPLED,
    Metric,
    Show,
    Value,
    Values,
    forced,
    metric,
    metrics,
)
from jaxcomp.evals.metrics.reconstruction import matches


def measure(rows: Sequence[Sureness]) -> Values:
    """Entropies and top-1 probabilities along source and own output; None without a token."""
    out: Values = {}
    for along in ("source", "own"):
        count = sum(getattr(r, f"tokens_{along}") for r in rows)
        for what in ("entropy", "top1"):
            total = float(np.sum([getattr(r, f"{what}_{along}") for r in rows]))
            out[f"{what}_{along}"] = total / count if count else None
    return out


def agreement(samples: Sequence[Sequence[Sequence[int]]]) -> float | None:
    """Of `samples[passage][sample]`, token lists, as the metric is defined; None without a pair."""
    means = []
    for one in samples:
        pairs = [matches(a, b) for a, b in combinations(one, 2)]
        if pairs:
            means.append(np.mean([same / length if length else 1.0 for same, length in pairs]))
    return float(np.mean(means)) if means else None


_ALONG = "conditional entropy of the decoder along the source, nats per token, teacher-forced"
_own = partial(Metric, run=FREE_RUNNING, average=POOLED)


@metrics(
    forced(
        "<set>/entropy_source",
        "nats/token",
        "entropy –Σ p ln p of the next-token distribution, mean over target tokens",
        shown=(Show("entropy", 80, PREDICTOR, _ALONG),),
    ),
    _own(
        "<set>/entropy_own",
        "nats/token",
        "the same along the decoder's own greedy output, mean over its steps (the one that gives "
        "the end token included)",
    ),
    forced(
        "<set>/top1_source",
        "probability",
        "probability of the most likely token, mean over target tokens",
    ),
    _own("<set>/top1_own", "probability", "the same along its own greedy output"),
)
def sureness(eval_set: EvalSet) -> Values:
    return measure([one.sure for one in eval_set.rebuilt])


@metric(
    "<set>/agreement",
    unit="share",
    definition="`eval.samples` rebuilds sampled at `eval.temperature` of each of the first "
    "`eval.sampled_passages` passages; for a pair of samples, positions holding the same token / "
    "length of the longer (end tokens left out; 1 if both are empty); mean over the pairs of a "
    "passage, then over passages",
    run=SAMPLED,
    average=PASSAGES,
)
def agreement_of_set(eval_set: EvalSet) -> Value:
    return agreement(eval_set.samples())
