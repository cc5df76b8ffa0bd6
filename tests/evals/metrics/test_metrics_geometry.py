import numpy as np
import pytest

from jaxcomp.evals.metrics import geometry


@pytest.mark.parametrize(
    ("vec_MD", "expected"),
    [
        (np.eye(1, 2), (1, 1, 1, 1)),
        (np.eye(17, 34), (17, 17, 17, 17)),
        (np.outer(np.arange(1.0, 6.0), np.linspace(-2, 3, 9)), (1, 1, 1, 5)),
        # p = (3/4, 1/4): H = 0.5623 nats; participation (9 + 1)^2 / (81 + 1).
        (np.diag([3.0, 1.0]), (np.exp(0.56233514), 100 / 82, 10 / 9, 2)),
        (np.zeros((3, 4)), (0, 0, 0, 3)),
    ],
)
def test_known_shapes(vec_MD, expected):
    assert geometry.shape(vec_MD)[:4] == pytest.approx(expected, abs=1e-6)


def test_scale_and_rotation_do_not_matter_and_the_bound_holds():
    rng = np.random.default_rng(0)
    vec_MD = rng.normal(size=(6, 10))
    turn_DD = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    a, b = geometry.shape(vec_MD), geometry.shape(1e-60 * vec_MD @ turn_DD)
    assert a[:4] == pytest.approx(b[:4])
    assert 1.0 < a.stable < a.participation < a.rank < a.bound == 6


def test_pooled_rank_sees_what_passages_share():
    """Each passage is rank one, in a direction of its own: pooled rank is their number."""
    out = geometry.measure([np.ones((3, 1)) * np.eye(5)[i] for i in range(5)])
    assert out["rank"] == pytest.approx(1.0)
    assert out["rank_bound"] == 3
    assert out["pooled_rank"] == pytest.approx(5.0)
    assert out["pooled_participation"] == pytest.approx(5.0)
    assert out["pooled_bound"] == 5
    assert [out[f"spectrum_{i}"] for i in range(1, 6)] == pytest.approx([0.2] * 5)
    assert out["spectrum_6"] is None


def test_short_passages_count_where_they_have_vectors_and_empty_ones_nowhere():
    out = geometry.measure([np.diag([1.0, 3.0]), np.array([[0.0, 2.0]]), np.zeros((0, 2))])
    found = [out[f"passage_spectrum_{i}"] for i in (1, 2, 3)]
    assert found == [pytest.approx((0.75 + 1.0) / 2), pytest.approx(0.25), None]
    assert out["rank_bound"] == 1.5
    assert set(out) == set(geometry.KEYS)
    assert geometry.measure([]) == dict.fromkeys(geometry.KEYS)


def test_a_position_is_ranked_over_passages_without_what_all_of_them_share():
    """Position 0 takes one of two opposite values around a common vector: one direction. Position 1
    is the common vector in every passage: none. Position 2 is in one passage only: left out."""
    common, way = np.full(6, 7.0), np.eye(6)[2]
    memories = [np.stack([common + (-1) ** i * way, common]) for i in range(4)]
    memories.append(np.stack([common, common, 9 * way]))
    out = geometry.measure(memories)
    assert out["position_rank"] == pytest.approx((1.0 + 0.0) / 2)
    assert out["position_bound"] == 4.0  # of five vectors less their mean


@pytest.mark.parametrize(("passages", "bound"), [(2, 1), (5, 4), (400, 6)])
def test_the_bound_of_a_position_is_reached_and_not_passed(passages, bound):
    """Regular simplices: all directions alike, as many as there can be."""
    corners = np.eye(passages)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(passages, min(passages, 6))))[0]
    out = geometry.measure([corner[None] for corner in corners @ turn])
    assert out["position_bound"] == bound
    assert out["position_rank"] <= bound + 1e-9
    whole = geometry.measure([corner[None] for corner in corners])
    assert whole["position_rank"] == pytest.approx(whole["position_bound"]) == passages - 1


def test_a_common_offset_hides_directions_until_it_is_taken_away():
    rng = np.random.default_rng(2)
    out = geometry.measure([100 + rng.normal(size=(3, 8)) for _ in range(4000)])
    assert out["position_rank"] == pytest.approx(8.0, abs=0.02)
    # As they are: one direction of sigma 100 sqrt(8 x 4000), seven of sqrt(4000).
    share = np.array([100 * np.sqrt(8), *[1.0] * 7])
    expected = geometry.effective_rank(share / share.sum())
    assert out["position_uncentred_rank"] == pytest.approx(expected, abs=0.01)
    assert out["pooled_centred_rank"] == pytest.approx(8.0, abs=0.02)
    assert out["pooled_stable_rank"] == pytest.approx(1.0, abs=0.01)  # the offset
    own = geometry.measure([np.eye(4)[:3] + 1e5])
    assert own["rank"] == pytest.approx(1.0, abs=0.01)
    assert own["centred_rank"] == pytest.approx(2.0)  # a triangle lies in a plane


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), np.zeros(3)])
def test_refuses_what_is_no_finite_matrix(bad):
    with pytest.raises(ValueError, match="memory 1: expected a matrix"):
        geometry.measure([np.eye(2), bad])
