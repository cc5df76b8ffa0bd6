import numpy as np
import pytest

from jaxcomp.analysis.stats import Point, sample, way
from jaxcomp.analysis.verdict import (
    ABSENT,
    INCONCLUSIVE,
    PRESENT,
    THESE_BASES,
    Verdict,
    falls,
    judge,
    replicates_needed,
)

SIZES = ("xs", "s", "m", "l")


def points(values, families=("a",), bases=3, seeds=1):
    return [
        Point(f, s, 10.0 ** (i + 3), b, t, values(f, i, b))
        for f in families
        for i, s in enumerate(SIZES)
        for b in range(bases)
        for t in range(seeds)
    ]


def noisy(slope, noise, rng):
    return lambda f, i, b: slope * i + noise * rng.standard_normal()


def said(loss, kept, primary=16, smallest=0.05, no_memory=-10.0, **more) -> Verdict:
    """Values here are around 0, far above their no-memory baseline."""
    one = isinstance(loss, list)
    return judge(
        {16: loss} if one else loss,
        {16: kept} if one else kept,
        primary,
        smallest_effect=smallest,
        no_memory=no_memory,
        **more,
    )


def word(loss, kept, **more) -> str:
    return said(loss, kept, **more).ratios[0].word


def test_planted_paradox_antiparadox_and_null():
    rng = np.random.default_rng(1)
    fall, rise, flat = noisy(-1, 0.2, rng), noisy(1, 0.2, rng), noisy(0, 0.01, rng)
    loss = points(fall)
    assert word(loss, points(fall)) == PRESENT
    better = said(loss, points(rise))
    assert better.ratios[0].word == ABSENT
    assert way(better.ratios[0].kept) == "rises"
    assert word(loss, points(flat)) == ABSENT
    # Fidelity falls, but so does quality at large: loss rises. That is not the paradox, and it is
    # not shown to be absent either.
    assert word(points(rise), points(fall)) == INCONCLUSIVE


def test_no_evidence_is_not_evidence_of_absence():
    rng = np.random.default_rng(2)
    loss = points(noisy(-1, 0.2, rng))
    assert word(loss, points(noisy(0, 0.3, rng))) == INCONCLUSIVE
    # The same spread with a coarser question.
    assert word(loss, points(noisy(0, 0.3, rng)), smallest=5.0) == ABSENT


def test_a_peak_in_the_middle_is_no_absence():
    """From smallest to largest it rises; from the middle to the largest it falls by far."""
    hump = (0.1, 0.5, 0.9, 0.4)
    rng = np.random.default_rng(3)
    kept = points(lambda f, i, b: hump[i] + 0.01 * rng.standard_normal())
    verdict = said(points(noisy(-1, 0.2, rng)), kept)
    assert verdict.ratios[0].word == INCONCLUSIVE
    worst = verdict.ratios[0].worst
    assert worst is not None
    assert (worst.small, worst.large) == ("m", "l")
    assert worst.fall == pytest.approx(0.5, abs=0.05)


def test_what_is_at_the_floor_cannot_fall_and_is_not_absent():
    rng = np.random.default_rng(8)
    loss = points(noisy(-1, 0.2, rng), families=("a", "b"))
    above = {"a": 0.5, "b": 0.12}
    kept = points(lambda f, i, b: above[f] + 0.001 * rng.standard_normal(), families=("a", "b"))
    assert word(loss, kept, no_memory=0.0) == ABSENT
    near = said(loss, kept, no_memory=0.1)
    assert near.ratios[0].word == INCONCLUSIVE
    assert (near.ratios[0].at_baseline, near.ratios[0].needed) == (("b",), None)
    # A family whose runs train their decoders has a baseline of its own.
    own = said(loss, kept, no_memory=0.0, own_no_memory={16: {"a": 0.48}, 4: {"b": 0.48}})
    assert own.ratios[0].word == INCONCLUSIVE
    assert own.ratios[0].at_baseline == ("a",)


