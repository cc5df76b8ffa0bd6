"""Reconstruction: the text metrics on 1,000 random pairs, equal to their definitions, written out
here anew, and to the reference packages called directly; sums and counts against known answers."""

import functools
import math
import re
from collections import Counter

import numpy as np
import pytest
import sacrebleu
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score import rouge_scorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from jaxcomp.evals.eval_set import Row
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.inference import decode

TEXT = "the cat sat on a mat near an old mill while 1,000 dogs didn't bark in 1984 . , ; The Cat"
WORDS = [*TEXT.split(), "U.S.", "co-op", '"quoted"', "end.", "naïve"]
SENTENCES = PunktSentenceTokenizer()


@functools.cache
def pairs():
    """(references, predictions): random texts, and each damaged by drops, changes and inserts."""
    rng = np.random.default_rng(7)
    references, predictions = [], []
    for _ in range(1000):
        words = list(rng.choice(WORDS, rng.integers(1, 30)))
        kept = []
        for word in words:
            fact_outcome = rng.random()
            kept += [word] * (fact_outcome < 0.75)
            kept += list(rng.choice(WORDS, rng.integers(0, 3))) if fact_outcome > 0.7 else []
        references.append(" ".join(words))
        predictions.append(" ".join(kept))
    return references, predictions


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def clipped(prediction, reference, n):
    """(n-grams of the prediction that the reference has as often, n-grams of the prediction)"""
    said, true = grams(prediction, n), grams(reference, n)
    return sum(min(c, true[g]) for g, c in said.items()), sum(said.values())


def bleu_by_definition(references, predictions):
    """Papineni et al. 2002 over the corpus; a precision without a match is 1 / (2^k n-grams), k
    counting such orders (sacrebleu's `exp`)."""
    cut = Tokenizer13a()
    said, true = ([cut(t).split() for t in texts] for texts in (predictions, references))
    logs, zeros = [], 0
    for n in (1, 2, 3, 4):
        found = [clipped(p, r, n) for p, r in zip(said, true, strict=True)]
        same, count = (sum(x) for x in zip(*found, strict=True))
        if not count:
            return 0.0
        zeros += same == 0
        logs.append(math.log(same / count if same else 1 / (2**zeros * count)))
    lengths = sum(map(len, said)), sum(map(len, true))
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return 100 * brevity * math.exp(sum(logs) / 4)


def rouge_l_by_definition(reference, prediction):
    """F1 of the longest common subsequence (Lin 2004)."""
    true, said = (re.findall(r"[a-z0-9]+", t.lower()) for t in (reference, prediction))
    best = np.zeros((len(true) + 1, len(said) + 1), int)
    for i, a in enumerate(true):
        for j, b in enumerate(said):
            longer = max(best[i, j + 1], best[i + 1, j])
            best[i + 1, j + 1] = best[i, j] + 1 if a == b else longer
    same = best[-1, -1]
    return 2 * same / (len(true) + len(said)) if same else 0.0


def pcc_by_definition(original, rebuilt):
    """Sentence BLEU-4 without smoothing of the *original* against the rebuilt text."""
    said, true = (
        [w for s in SENTENCES.tokenize(t) for w in NLTKWordTokenizer().tokenize(s)]
        for t in (original, rebuilt)
    )
    found = [clipped(said, true, n) for n in (1, 2, 3, 4)]
    if not all(same for same, _ in found):
        return 0.0
    brevity = min(1.0, math.exp(1 - len(true) / len(said)))
    return brevity * math.exp(sum(math.log(same / count) for same, count in found) / 4)


def test_bleu_is_its_definition_and_sacrebleus():
    references, predictions = pairs()
    ours = reconstruction.bleu(references, predictions)
    theirs = sacrebleu.corpus_bleu(predictions, [references]).score
    assert ours == theirs
    assert ours == pytest.approx(bleu_by_definition(references, predictions), rel=1e-12)
    # Each alone: what smoothing does, and texts without a single 4-gram.
    for r, p in zip(references, predictions, strict=True):
        alone = reconstruction.bleu([r], [p])
        assert alone == pytest.approx(bleu_by_definition([r], [p]), abs=1e-9)


