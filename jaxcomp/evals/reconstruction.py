"""Rebuilding a text from its memory: teacher-forced and free-running, side by side.

`measure` turns what `inference.decode` found into numbers. docs/metrics.md defines every one of
them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One passage, rebuilt. Token lists are the decoder's and without the end token.

    `nll` (nats) is summed over and `correct` and `targets` are counted over the target tokens, the
    end token included.
    """

    source: str
    rebuilt: str
    source_ids: list[int]
    rebuilt_ids: list[int]
    nll: float
    correct: int
    targets: int


def matches(source_ids: Sequence[int], rebuilt_ids: Sequence[int]) -> tuple[int, int]:
    """Positions that hold the same token, and max(len(source), len(rebuilt))."""
    same = sum(a == b for a, b in zip(source_ids, rebuilt_ids, strict=False))
    return same, max(len(source_ids), len(rebuilt_ids))


# Scorers are made at first use: nltk and sacrebleu take seconds to load, which only scoring needs.


@cache
def bleu_scorer() -> Any:
    import sacrebleu

    return sacrebleu.BLEU(tokenize="13a")  # nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp


@cache
def _rouge_scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


@cache
def _pcc_tokenizers() -> tuple[Any, Any]:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


def bleu(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Corpus BLEU (0 to 100), one reference each; sacrebleu, tokenisation 13a, exp smoothing."""
    # sacrebleu takes the predictions first; brevity penalty and precision are not symmetric.
    return float(bleu_scorer().corpus_score(list(predictions), [list(references)]).score)


def pcc_bleu(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over passages of nltk's sentence BLEU-4 (0 to 1), as the code of PCC computes it.

    Its evaluation script gives the source in the place of the prediction, and no smoothing: so here
    (docs/metrics.md). A number to hold beside theirs; `bleu` is the one to believe.
    """
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no smoothing is used, at each passage
        scores = [
            sentence_bleu([_pcc_words(p)], _pcc_words(r))
            for r, p in zip(references, predictions, strict=True)
        ]
    return float(np.mean(scores))


def _pcc_words(text: str) -> list[str]:
    """nltk's `word_tokenize` but for the trained parameters of Punkt, which are a download."""
    sentences, words = _pcc_tokenizers()
    return [w for s in sentences.tokenize(text) for w in words.tokenize(s)]


def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over passages of the ROUGE-L F1 (0 to 1) of rouge-score, without stemming."""
    score = _rouge_scorer().score
    scores = [score(r, p)["rougeL"].fmeasure for r, p in zip(references, predictions, strict=True)]
    return float(np.mean(scores))


KEYS = (
    "loss", "bits_per_byte", "perplexity", "tf_accuracy",
    "fr_accuracy", "exact_match", "bleu", "pcc_bleu", "rouge_l",
)  # fmt: skip


def measure(rows: Sequence[Row]) -> dict[str, float | int | None]:
    """The numbers named in KEYS; sums over sums, so passages weigh by their tokens or bytes.

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
