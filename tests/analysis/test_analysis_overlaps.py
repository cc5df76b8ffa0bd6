"""Overlap of memories: known answers, and the debiased CKA against its textbook form."""

import numpy as np
import pytest

from jaxcomp.analysis.overlaps import cka, overlap


def normal(seed, rows=60, width=10):
    return np.random.default_rng(seed).normal(size=(rows, width))


def turn(seed, width=10):
    return np.linalg.qr(normal(seed, width, width))[0]


def debiased(x, y):
    """Song et al. 2012, eq. 5, with full kernel matrices."""
    n = len(x)

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        last = 2 / (n - 2) * one @ k @ m @ one
        return np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - last

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("seed", range(4))
def test_cka_is_that_of_the_full_kernels(seed):
    x = normal(seed)
    y = 0.5 * x @ turn(seed + 9) + normal(seed + 99) * np.arange(1, 11)
    x, y = x - x.mean(0), y - y.mean(0)
    assert cka(x, y) == pytest.approx(debiased(x, y))


def test_cka_sees_through_rotation_scale_and_offset():
    x = normal(0)
    found = overlap(x, 3 * x @ turn(1) + 5)
    assert found.cka == pytest.approx(1.0)
    assert overlap(x, x).cosine == pytest.approx(1.0)


def test_unrelated_memories_have_a_cka_around_zero():
    found = [overlap(normal(s, 400), normal(s + 1000, 400)).cka for s in range(20)]
    assert abs(np.mean(found)) < 0.01  # the biased form would give 0.025


def test_subspaces_have_their_known_angles():
    flat = normal(3)[:, :2]
    one, other = np.zeros((60, 10)), np.zeros((60, 10))
    one[:, :2] = flat
    other[:, 2:4] = flat
    assert overlap(one, other).cosine == pytest.approx(0.0, abs=1e-9)
    tilted = np.zeros((60, 10))
    tilted[:, 0] = flat[:, 0]
    tilted[:, 1], tilted[:, 5] = flat[:, 1] * np.cos(0.7), flat[:, 1] * np.sin(0.7)
    found = overlap(one, tilted)
    assert found.cosine == pytest.approx((1 + np.cos(0.7)) / 2)
    assert found.dimensions == (2, 2)


def test_chance_is_what_random_subspaces_give():
    width, squares = 16, []
    for s in range(300):
        one, other = (np.zeros((40, width)) for _ in range(2))
        one[:, :3], other[:, :5] = normal(s, 40, 3), normal(s + 500, 40, 5)
        found = overlap(one @ turn(s, width), other @ turn(s + 700, width))
        if found.dimensions == (3, 5):
            bases = [np.linalg.svd(v)[2][:k].T for v, k in ((one, 3), (other, 5))]
            bases = [turn(s, width).T @ bases[0], turn(s + 700, width).T @ bases[1]]
            squares.append(np.linalg.norm(bases[0].T @ bases[1]) ** 2 / 3)
            chance = found.chance
    assert len(squares) > 50
    assert np.sqrt(np.mean(squares)) == pytest.approx(chance, rel=0.05)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="same passages at the same ratio"):
        overlap(normal(0), normal(0, 59))
    assert np.isnan(overlap(np.ones((9, 4)), normal(1, 9, 4)).cka)