def test_rouge_l_is_its_definition_and_rouge_scores():
    references, predictions = pairs()
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    for r, p in zip(references, predictions, strict=True):
        ours = reconstruction.rouge_l([r], [p])
        assert ours == scorer.score(r, p)["rougeL"].fmeasure
        assert ours == pytest.approx(rouge_l_by_definition(r, p), rel=1e-12, abs=0)
    each = [rouge_l_by_definition(r, p) for r, p in zip(references, predictions, strict=True)]
    assert reconstruction.rouge_l(references, predictions) == pytest.approx(np.mean(each))


def test_pccs_bleu_is_its_definition():
    references, predictions = pairs()
    each = []
    for r, p in zip(references, predictions, strict=True):
        each.append(pcc_by_definition(r, p))
        assert reconstruction.pcc_bleu([r], [p]) == pytest.approx(each[-1], rel=1e-9, abs=1e-60)
    assert 0.1 < np.mean(each) < 0.9
    assert reconstruction.pcc_bleu(references, predictions) == pytest.approx(np.mean(each))


def test_prediction_and_reference_are_separated():
    """Of rebuilt texts that stop half-way BLEU punishes the brevity, PCC's what is left out."""
    references = pairs()[0][:200]
    halves = [r[: len(r) // 2] for r in references]
    for metric, penalised in ((reconstruction.bleu, True), (reconstruction.pcc_bleu, False)):
        right, wrong = metric(references, halves), metric(halves, references)
        assert (right < 0.95 * wrong) if penalised else (right > 1.05 * wrong)


def test_bleu_signature_is_the_documented_one():
    signature = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2."
    assert str(reconstruction.bleu_scorer().get_signature()).startswith(signature)


def row(source="a b c", rebuilt="a b c", source_ids=(1, 2, 3), rebuilt_ids=(1, 2, 3), **more):
    values = {"nll": 4.0, "correct": 3, "targets": 4} | more
    return Row(source, rebuilt, list(source_ids), list(rebuilt_ids), **values)


def test_a_perfect_rebuilding_has_every_metric():
    out = reconstruction.measure([row(TEXT, TEXT), row(TEXT, TEXT)])
    assert {f"<set>/{key}" for key in out} == {m.name for m in reconstruction.REBUILDING}
    assert out["bleu"] == pytest.approx(100.0)
    assert out["rouge_l"] == out["fr_accuracy"] == out["exact_match"] == 1.0


def test_known_answers():
    rows = [
        row("ab", "ab", (1, 2), (1, 2), nll=3 * math.log(2), correct=3, targets=3),
        row("äb", "", (3, 2), (2, 3, 2, 9), nll=math.log(2), correct=0, targets=3),
    ]
    out = reconstruction.measure(rows)
    assert out["loss"] == pytest.approx(4 * math.log(2) / 6)
    assert out["perplexity"] == pytest.approx(2 ** (4 / 6))
    assert out["bits_per_byte"] == pytest.approx(4 / 5)  # ä has two bytes
    assert out["tf_accuracy"] == 0.5
    assert out["fr_accuracy"] == pytest.approx(2 / 6)  # max(2, 2) + max(2, 4)
    assert out["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([5, 6, 1, 7], ([5, 6], 3)), ([1, 5, 1], ([], 1)), ([5, 6, 7], ([5, 6, 7], 3))],
)
def test_a_rebuilding_ends_at_its_first_end_token(tokens, expected):
    assert decode.until_end(np.array(tokens), eos_id=1) == expected


def test_a_loss_beyond_float_has_no_perplexity():
    assert reconstruction.measure([row(nll=4000.0)])["perplexity"] is None


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="0 passages with 0 target tokens"):
        reconstruction.measure([])
