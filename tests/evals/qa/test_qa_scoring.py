"""Intervals of shares and means whose items share passages."""

import numpy as np
import pytest
from scipy import stats

from jaxcomp.evals.qa.scoring import average, proportion, share, wilson


def test_where_no_passage_is_shared_nothing_changes():
    hits, values = [True, False, True, True, False], [0.1, 0.5, 0.2, 0.9, 0.4]
    assert proportion(hits, "abcde") == share(3, 5)
    assert average(values, "abcde") == average(values)
    assert proportion([], []) == share(0, 0)
    assert average([], []) == average([])


def test_wilsons_formula_is_scipys():
    for count, n in ((3, 7), (0, 20), (20, 20), (150, 400), (81, 263)):
        expected = stats.binomtest(count, n).proportion_ci(method="wilson")
        found = share(count, n)
        assert (found["low"], found["high"]) == pytest.approx(tuple(expected), abs=1e-12)
        assert (found["count"], found["n"], found["rate"]) == (count, n, count / n)


def test_shares_and_means_of_nothing_have_no_numbers():
    assert share(0, 0) == {"count": 0, "n": 0, "rate": None, "low": None, "high": None}
    assert average([]) == {"n": 0, "mean": None, "low": None, "high": None}
    assert average([0.5]) == {"n": 1, "mean": 0.5, "low": None, "high": None}
    assert average([0.0] * 9) == {"n": 9, "mean": 0.0, "low": None, "high": None}


def test_the_interval_of_a_mean_is_about_that_of_the_normal_law():
    found = average([0.0] * 300 + [1.0] * 100)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found["mean"] == 0.25
    assert found["low"] == pytest.approx(0.25 - half, abs=0.006)
    assert found["high"] == pytest.approx(0.25 + half, abs=0.006)


def test_items_that_repeat_each_other_are_worth_one_a_passage():
    """Each of C passages asked twice alike: deff is 2C / (C - 1), so n / deff is C - 1."""
    hits = [n % 3 == 0 for n in range(30)]
    found = proportion(hits * 2, list(range(30)) * 2)
    few = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, 29)) ** 2
    assert (found["low"], found["high"]) == pytest.approx(wilson(1 / 3, 29 * few))
    assert (found["count"], found["n"], found["rate"]) == (20, 60, 1 / 3)
    nothing = proportion([False] * 60, list(range(30)) * 2)
    assert (nothing["low"], nothing["high"]) == pytest.approx(wilson(0, 30 * few))


def test_items_that_spread_evenly_are_not_worth_more_than_they_are():
    found, plain = (
        proportion([True, False] * 200, np.repeat(range(200), 2).tolist()),
        share(200, 400),
    )
    few = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, 199)) ** 2
    assert (found["low"], found["high"]) == pytest.approx(wilson(0.5, 400 * few))
    assert found["high"] - found["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.02)


def test_of_one_passage_there_is_no_interval():
    assert proportion([True, False, True], "aaa") == share(2, 3) | {"low": None, "high": None}
    assert average([0.5, 0.2], "aa") == {"n": 2, "mean": 0.35, "low": None, "high": None}


def test_an_interval_holds_the_truth_where_answers_about_a_passage_are_alike():
    """20 passages of 20 questions, correlation 0.3 within a passage, a true share of 0.3: of 1,000
    such draws 96% (the metrics page); Wilson's of 400 independent ones holds it in 55%."""
    rng, contexts, eval_set = np.random.default_rng(1), np.repeat(range(20), 20).tolist(), [0, 0]
    for _ in range(200):
        rates = rng.beta(0.3 * 7 / 3, 0.7 * 7 / 3, 20)
        hits = rng.binomial(1, np.repeat(rates, 20)) > 0
        for i, found in enumerate((proportion(hits.tolist(), contexts), share(hits.sum(), 400))):
            eval_set[i] += found["low"] <= 0.3 <= found["high"]
    assert eval_set[0] >= 180 > 140 > eval_set[1]


def test_a_mean_is_drawn_by_passages():
    values = np.random.default_rng(0).random(40).tolist()
    alone = average(values)
    four = average(values * 4, list(range(40)) * 4)
    assert four["mean"] == pytest.approx(alone["mean"])
    assert four["low"] == pytest.approx(alone["low"], abs=0.01)
    assert four["high"] == pytest.approx(alone["high"], abs=0.01)
    taken_apart = average(values * 4)
    assert taken_apart["high"] - taken_apart["low"] < 0.6 * (four["high"] - four["low"])
    assert four == average(values * 4, list(range(40)) * 4)
