"""Quantised vectors: known roundings, error bounds, and what they cost."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.compress.quantize import FORMATS, GROUP, bits, quantise


def vectors(width=150, seed=0):
    scale = 10.0 ** np.arange(-3, 4)[:, None, None]  # sizes far apart
    made = np.random.default_rng(seed).normal(size=(7, 5, width)) * scale
    return jnp.asarray(made, jnp.float32)


def test_whole_numbers_of_a_known_scale_come_back_exactly():
    x = jnp.asarray([[[-127.0, 3.0, 64.0, 127.0]]])
    assert np.array_equal(quantise(x, "int8"), x)
    y = jnp.asarray([[[-7.0, 2.4, 2.6, 7.0]]])
    assert np.allclose(quantise(y, "int4"), [[[-7, 2, 3, 7]]])


@pytest.mark.parametrize(("form", "most"), [("int8", 127), ("int4", 7)])
def test_no_number_is_further_off_than_half_a_step_and_the_scale_s_own_rounding(form, most):
    x = np.asarray(vectors())
    found = np.asarray(quantise(jnp.asarray(x), form))
    for start in range(0, x.shape[-1], GROUP):
        part, got = x[..., start : start + GROUP], found[..., start : start + GROUP]
        top = np.abs(part).max(-1, keepdims=True)
        # bfloat16 keeps 8 bits: a scale is off by at most 2^-8, the largest number by as much.
        assert (np.abs(part - got) <= top * (0.5 / most + 2.0**-8) * 1.001).all()
        assert len(np.unique(np.round(got[0, 0] / top[0, 0] * most))) <= 2 * most + 1


def test_groups_do_not_share_a_scale_and_zeros_stay_zero():
    x = np.zeros((1, 1, 2 * GROUP), np.float32)
    x[..., :GROUP] = 1e6
    x[..., GROUP + 1] = 1e-6
    found = np.asarray(quantise(jnp.asarray(x), "int4"))
    assert found[0, 0, GROUP + 1] == pytest.approx(1e-6, rel=2**-8)
    assert not quantise(jnp.zeros((1, 2, 9)), "int8").any()


def test_a_vector_costs_its_numbers_and_its_scales():
    assert [bits(form, 64) for form in FORMATS] == [2048, 1024, 64 * 8 + 16, 64 * 4 + 16]
    assert bits("int4", 65) == 65 * 4 + 2 * 16
