import itertools

import numpy as np
import pytest
from scipy.stats import wilcoxon

from jaxcomp.analysis import size_tables
from jaxcomp.analysis.monotonicity import peaks, residual_variance
from jaxcomp.analysis.paired_tests import holm, pairs
from jaxcomp.analysis.stats import Point, sample
from jaxcomp.config import Config
from jaxcomp.evals import metrics

SIZES = ("xs", "s", "m", "l")


def made(value_UC, families=("a",), sums=None):
    """One base seed a row, one size a column; every family the same."""
    return sample(
        [
            Point(f, s, 10.0**i, b, 0, float(v), None if sums is None else sums[b][i])
            for f in families
            for b, row in enumerate(value_UC)
            for i, (s, v) in enumerate(zip(SIZES, row, strict=False))
        ]
    )


def test_three_replicates_cannot_tell_sizes_apart_and_say_so():
    found = pairs(made([[0, 10, 20, 30]] * 3 + np.random.default_rng(0).normal(size=(3, 4))))
    assert [(p.small, p.large) for p in found] == list(itertools.combinations(SIZES, 2))
    assert {p.p for p in found} == {0.25}
    assert {p.least for p in found} == {0.25}
    assert {p.adjusted for p in found} == {1.0}
    assert found[0].p_passages is None


def test_sign_flips_against_all_flips_by_hand():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(7, 2)) + np.array([0, 0.6])
    (found,) = pairs(made(values))
    d = values[:, 1] - values[:, 0]
    every = [abs(np.mean(d * s)) for s in itertools.product((-1, 1), repeat=7)]
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(d.mean()) - 1e-12))
    assert found.change.value == pytest.approx(d.mean())
    # Where differences are ranks, flipping them is Wilcoxon's test.
    ranks = np.array([1, 2, -3, 4, 5, 6, 7.0])
    (found,) = pairs(made(np.column_stack([np.zeros(7), ranks])))
    _, expected = wilcoxon(ranks, method="exact")
    assert found.p == pytest.approx(expected)


def test_what_no_pair_can_reach_is_said_of_the_adjusted_p():
    """Six base seeds give a p of 1/32 at least, which 0.05 admits and six pairs do not."""
    rng = np.random.default_rng(10)

    def note(bases, sizes):
        points = [
            Point(f, s, 10.0**i, b, 0, float(rng.normal()))
            for f, count in sizes.items()
            for i, s in enumerate(SIZES[:count])
            for b in range(bases)
        ]
        found = sample(points)
        head = metrics.of_role(Config(), metrics.PRIMARY)
        at = size_tables.Evidence(head, 16, "highest", pairs(found), [], found.bases)
        return str(size_tables.folded([at], 16))

    said = "no p can be under 0.031, none by Holm under"
    assert f"{said} 0.19, so no pair can be significant at 0.05." in note(6, {"a": 4})
    assert f"{said} 0.031. p over" in note(6, {"a": 2})
    assert f"{said} 0.031. p over" in note(6, {"a": 2, "b": 4})
    assert "can be significant" not in note(9, {"a": 4})
    assert note(2, {"a": 4}) == "[]"


def test_pairs_stay_inside_a_family_and_holm_adjusts_each_family():
    rng = np.random.default_rng(2)
    found = pairs(made(rng.normal(size=(6, 3)) + np.array([0, 0.5, 3]), families=("a", "b")))
    assert len(found) == 6
    by_family = [[(p.p, p.adjusted) for p in found if p.family == f] for f in "ab"]
    assert by_family[0] == by_family[1]
    # By the definition of Holm (1979): the k-th smallest of n times n - k + 1, never falling.
    raw = sorted(p for p, _ in by_family[0])
    steps = np.maximum.accumulate([min(1.0, p * (3 - k)) for k, p in enumerate(raw)])
    assert sorted(a for _, a in by_family[0]) == pytest.approx(list(steps))


def test_holm_on_a_known_example():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({}) == {}


def test_error_rate_of_sign_flips():
    rng = np.random.default_rng(3)
    hits = [pairs(made(rng.normal(size=(8, 2))))[0].p < 0.05 for _ in range(200)]
    assert 0.015 < np.mean(hits) < 0.09


def test_passages_tell_trained_models_apart_and_only_them():
    """Two runs of one replicate: the better one on all passages, or on none."""
    rng = np.random.default_rng(4)

    def over_passages(step):
        top = rng.normal(size=(3, 2, 60)) + np.array([0, step])[:, None]
        sums = [[np.stack([t, np.ones(60)]) for t in row] for row in top]
        values = [[float(t.mean()) for t in row] for row in top]
        return pairs(made(values, sums=sums))[0]

    clear = over_passages(1.0)
    assert clear.p_passages is not None
    assert clear.p_passages < 0.001
    assert clear.p == 0.25
    none = [over_passages(0.0).p_passages or 0 for _ in range(40)]
    assert np.mean(np.array(none) < 0.05) < 0.15
    assert 0.35 < np.mean(none) < 0.65


def test_the_peak_and_its_interval():
    rng = np.random.default_rng(5)
    values = np.array([0, 1, 3, 1.0]) + 0.1 * rng.normal(size=(5, 4))
    (peak,) = peaks(made(values))
    assert (peak.size, peak.low, peak.high) == ("m", "m", "m")
    assert dict(peak.shares)["m"] == 1.0
    assert peak.value.value == pytest.approx(values[:, 2].mean())
    (lowest,) = peaks(made(values), highest=False)
    assert lowest.size == "xs"
    # Nothing but noise: several sizes; all equal: each in the same share of the draws.
    (noise,) = peaks(made(rng.normal(size=(5, 4))))
    assert noise.low != noise.high
    (flat,) = peaks(made(np.ones((3, 4))))
    assert flat.shares == tuple((s, pytest.approx(0.25)) for s in SIZES)
    assert (flat.low, flat.high, flat.p_bent) == ("xs", "l", None)
    (few,) = peaks(made(values[:2]))
    assert (few.low, few.high, few.p_bent) == (None, None, None)


def test_a_bend_is_found_and_a_monotone_metric_is_not_called_bent():
    rng = np.random.default_rng(6)

    def p(means, n=4):
        return [peaks(made(means + rng.normal(size=(n, 4))))[0].p_bent or 0 for _ in range(80)]

    assert np.mean(np.array(p(np.array([0, 2, 4, 0.0]))) < 0.05) > 0.8
    for means in (np.zeros(4), np.array([0, 0, 0, 5.0]), np.array([3, 2, 1, 0.0])):
        assert np.mean(np.array(p(means)) < 0.05) < 0.13
    # What is monotone is at no distance from its fit.
    assert p(np.array([0, 50, 100, 150.0]))[0] == 1.0


def test_residual_variance_is_that_of_the_two_way_table():
    rng = np.random.default_rng(7)
    size, replicate = rng.normal(size=4), 5 * rng.normal(size=(200, 1))
    assert residual_variance(size + replicate + 2 * rng.normal(size=(200, 4))) == pytest.approx(
        4, rel=0.15
    )
    assert residual_variance(size + replicate) == 0
