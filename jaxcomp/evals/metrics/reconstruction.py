"""Reconstruction.

A passage is rebuilt from its memory, teacher-forced and free-running. BLEU is sacrebleu's, one
reference, signature `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`: its own
tokenisation, 0 to 100. ROUGE-L is rouge-score 0.1.2, F1 of the longest common subsequence of
lower-cased alphanumeric words, no stemming, 0 to 1.

PCC's BLEU (0 to 1) is for tables beside that recipe's, computed as its public code does
(broalantaps/The-most-influential-graduation-project, `pretraining/experience/reconstruction/`): per
passage nltk's `sentence_bleu`, equal weights of 1- to 4-grams, no smoothing, words of
`word_tokenize`, mean over passages, and the source in the place of the prediction. So its precision
is a recall, and texts longer than their source pay the brevity penalty. A passage without a common
4-gram has 0. Sentences end where Punkt says without its trained English parameters, which are a
download: on 1,000 prose texts that changes BLEU by 0.0001 on average and 0.008 at most.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from jaxcomp.evals.eval_set import EvalSet, Row
from jaxcomp.evals.metric import (
    FREE_RUNNING,
    HIGHER,
    LOSS,
    LOWER,
    PASSAGES,
    POOLED,
    Metric,
    Record,
    Show,
    Sums,
    Values,
    forced,
    metrics,
    share,
)


def matches(source_ids: Sequence[int], rebuilt_ids: Sequence[int]) -> tuple[int, int]:
    """Positions that hold the same token, and max(len(source), len(rebuilt))."""
    same = sum(a == b for a, b in zip(source_ids, rebuilt_ids, strict=False))
    return same, max(len(source_ids), len(rebuilt_ids))


# nltk and sacrebleu take seconds to load, which only scoring needs.


@cache
def bleu_scorer() -> Any:
    import sacrebleu

    return sacrebleu.BLEU(tokenize="13a")


def bleu(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Corpus BLEU (0 to 100), one reference each; sacrebleu, tokenisation 13a, exp smoothing."""
    # sacrebleu takes the predictions first; brevity penalty and precision are not symmetric.
    return float(bleu_scorer().corpus_score(list(predictions), [list(references)]).score)


