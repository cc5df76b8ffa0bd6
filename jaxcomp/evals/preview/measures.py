"""Checks of evaluation metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxcomp.data.batches import REBUILD
from jaxcomp.evals.eval_set import Row
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.evals.preview.batch import Preview
from jaxcomp.evals.preview.check import Finding, check
from jaxcomp.evals.preview.loss import slopes

CLOSE = 1e-3  # of two float32 sums over the same states, relative
# Teacher-forced accuracy from which a rebuild should run by itself.
FLUENT = 0.9


@check(
    "evaluation scores what is trained",
    "one number for each text",
    "inference/decode.py and compress/autoencoder.py: the same places and shift",
)
def agreement(p: Preview) -> Finding:
    """Evaluation that scores something else than what training trains."""
    rebuilding = p.sample._replace(mode_BO=np.full_like(p.sample.mode_BO, REBUILD))
    tower, O = p.listen(rebuilding).decoder, p.sample.tok_len_BO.shape[1]
    head_VD = np.asarray(p.model.decoder.head_VD(), np.float32)
    trained = []
    for b, length in enumerate(p.sample.tok_len_BO[:, 0]):
        hidden_LD = tower.hidden_BSD[b * O, p.prefix - 1 : p.prefix - 1 + length]
        parts = slopes(hidden_LD, head_VD, p.sample.tok_BOL[b, 0, :length])
        trained.append(float(sum(nll_L.sum(dtype=np.float64) for _, nll_L in parts)))
    scored = [one.row.nll for one in p.rebuilt]
    return Finding(
        np.allclose(scored, trained, rtol=CLOSE, atol=0),
        f"{len(scored)} texts cost {sum(scored):.2f} nats in evaluation, {sum(trained):.2f} by the "
        "states that training uses",
    )


@check(
    "rebuilds are free-running",
    "rebuilds that know the memory alone",
    "evals/evaluate.py: decode freely (inference.decode.free), never from the true tokens",
)
def free_running(p: Preview) -> Finding:
    """BLEU of a teacher-forced argmax, called reconstruction."""
    others = p.rebuild(p.sample._replace(tok_BOL=p.others(p.sample.tok_BOL, 1)))
    pairs = zip(p.rebuilt, others, strict=True)
    changed = sum(a.row.rebuilt_ids != b.row.rebuilt_ids for a, b in pairs)
    found = f"{changed} of {len(others)} rebuilt texts changed with the text they are compared to"
    return Finding(not changed, found)


@check(
    "direction of BLEU",
    "the brevity penalty of the prediction against the reference",
    "evals/metrics/reconstruction.py: sacrebleu takes the predictions first",
)
def bleu(p: Preview) -> Finding:
    """Prediction and reference swapped in BLEU."""
    # Every n-gram of the prediction is right and half of the text is missing: BLEU is the brevity
    # penalty alone, exp(1 - 12 / 6). Swapped there is no penalty and half of the words are wrong.
    said = "one two three four five six seven eight nine ten eleven twelve"
    found = reconstruction.bleu([said], [" ".join(said.split()[:6])])
    expected = 100 * math.exp(-1)
    return Finding(
        abs(found - expected) <= 0.01,
        f"BLEU {found:.2f} for a rebuild that stops halfway; the brevity penalty is {expected:.2f}",
    )


@check(
    "a trained pair runs by itself",
    "free-running accuracy that teacher-forced accuracy explains",
    "train longer or at a lower ratio, and never report the teacher-forced number alone",
)
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
    right = np.concatenate([forced ** np.arange(1, max(r.targets, 1) + 1) for r in rows])
    least = float(right.mean()) / 2
    return Finding(
        forced < FLUENT or free >= least,
        f"teacher-forced {forced:.1%}, free-running {free:.1%} of tokens, {len(rows)} texts; "
        f"suspicious from {FLUENT:.0%} and under {least:.1%}",
    )
