"""Calibration: made guesses with known errors, and the tokens of values."""

import pytest

from jaxcomp.config import Config
from jaxcomp.data.batches import data_tokenizer
from jaxcomp.data.world import World
from jaxcomp.evals.metrics.calibration import Guess, measure, value_tokens


def test_known_error():
    # Bin 0.9-1.0: three guesses of 0.95, one right (gap 3 x 0.95 - 1); bin 0.2-0.3: one, right.
    guesses = [Guess(0.95, r, True) for r in (True, False, False)] + [Guess(0.25, True, False)]
    out = measure(guesses)
    assert out["calibration/facts/ece"] == pytest.approx((3 * 0.95 - 1 + 0.75) / 4)
    assert out["calibration/facts/confidence"] == pytest.approx((3 * 0.95 + 0.25) / 4)
    assert out["calibration/nonfavourite/n"] == 1
    assert out["calibration/nonfavourite/ece"] == pytest.approx(0.75)


def test_certainty_has_a_bin_and_nothing_has_no_number():
    assert measure([Guess(1.0, True, False)])["calibration/facts/ece"] == 0.0
    assert measure([])["calibration/facts/ece"] is None
    assert measure([])["calibration/facts/n"] == 0


def test_the_token_of_a_value_says_that_value():
    cfg = Config()
    tokenizer, world = data_tokenizer(cfg), World(cfg.world)
    several = 0
    for index in range(40):
        passage = world.passage("test", index)
        ids = tokenizer.encode(passage.text)
        spans = [(fact.start, fact.end) for fact in passage.facts]
        for fact, at in zip(
            passage.facts, value_tokens(passage.text, spans, tokenizer), strict=True
        ):
            words = passage.text[fact.start : fact.end]
            if at is None:
                several += 1
                assert len(words.split()) > 1
            else:
                assert tokenizer.decode([ids[at]]).strip() == words
    assert several  # of relations and orders the whole clause is the span
