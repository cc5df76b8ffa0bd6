"""Checks of what evaluation will report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxcomp.data.batches import REBUILD
from jaxcomp.evals.held import Row
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.evals.preview.batch import Preview
from jaxcomp.evals.preview.finding import Finding, healthy
from jaxcomp.evals.preview.loss import slopes

CLOSE = 1e-3  # of two float32 sums over the same states, relative
# Teacher-forced accuracy from which a rebuild should run by itself.
FLUENT = 0.9


def bleu(p: Preview) -> Finding:
    """Prediction and reference swapped in BLEU."""
    # Every n-gram of the prediction is right and half of the text is missing: BLEU is the brevity
    # penalty alone, exp(1 - 12 / 6). Swapped there is no penalty and half of the words are wrong.
    said = "one two three four five six seven eight nine ten eleven twelve"
    half = " ".join(said.split()[:6])
    row = Row(said, half, list(range(12)), list(range(6)), 12.0, 9, 13)
    found, expected = reconstruction.measure([row])["bleu"], 100 * math.exp(-1)
    if found is None or abs(found - expected) > 0.01:
        return Finding(
            False,
            f"BLEU {found} for a rebuild that stops halfway",
            f"{expected:.2f}: the brevity penalty of the prediction against the reference",
            "evals/reconstruction.py: sacrebleu takes the predictions first",
        )
    return healthy(f"BLEU {found:.2f} for a rebuild that stops halfway, the brevity penalty alone")


def free_running(p: Preview) -> Finding:
    """BLEU of a teacher-forced argmax, called reconstruction."""
    other = p.sample._replace(tok_BOL=p.others(p.sample.tok_BOL, 1))
    pairs = list(zip(p.rebuilt, p.rebuild(other), strict=True))
    told = sum(a.row.rebuilt_ids != b.row.rebuilt_ids for a, b in pairs)
    if told:
        return Finding(
            False,
            f"{told} of {len(pairs)} rebuilt texts changed with the text they are compared to",
            "rebuilds that know the memory alone",
            "evals/evaluate.py: decode freely (reconstruction.free), never from the true tokens",
        )
    return healthy(f"{len(pairs)} rebuilds stay the same whatever text they are compared to")


def agreement(p: Preview) -> Finding:
    """Evaluation that scores something else than what training trains."""
    rebuilding = p.sample._replace(mode_BO=np.full_like(p.sample.mode_BO, REBUILD))
    tower, O = p.listen(rebuilding).decoder, p.sample.tok_len_BO.shape[1]
    head_VD = np.asarray(p.model.decoder.head_VD(), np.float32)
    for b, found in enumerate(p.rebuilt):
        length = int(p.sample.tok_len_BO[b, 0])
        hidden_LD = tower.hidden_BSD[b * O, p.prefix - 1 : p.prefix - 1 + length]
        parts = slopes(hidden_LD, head_VD, p.sample.tok_BOL[b, 0, :length])
        trained = float(sum(nll_L.sum(dtype=np.float64) for _, nll_L in parts))
        if abs(trained - found.row.nll) > CLOSE * abs(trained):
            return Finding(
                False,
                f"text {b + 1} costs {found.row.nll:.3f} nats in evaluation, {trained:.3f} by the "
                "states that training uses",
                "one number",
                "evals/reconstruction.py and compress/autoencoder.py: the same places and shift",
            )
    return healthy(f"{len(p.rebuilt)} texts cost the same nats in training and in evaluation")


def runs_by_itself(p: Preview) -> Finding:
    """Teacher-forced 99% accuracy with about 0% greedy reconstruction (of a finished run)."""
    if not p.trained_val:
        return Finding(None, "no finished run yet: ask again after `jaxcomp train`")
    return forced_and_free([found.row for found in p.trained_val])


def forced_and_free(rows: Sequence[Row]) -> Finding:
    """Teacher-forced against free-running accuracy.

    If each token were wrong with the teacher-forced rate a, and everything after a text's first
    error were lost, the mean over l = 1..L of a^l would still be right. Errors that come together
    leave more. Less than half of it means that the rebuild cannot run by itself.
    """
    found = reconstruction.measure(rows)
    forced, free = float(found["tf_accuracy"] or 0), float(found["fr_accuracy"] or 0)
    lengths = np.array([max(r.targets, 1) for r in rows])
    right = np.concatenate([forced ** np.arange(1, n + 1) for n in lengths])
    least = float(right.mean()) / 2
    told = f"teacher-forced {forced:.1%}, free-running {free:.1%} of tokens, {len(rows)} texts"
    if forced >= FLUENT and free < least:
        return Finding(
            False,
            told,
            f"at least {least:.1%} free-running",
            "train longer or at a lower ratio, and never report the teacher-forced number alone",
        )
    return healthy(told)