def test_error_rates_of_both_words():
    """Truth on the edge: a fall of exactly the smallest effect is called absent in 1 of 20 at most;
    two nulls together are hardly ever called present."""
    rng = np.random.default_rng(4)
    edge = (0, 0, 0, -0.05)
    found = [
        falls(sample(points(lambda f, i, b: edge[i] + 0.02 * rng.standard_normal(), bases=4)))
        for _ in range(120)
    ]
    assert sum(max(f.bound for f in fs) < 0.05 for fs in found) <= 12
    null = noisy(0, 1, rng)
    words = [word(points(null), points(null)) for _ in range(30)]
    assert words.count(PRESENT) <= 2


def test_a_bound_is_one_sided():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(150):
        found = falls(sample(points(noisy(0, 1, rng))))
        hits += next(f for f in found if f.small == "m").bound > 0
    assert 0.90 < hits / 150 < 0.99


@pytest.mark.parametrize(("bases", "seeds"), [(1, 1), (1, 4), (2, 1), (2, 3)])
def test_under_three_base_seeds_nothing_is_claimed(bases, seeds):
    """However clear a fall is, and however many training seeds show it."""
    ps = points(lambda f, i, b: -float(i) + 0.01 * b, bases=bases, seeds=seeds)
    verdict = said({4: ps, 16: ps}, {4: ps, 16: ps})
    assert {v.word for v in verdict.ratios} == {THESE_BASES}
    assert {v.needed for v in verdict.ratios} == {None}


@pytest.mark.parametrize("seeds", [1, 3])
def test_three_base_seeds_may_claim(seeds):
    ps = points(lambda f, i, b: -float(i) + 0.01 * b, seeds=seeds)
    assert word(ps, ps) == PRESENT
    # Finished of two bases only.
    assert word(ps, [p for p in ps if (p.base_seed, p.size) != (2, "l")]) == THESE_BASES


def test_an_unfinished_grid_is_undecided():
    """A size or a family without a single run is missed, although the rest is complete."""
    fall = points(lambda f, i, b: -float(i), families=("a", "b"))
    whole: dict[str, tuple[str, ...]] = dict.fromkeys(("a", "b"), SIZES)
    assert word(fall, fall, sizes={16: whole}) == PRESENT
    for left in (
        [p for p in fall if p.size != "l"],
        [p for p in fall if p.family == "a"],
        [p for p in fall if (p.family, p.size) != ("b", "xs")],
        [],
    ):
        verdict = said(left, left, sizes={16: whole})
        assert verdict.ratios[0].word == INCONCLUSIVE


def test_secondary_ratios_are_adjusted():
    fall = points(lambda f, i, b: -float(i) if b else 0.3 * (i - 1) ** 2)
    ratios: dict[int, list[Point]] = {r: list(fall) for r in (4, 16, 64, 128)}
    by_ratio = {v.ratio: v for v in said(ratios, ratios).ratios}
    raw = by_ratio[16].p
    assert raw == max(by_ratio[16].loss.p_fall, by_ratio[16].kept.p_fall)
    assert by_ratio[4].p == pytest.approx(3 * raw)
    first, other = by_ratio[16].worst, by_ratio[4].worst
    assert first is not None
    assert other is not None
    assert other.bound > first.bound  # at 1 - 0.05 / 3


def test_the_replicates_that_are_said_to_decide_do():
    """Sweeps with that number, drawn from the two truths that the number is said for."""
    rng = np.random.default_rng(6)
    found = sample(points(noisy(0, 0.03, rng), bases=6))
    needed = replicates_needed(found, 0.05)
    assert needed.to_exclude is not None
    assert needed.to_find is not None
    assert needed.to_exclude > 3
    loss = points(noisy(-1, 0.2, rng), bases=needed.to_exclude)

    def share(wanted, step, bases):
        kept = [points(noisy(step, 0.03, rng), bases=bases) for _ in range(25)]
        at = [p for p in loss if p.base_seed < bases]
        return np.mean([word(at, k) == wanted for k in kept])

    assert share(ABSENT, 0.0, needed.to_exclude) > 0.6
    assert share(PRESENT, -0.05 / 3, max(needed.to_find, 3)) > 0.6
    wild = sample(points(noisy(0, 3.0, rng), bases=6))
    assert replicates_needed(wild, 0.05) == (None, None)
