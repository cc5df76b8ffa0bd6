"""The kept spans against a reference that recomputes everything from sets."""

from typing import Any

import numpy as np
import pytest

from jaxcomp.inference.windows import SelectError, check_share, keep, keep_units, tokens_of


def reference(scores, budget):
    n = len(scores)
    size = min(max(1, n * 2 // 100), budget)
    windows = sorted(range(n - size + 1), key=lambda i: (-np.mean(scores[i : i + size]), i))
    kept = set()
    for start in windows:
        new = [t for t in range(start, start + size) if t not in kept]
        kept |= set(new[: max(0, budget - len(kept))])
    spans = []
    for token in sorted(kept):
        if spans and spans[-1][1] == token:
            spans[-1][1] += 1
        else:
            spans.append([token, token + 1])
    return [tuple(span) for span in spans]


def test_spans_are_those_of_the_reference():
    rng, cut = np.random.default_rng(0), 0
    for case in range(1000):
        n = int(rng.integers(1, 400))
        budget = int(rng.integers(1, n + 1))
        scores = rng.normal(size=n)
        if case % 4 == 0:  # ties, exact in any order of summing
            scores = np.round(scores * 2)
        found = keep(scores, budget)
        assert found == reference(scores, budget), (case, n, budget)
        assert sum(end - start for start, end in found) == budget
        cut += any(end - start < min(max(1, n * 2 // 100), budget) for start, end in found)
    assert cut > 100  # windows were cut to the budget


def test_overlapping_windows_are_merged_and_the_last_one_is_cut():
    scores = np.zeros(100)  # windows of 2
    scores[[10, 11, 12]] = 5, 9, 4
    scores[50:52] = 3
    assert keep(scores, 2) == [(10, 12)]
    assert keep(scores, 3) == [(10, 13)]  # 11 to 13 overlaps, 12 is new
    assert keep(scores, 4) == [(10, 13), (50, 51)]  # 50 to 52 is cut
    assert keep(scores, 6) == [(9, 13), (50, 52)]  # 9 to 11 overlaps, 9 is new
    assert keep(scores, 7) == [(9, 14), (50, 52)]


def test_a_budget_below_a_window_is_the_one_best_window():
    scores = np.zeros(600)  # windows of 12
    scores[100], scores[300:305] = 9, 3
    assert keep(scores, 5) == [(300, 305)]


def test_short_texts():
    assert keep(np.zeros(0), 1) == []
    assert keep(np.array([0.5]), 1) == [(0, 1)]
    assert keep(np.array([1.0, 3, 2]), 2) == [(1, 3)]
    assert keep(np.array([1.0, 0, 2]), 9) == [(0, 3)]


def test_shares():
    assert [tokens_of(s, n) for s, n in ((0.1, 5), (0.07, 100), (0.29, 100), (1, 7))] == [
        1,
        7,
        29,
        7,
    ]
    wrong: list[Any] = [0, -0.1, 1.5, float("nan"), "0.1", True, None]
    for bad in wrong:
        with pytest.raises(SelectError, match=r"budget is .*above 0 and at most 1"):
            check_share(bad)


def test_units_are_kept_whole():
    unit_W = np.array([0, 0, 1, 1, 1, 3])  # unit 2 has no token
    scores = np.array([1.0, 3, 9, 0, 0, 8])
    assert keep_units(scores, unit_W, 1) == [(5, 6)]
    assert keep_units(scores, unit_W, 3) == [(0, 2), (5, 6)]  # 1 is next and does not fit
    assert keep_units(scores, unit_W, 4) == [(2, 6)]
    assert keep_units(scores * [9, 9, 1, 1, 1, 1], unit_W, 1) == [(0, 2)]  # the best in any case
    assert keep_units(scores, unit_W, 6) == [(0, 6)]
    assert keep_units(np.zeros(0), np.zeros(0, int), 1) == []
