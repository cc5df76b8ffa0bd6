import itertools
import math

import numpy as np
import pytest

from jaxcomp.sweep.stats import UNDECIDED, Point, bootstrap, judge, replicates, trend

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


def test_exact_p_value_of_a_perfect_fall():
    # One order in 4! of each of three replicates is as extreme: (1/24)^3.
    result = trend(points(lambda f, i, b, t: -float(i)))
    assert result.rho == pytest.approx(-1)
    assert result.p_fall == pytest.approx(24.0**-3)
    assert result.p_rise == 1.0


def test_planted_paradox_antiparadox_and_null():
    rng = np.random.default_rng(1)
    fall, rise = noisy(-1, 0.2, rng), noisy(1, 0.2, rng)
    loss = {16: points(fall)}
    assert judge(loss, {16: points(fall)}, 16).ratios[0].word == "observed"
    better = judge(loss, {16: points(rise)}, 16)
    assert better.ratios[0].word == "not observed"
    assert "counterfactual slots kept rises" in better.sentence
    # Fidelity falls, but so does quality at large: loss rises. That is not the paradox.
    assert judge({16: points(rise)}, {16: points(fall)}, 16).ratios[0].word == "not observed"


def test_under_three_replicates_nothing_is_claimed():
    ps = [p for p in points(lambda f, i, b, t: -float(i)) if p.base_seed < 2]
    verdict = judge({16: ps}, {16: ps}, 16)
    assert verdict.ratios[0].word == UNDECIDED
    assert UNDECIDED in verdict.sentence
    one = [p for p in ps if p.size == "s"]
    assert "no replicate in which every size" in judge({16: one}, {16: one}, 16).sentence


def test_an_unfinished_grid_is_undecided():
    """A size or a family without a single run is missed, although the rest is complete."""
    fall = points(lambda f, i, b, t: -float(i), families=("a", "b"))
    whole: dict[str, tuple[str, ...]] = dict.fromkeys(("a", "b"), SIZES)
    assert judge({16: fall}, {16: fall}, 16, sizes=whole).ratios[0].word == "observed"
    for left in (
        [p for p in fall if p.size != "l"],
        [p for p in fall if p.family == "a"],
        [p for p in fall if (p.family, p.size) != ("b", "xs")],
        [],
    ):
        verdict = judge({16: left}, {16: left}, 16, sizes=whole)
        assert verdict.ratios[0].word == UNDECIDED
        assert "0 replicates" in verdict.sentence
    # One run of one family missing costs its replicate, in the other family too.
    most = [p for p in fall if (p.family, p.size, p.base_seed) != ("b", "m", 1)]
    assert trend(most, whole).replicates == 2
    assert len(replicates(most, whole)) == 4


def test_a_missing_primary_ratio_is_said():
    ps = points(lambda f, i, b, t: -float(i))
    assert "(ratio 16) is not in this grid" in judge({4: ps}, {4: ps}, 16).sentence


def test_false_positive_rate_is_about_alpha():
    rng = np.random.default_rng(2)
    ps = [trend(points(noisy(0, 1, rng))).p_fall for _ in range(400)]
    rate = np.mean(np.array(ps) < 0.05)
    assert 0.02 < rate < 0.085
    # The conjunction of two independent nulls is far rarer still.
    null = noisy(0, 1, rng)
    words = [judge({16: points(null)}, {16: points(null)}, 16).ratios[0].word for _ in range(200)]
    assert words.count("observed") <= 6


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

    rate = np.mean([trend(drawn()).p_fall < 0.05 for _ in range(200)])
    assert rate < 0.1


def test_power_grows_with_replicates_not_by_chance():
    rng = np.random.default_rng(4)
    hits = [trend(points(noisy(-1, 0.7, rng))).p_fall < 0.05 for _ in range(100)]
    assert np.mean(hits) > 0.9


def test_secondary_ratios_are_holm_adjusted():
    fall = points(lambda f, i, b, t: -float(i) if b else 0.3 * (i - 1) ** 2)
    ratios: dict[int, list[Point]] = {r: list(fall) for r in (4, 16, 64, 128)}
    verdict = judge(ratios, ratios, 16)
    by_ratio = {v.ratio: v for v in verdict.ratios}
    raw = by_ratio[16].p
    assert by_ratio[16].p == max(by_ratio[16].loss.p_fall, by_ratio[16].kept.p_fall)
    assert by_ratio[4].p == pytest.approx(3 * raw)


def test_incomplete_replicates_and_flat_metrics():
    ps = points(lambda f, i, b, t: None if (i, b) == (2, 1) else -float(i))
    assert trend(ps).replicates == 2
    flat = trend(points(lambda f, i, b, t: 0.5))
    assert (flat.rho, flat.p_fall, flat.p_rise) == (0, 1, 1)
    assert math.isnan(trend([]).rho)


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(5)
    hits = 0
    for i in range(200):
        bounds = bootstrap(rng.normal(2.0, 1.0, 40), seed=i, draws=400)
        assert bounds is not None
        hits += bounds[0] < 2.0 < bounds[1]
    assert 0.88 < hits / 200 < 0.99
    assert bootstrap([1.0]) is None
    assert bootstrap([1.0, 2.0, 3.0]) == bootstrap([1.0, 2.0, 3.0])
