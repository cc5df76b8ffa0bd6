import math

import numpy as np
import pytest

from jaxcomp.evals.held import Row
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.inference import decode

LONG = "the cat sat on the mat and the dog sat on the log near the old mill"
SHORT = "the cat sat on the mat and the dog sat"


def row(source="a b c", rebuilt="a b c", source_ids=(1, 2, 3), rebuilt_ids=(1, 2, 3), **more):
    values = {"nll": 4.0, "correct": 3, "targets": 4} | more
    return Row(source, rebuilt, list(source_ids), list(rebuilt_ids), **values)


def test_a_perfect_rebuilding():
    out = reconstruction.measure([row(LONG, LONG), row(LONG, LONG)])
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


def test_bleu_takes_the_source_as_reference():
    """Who stops early is precise but brief; exchanged, BLEU has no brevity penalty."""
    early = reconstruction.bleu([LONG], [SHORT])
    babbling = reconstruction.bleu([SHORT], [LONG])
    n, m = len(SHORT.split()), len(LONG.split())
    assert early == pytest.approx(100 * math.exp(1 - m / n), abs=1e-6)
    assert babbling != pytest.approx(early, abs=1.0)
    assert reconstruction.measure([row(LONG, SHORT)])["bleu"] == pytest.approx(early)


def test_bleu_signature_is_the_documented_one():
    reconstruction.bleu([LONG], [LONG])
    signature = str(reconstruction.bleu_scorer().get_signature())
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")


def test_bleu_is_of_the_corpus_and_rouge_a_mean_of_passages():
    assert reconstruction.bleu([LONG, SHORT], [LONG, "xyz"]) != pytest.approx(50.0)
    assert reconstruction.rouge_l([LONG, SHORT], [LONG, "xyz"]) == pytest.approx(0.5)


def test_rouge_l_is_f1_of_the_longest_common_subsequence():
    # LCS "the sat" = 2 of 3 reference words and 2 of 4 predicted ones.
    got = reconstruction.rouge_l(["the cat sat"], ["the dog has sat"])
    assert got == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


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
