import math

import numpy as np
import pytest
from scipy.stats import rankdata
from scipy.stats import spearmanr as scipy_spearmanr

from jaxcomp.analysis.partial_correlation import Correlation, partial_correlation


def spearmanr(x, y):
    """(rho, p); scipy's result has no type that says so."""
    rho, p = scipy_spearmanr(x, y)
    return float(rho), float(p)  # pyright: ignore[reportArgumentType]


def drawn(n, seed=0, own=0.0):
    """x and y that both follow z, and share `own` of their noise."""
    rng = np.random.default_rng(seed)
    z, shared = rng.standard_normal((2, n))
    x, y = (z + own * shared + rng.standard_normal(n) for _ in range(2))
    return x, y, z


def test_without_covariates_it_is_spearmans_rho():
    x, y, _ = drawn(40)
    found, expected = partial_correlation(x, y), spearmanr(x, y)
    assert found.rho == pytest.approx(expected[0])
    assert found.p == pytest.approx(expected[1], abs=0.01)
    assert found.low < found.rho < found.high
    assert found.n == 40


def test_with_one_covariate_it_is_the_closed_formula():
    x, y, z = drawn(50, seed=1, own=0.5)
    xy, xz, yz = (spearmanr(a, b)[0] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_correlation(x, y, z).rho == pytest.approx(expected)


def test_with_more_covariates_it_is_the_precision_matrix():
    """-P01 / sqrt(P00 P11), P the inverse of the ranks' correlations; a repeat adds nothing."""
    rng = np.random.default_rng(2)
    x, y, z = drawn(60, seed=2, own=0.5)
    w = x + y + rng.standard_normal(60)
    precision = np.linalg.inv(np.corrcoef([rankdata(v) for v in (x, y, z, w)]))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    found = partial_correlation(x, y, np.column_stack([z, w]))
    assert found.rho == pytest.approx(expected)
    twice = partial_correlation(x, y, np.column_stack([z, w, z]))
    assert twice.rho == pytest.approx(expected)
    assert twice.p == pytest.approx(found.p, abs=0.02)


def test_a_common_cause_is_taken_away_and_a_link_of_their_own_is_not():
    """Both follow the training step, as loss and rank do; only one pair has more in common."""
    x, y, z = drawn(200, seed=3)
    assert partial_correlation(x, y).p < 0.01
    assert partial_correlation(x, y, z).low < 0 < partial_correlation(x, y, z).high
    x, y, z = drawn(200, seed=3, own=1.0)
    linked = partial_correlation(x, y, z)
    assert linked.p < 0.01
    assert linked.low > 0


def test_blocks_leave_only_what_is_inside_them():
    rng = np.random.default_rng(4)
    blocks = np.repeat(["a", "b", "c", "d", "e"], 12)
    level = np.repeat(10.0 * np.arange(5), 12)
    x, y = level + rng.standard_normal((2, 60))
    assert partial_correlation(x, y).rho > 0.9
    inside = partial_correlation(x, y, blocks_N=blocks)
    assert abs(inside.rho) < 0.3
    # Blocks of one length: the mean of their rhos, and no matter what each is stretched by.
    rhos = [spearmanr(x[blocks == b], y[blocks == b])[0] for b in "abcde"]
    assert inside.rho == pytest.approx(np.mean(rhos))
    stretched = np.exp(level / 20) * y
    assert partial_correlation(x, stretched, blocks_N=blocks) == inside


def test_the_order_of_rows_and_monotone_maps_change_nothing_but_draws():
    x, y, z = drawn(45, seed=5, own=0.5)
    blocks = np.tile([0, 1, 2], 15)
    found = partial_correlation(x, y, z, blocks)
    order = np.random.default_rng(0).permutation(45)
    again = partial_correlation(np.exp(x[order]), y[order] ** 3, z[order], blocks[order])
    assert again[:3] == pytest.approx(found[:3])
    assert again.p == pytest.approx(found.p, abs=0.03)
    assert partial_correlation(x, y, z, blocks) == found


def test_error_rate_and_coverage():
    """250 worlds in which x and y share only z: p < 0.05 in one of 20, and 0 inside 95 of 100."""
    rejected = covered = 0
    truth = 6 / math.pi * math.asin(0.25)  # Spearman's rho of a Pearson correlation of 1/2
    for i in range(250):
        x, y, z = drawn(30, seed=100 + i)
        rejected += partial_correlation(x, y, z, np.repeat([0, 1, 2], 10), seed=i).p < 0.05
        if i < 100:
            found = partial_correlation(x, y, seed=i)
            covered += found.low < truth < found.high
    assert 0.02 < rejected / 250 < 0.09
    assert covered / 100 > 0.88


def test_rows_without_a_number_are_left_out_and_counted():
    x, y, z = drawn(30, seed=6)
    holed = x.copy()
    holed[[3, 7]] = np.nan, np.inf
    keep = np.isfinite(holed)
    found = partial_correlation(holed, y, z)
    assert found == partial_correlation(x[keep], y[keep], z[keep])
    assert found.n == 28
    lonely = np.array([9] + [0] * 10 + [1] * 10 + [2] * 9)
    assert partial_correlation(x, y, z, lonely).n == 29


def test_nothing_to_measure():
    x, y, z = drawn(20, seed=7)
    nothing = partial_correlation(np.ones(20), y)
    assert math.isnan(nothing.rho)
    assert (nothing.p, nothing.n) == (1.0, 20)
    assert math.isnan(partial_correlation(x, y, x).rho)  # the covariate is x itself
    assert partial_correlation([], []).n == 0
    two = partial_correlation(x, y, z, np.repeat([0, 1], 10))
    assert isinstance(two, Correlation)
    assert math.isnan(two.low)
    assert not math.isnan(two.rho)
    with pytest.raises(ValueError, match="20 x, 19 y, 20 covariates, 20 blocks"):
        partial_correlation(x, y[:-1])