def pcc_bleu(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over passages of nltk's sentence BLEU-4 (0 to 1), as the code of PCC computes it: the
    source in the place of the prediction, no smoothing (the metrics page)."""
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no smoothing is used, at each passage
        scores = [
            sentence_bleu([_pcc_words(p)], _pcc_words(r))
            for r, p in zip(references, predictions, strict=True)
        ]
    return float(np.mean(scores))


@cache
def _pcc_tokenizers() -> tuple[Any, Any]:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


def _pcc_words(text: str) -> list[str]:
    """nltk's `word_tokenize` but for the trained parameters of Punkt, which are a download."""
    sentences, words = _pcc_tokenizers()
    return [w for s in sentences.tokenize(text) for w in words.tokenize(s)]


def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over passages of the ROUGE-L F1 (0 to 1) of rouge-score, without stemming."""
    from rouge_score import rouge_scorer

    score = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False).score
    scores = [score(r, p)["rougeL"].fmeasure for r, p in zip(references, predictions, strict=True)]
    return float(np.mean(scores))


def measure(rows: Sequence[Row]) -> Values:
    """The metrics of REBUILDING; sums over sums, so passages weigh by their tokens or bytes.

    Raises:
      ValueError: there is no row, or none has a target token.
    """
    targets = sum(r.targets for r in rows)
    if not targets:
        raise ValueError(
            f"{len(rows)} passages with {targets} target tokens: nothing can be measured; "
            "give a non-empty evaluation set (data.eval_passages, data.path)"
        )
    nll = math.fsum(r.nll for r in rows)
    size = sum(len(r.source.encode()) for r in rows)
    same, length = map(sum, zip(*(matches(r.source_ids, r.rebuilt_ids) for r in rows), strict=True))
    references, predictions = [r.source for r in rows], [r.rebuilt for r in rows]
    loss = nll / targets
    return {
        "loss": loss,
        "bits_per_byte": nll / math.log(2) / size if size else None,
        # exp overflows float64 at 709 nats; such a loss has no perplexity worth printing.
        "perplexity": math.exp(loss) if loss < 700 else None,
        "tf_accuracy": sum(r.correct for r in rows) / targets,
        "fr_accuracy": same / length if length else 1.0,
        "exact_match": sum(r.source_ids == r.rebuilt_ids for r in rows) / len(rows),
        "bleu": bleu(references, predictions),
        "pcc_bleu": pcc_bleu(references, predictions),
        "rouge_l": rouge_l(references, predictions),
    }


@metrics(
    Metric("<set>/passages", "count", "passages of the set"),
    Metric(
        "<set>/left_out",
        "count",
        "passages looked at for the set (in whole blocks, so a few past its end) that do not fit, "
        "left out whole: no other number counts them",
    ),
    Metric("<set>/tokens", "count", "source tokens, summed over passages"),
    Metric("<set>/bytes", "count", "bytes of source text, summed over passages"),
    Metric("<set>/vectors", "count", "valid memory vectors, summed over passages"),
    Metric(
        "<set>/tokens_per_vector",
        "ratio",
        "tokens / vectors: the ratio really achieved, in decoder tokens",
        average=POOLED,
    ),
    Metric(
        "<set>/text_bytes_per_memory_byte",
        "ratio",
        "bytes / (vectors × D × bytes of one number in the dtype the decoder computes in)",
        average=POOLED,
    ),
)
def size(eval_set: EvalSet) -> Values:
    tokens = sum(len(row.source_ids) for row in eval_set.rows)
    text = sum(len(row.source.encode()) for row in eval_set.rows)
    memory = eval_set.vectors * eval_set.vector_bytes
    return {
        "passages": len(eval_set.rebuilt),
        "left_out": eval_set.left_out,
        "tokens": tokens,
        "bytes": text,
        "vectors": eval_set.vectors,
        "tokens_per_vector": tokens / eval_set.vectors if eval_set.vectors else None,
        "text_bytes_per_memory_byte": text / memory if memory else None,
    }


def memory_size(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return the mean number of vectors of a passage of the set `name`, and the bytes of one
    vector, from the metrics that `size` declares; None where one is missing or 0."""
    names = ("passages", "vectors", "bytes", "text_bytes_per_memory_byte")
    held = [metrics.get(f"{name}/{each}") or 0 for each in names]
    if not all(held):
        return None
    passages, vectors, text, per_byte = held
    return vectors / passages, text / per_byte / vectors


def _loss(record: Record, _: str) -> Sums | None:
    loss = record.get("loss")
    return None if loss is None else (loss * record["targets"], record["targets"])


_SHOWN_LOSS = "reconstruction loss on held-out passages, nats per token, teacher-forced"
_SHOWN_TOKENS = "share of tokens at which the greedy free-running rebuild agrees with the source"
_rebuilt = partial(Metric, run=FREE_RUNNING, better=HIGHER)

REBUILDING = (
    forced(
        "<set>/loss",
        "nats/token",
        "–Σ ln p(target token) / number of target tokens",
        LOWER,
        shown=(Show("loss", 10, LOSS, _SHOWN_LOSS),),
        sums=_loss,
    ),
    forced(
        "<set>/bits_per_byte",
        "bits/byte",
        "–Σ log2 p(target token) / bytes (the end token is in the sum)",
        LOWER,
    ),
    forced("<set>/perplexity", "–", "exp(loss)", LOWER),
    forced(
        "<set>/tf_accuracy",
        "share",
        "target tokens that are the most likely one / target tokens",
        HIGHER,
    ),
    share(
        "<set>/fr_accuracy",
        "Σ positions at which source and rebuilt text hold the same token / Σ max(number of source "
        "tokens, number of rebuilt tokens); end tokens left out, so a shift by one costs all that "
        "follows, and too long or too short costs too",
        HIGHER,
        shown=(Show("tokens rebuilt", 20, meaning=_SHOWN_TOKENS),),
        sums=lambda record, _: (record["fr_same"], record["fr_length"]),
    ),
    _rebuilt(
        "<set>/exact_match",
        "share",
        "passages whose rebuilt tokens are exactly the source tokens / passages",
        average=PASSAGES,
    ),
    _rebuilt(
        "<set>/bleu",
        "0–100",
        "corpus BLEU of the rebuilt texts against the source texts",
        average="corpus",
    ),
    _rebuilt("<set>/pcc_bleu", "0–1", "PCC's BLEU (see above)", average=PASSAGES),
    _rebuilt("<set>/rouge_l", "0–1", "ROUGE-L F1", average=PASSAGES),
)


@metrics(*REBUILDING, without=[m.name.removeprefix("<set>/") for m in REBUILDING])
def rebuilding(eval_set: EvalSet) -> Values:
    return measure(eval_set.rows)
