import numpy as np
import pytest

from jaxcomp.fidelity import geometry


def svd(vec_MD):
    return np.linalg.svd(vec_MD, compute_uv=False)


@pytest.mark.parametrize("n", [1, 3, 17])
def test_identity_uses_every_direction(n):
    shape = geometry.shape(np.eye(n, 2 * n))
    assert shape.rank == pytest.approx(n)
    assert shape.participation == pytest.approx(n)
    assert shape.bound == n


def test_rank_one_uses_one_direction():
    shape = geometry.shape(np.outer(np.arange(1.0, 6.0), np.linspace(-2, 3, 9)))
    assert shape.rank == pytest.approx(1.0, abs=1e-6)
    assert shape.participation == pytest.approx(1.0)


def test_known_singular_values():
    # p = (3/4, 1/4): H = 0.5623 nats; participation (9 + 1)^2 / (81 + 1).
    shape = geometry.shape(np.diag([3.0, 1.0]))
    assert shape.rank == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert shape.participation == pytest.approx(100 / 82)
    assert geometry.spectrum(svd(np.diag([1.0, 3.0]))) == pytest.approx([0.75, 0.25])


def test_scale_and_rotation_do_not_matter_and_the_bound_holds():
    rng = np.random.default_rng(0)
    vec_MD = rng.normal(size=(6, 10))
    turn_DD = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    a, b = geometry.shape(vec_MD), geometry.shape(1e-60 * vec_MD @ turn_DD)
    assert a.rank == pytest.approx(b.rank)
    assert a.participation == pytest.approx(b.participation)
    assert 1.0 < a.participation < a.rank < a.bound == 6


def test_zero_memory_has_rank_zero():
    assert geometry.shape(np.zeros((3, 4))) == (0.0, 0.0, 3)


def test_pooled_rank_sees_what_passages_share():
    """Each passage is rank one, in a direction of its own: pooled rank is their number."""
    memories = [np.ones((3, 1)) * np.eye(5)[i] for i in range(5)]
    out = geometry.measure(memories)
    assert out["rank"] == pytest.approx(1.0)
    assert out["rank_bound"] == 3
    assert out["pooled_rank"] == pytest.approx(5.0)
    assert out["pooled_participation"] == pytest.approx(5.0)
    assert out["pooled_bound"] == 5
    assert [out[f"spectrum_{i}"] for i in range(1, 6)] == pytest.approx([0.2] * 5)
    assert out["spectrum_6"] is None


def test_a_common_offset_hides_directions_until_it_is_taken_away():
    rng = np.random.default_rng(1)
    memories = [rng.normal(size=(4, 8)) + 1e4 for _ in range(50)]
    out = geometry.measure(memories)
    assert out["pooled_rank"] == pytest.approx(1.0, abs=0.1)
    assert out["pooled_centred_rank"] == pytest.approx(8.0, abs=0.5)


def test_short_passages_have_their_own_bound_and_empty_ones_are_left_out():
    out = geometry.measure([np.eye(4), np.eye(2, 4), np.zeros((0, 4))])
    assert out["rank"] == pytest.approx(3.0)
    assert out["rank_bound"] == 3.0
    assert set(out) == set(geometry.KEYS)
    assert geometry.measure([]) == dict.fromkeys(geometry.KEYS)


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), np.zeros(3)])
def test_refuses_what_is_no_finite_matrix(bad):
    with pytest.raises(ValueError, match="memory 1: expected a matrix"):
        geometry.measure([np.eye(2), bad])
