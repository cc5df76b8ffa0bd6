import itertools
import math

import numpy as np
import pytest
from scipy.stats import page_trend_test
from scipy.stats import t as student

from jaxcomp.analysis.stats import Point, estimate, levels, mean, replicates, sample, trend

SIZES = ("xs", "s", "m", "l")


def points(values, families=("a",), sizes=SIZES):
    """`values(family, size index, base seed, seed)` for 3 base seeds unless told otherwise."""
    return [
        Point(f, s, 10.0 ** (i + 3), b, t, values(f, i, b, t))
        for f in families
        for i, s in enumerate(sizes)
        for b, t in itertools.product(range(3), range(1))
    ]


def noisy(slope, noise, rng):
    return lambda f, i, b, t: slope * i + noise * rng.standard_normal()


def test_rho_is_the_mean_spearman_of_the_replicates():
    rng = np.random.default_rng(0)
    ps = points(noisy(0.3, 1.0, rng))
    # Without ties, rho = 1 - 6 sum d^2 / (n (n^2 - 1)); points come smallest first.
    d_squared = [
        sum(
            (i - r) ** 2
            for i, r in enumerate(np.argsort(np.argsort([p.value or 0.0 for p in block])))
        )
        for block in replicates(ps)
    ]
    rhos = [1 - 6 * d / (4 * 15) for d in d_squared]
    expected = np.mean(rhos)
    assert trend(ps).rho == pytest.approx(expected)
    assert trend(ps).replicates == 3


def test_the_trend_is_pages_test():
    """Page's L = sum over replicates of sum over sizes of order x rank: affine in the mean rho."""
    rng = np.random.default_rng(7)
    ps = points(noisy(0.4, 1.0, rng))
    table = [[p.value or 0.0 for p in block] for block in replicates(ps)]
    expected = page_trend_test(table, method="exact")
    found = trend(ps)
    assert found.p_rise == pytest.approx(expected.pvalue)
    constant, per_rho = 3 * 4 * 2.5**2, 3 * 5.0  # k (k+1)^2 / 4 and sum of squares, k = 4, three
    assert constant + per_rho * found.rho == pytest.approx(expected.statistic)


def test_exact_p_value_of_a_perfect_fall():
    # One order in 4! of each of three replicates is as extreme: (1/24)^3.
    result = trend(points(lambda f, i, b, t: -float(i)))
    assert result.rho == pytest.approx(-1)
    assert result.p_fall == pytest.approx(24.0**-3)
    assert result.p_rise == 1.0


def test_false_positive_rate_is_about_alpha():
    rng = np.random.default_rng(2)
    ps = [trend(points(noisy(0, 1, rng))).p_fall for _ in range(400)]
    rate = np.mean(np.array(ps) < 0.05)
    assert 0.02 < rate < 0.085


def test_shared_base_models_do_not_fake_replicates():
    """Ten training seeds on each base repeat that base's luck; the error rate must hold."""
    rng = np.random.default_rng(3)

    def drawn():
        luck = rng.standard_normal((3, 4))
        return [
            Point("a", s, 10.0**i, b, t, luck[b, i] + 0.01 * rng.standard_normal())
            for i, s in enumerate(SIZES)
            for b in range(3)
            for t in range(10)
        ]

    rate = np.mean([trend(drawn()).p_fall < 0.05 for _ in range(150)])
    assert rate < 0.1


def test_power_grows_with_replicates_not_by_chance():
    rng = np.random.default_rng(4)
    hits = [trend(points(noisy(-1, 0.7, rng))).p_fall < 0.05 for _ in range(100)]
    assert np.mean(hits) > 0.9


def test_incomplete_replicates_and_flat_metrics():
    ps = points(lambda f, i, b, t: None if (i, b) == (2, 1) else -float(i))
    assert trend(ps).replicates == 2
    flat = trend(points(lambda f, i, b, t: 0.5))
    assert (flat.rho, flat.p_fall, flat.p_rise) == (0, 1, 1)
    assert math.isnan(trend([]).rho)


def test_the_interval_of_one_training_seed_is_students():
    """Without training seeds and passages the draws must give t x s / sqrt(n)."""
    rng = np.random.default_rng(8)
    for n in (3, 8):
        x = rng.standard_normal(n)
        found = mean([Point("a", "s", 1.0, b, 0, v) for b, v in enumerate(x)])
        assert found is not None
        assert found.value == pytest.approx(x.mean())
        expected = student.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n)
        assert found.half == pytest.approx(expected, rel=0.05)


def hierarchy(rng, bases, seeds, base_sd, seed_sd, passages=0):
    """Runs around 0: a base's luck, a training seed's, and passages that are hard for all runs."""
    hard = rng.standard_normal(passages)
    out = []
    for b in range(bases):
        luck = base_sd * rng.standard_normal()
        for t in range(seeds):
            value = luck + seed_sd * rng.standard_normal()
            sums = np.stack([value + hard, np.ones(passages)]) if passages else None
            value += hard.mean() if passages else 0.0
            out.append(Point("a", "s", 1.0, b, t, float(value), sums))
    return out


def covered(sims, **shape):
    rng = np.random.default_rng(9)
    found = [mean(hierarchy(rng, **shape)) for _ in range(sims)]
    return np.mean([abs(f.value) < f.half for f in found if f is not None and f.half is not None])


def test_coverage_of_a_known_hierarchy():
    """Nominal 0.95. Two training seeds a base are drawn on top of their base: never too narrow."""
    assert 0.91 < covered(300, bases=3, seeds=1, base_sd=1, seed_sd=0) < 0.99
    assert covered(200, bases=3, seeds=2, base_sd=1, seed_sd=0.7) > 0.93
    assert covered(200, bases=6, seeds=2, base_sd=1, seed_sd=0.7) > 0.91


@pytest.mark.slow
def test_passages_are_drawn_for_all_runs_at_once():
    """Passages that are hard for all runs are not averaged away by more runs."""
    shape = {"bases": 6, "seeds": 1, "base_sd": 0.1, "seed_sd": 0}
    assert 0.87 < covered(150, **shape, passages=30) < 0.99
    rng = np.random.default_rng(10)
    runs = hierarchy(rng, **shape, passages=30)
    blind = [p._replace(sums_2W=None) for p in runs]
    with_them, without = mean(runs), mean(blind)
    assert with_them is not None
    assert without is not None
    assert (with_them.levels, without.levels) == (("base seeds", "passages"), ("base seeds",))
    assert (with_them.half or 0) > 2 * (without.half or 0)
    # In a difference of sizes they cancel: both rebuilt the same passages.
    two = runs + [
        p._replace(size="l", params=2.0, value=(p.value or 0) + 1, sums_2W=_shifted(p))
        for p in runs
    ]
    change = estimate(sample(two), [-1, 1])
    assert change.value == pytest.approx(1.0)
    assert change.half == pytest.approx(0.0, abs=1e-9)


def _shifted(p):
    return p.sums_2W + np.array([[1.0], [0.0]])


def test_the_levels_that_are_there_are_drawn():
    rng = np.random.default_rng(11)

    def of(**shape):
        return levels(sample(_sized(hierarchy(rng, base_sd=1, seed_sd=1, **shape))))

    assert of(bases=3, seeds=1) == ("base seeds",)
    assert of(bases=3, seeds=2) == ("base seeds", "training seeds")
    assert of(bases=2, seeds=2) == ("runs",)
    assert of(bases=1, seeds=4, passages=5) == ("runs", "passages")


def _sized(runs):
    return runs + [p._replace(size="l", params=2.0) for p in runs]


def test_intervals_need_three_and_do_not_depend_on_the_order():
    assert mean([]) is None
    two = mean([Point("a", "s", 1.0, b, 0, float(b)) for b in range(2)])
    assert two is not None
    assert (two.value, two.half, two.n) == (0.5, None, 2)
    ps = points(noisy(0.3, 1.0, np.random.default_rng(12)))
    assert trend(ps[::-1]) == trend(ps)
    found = trend(ps)
    assert found.bounds is not None
    assert -1 <= found.bounds[0] <= found.rho <= found.bounds[1] <= 1
    flat = trend(points(lambda f, i, b, t: 0.1 * b))
    assert flat.bounds == (0.0, 0.0)
