"""The one attention function against a loop over single queries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.models import attention as module
from jaxcomp.models.attention import attention
from jaxcomp.models.mask import Mask
from jaxcomp.runtime.sharding import BATCH, constrain, use_mesh


@functools.partial(jax.jit, static_argnames="causal")
def jitted(q, k, v, q_seg, kv_seg, offset, causal):
    q, k, v = (constrain(x, "act_BLNH") for x in (q, k, v))
    q_seg, kv_seg = (constrain(x, "batch") for x in (q_seg, kv_seg))
    return attention(q, k, v, Mask(causal, q_seg, kv_seg, offset))


@pytest.fixture(autouse=True, scope="module")
def under_a_mesh():
    with use_mesh(mesh_of((1, 1, 1))):
        yield


def one_by_one(q, k, v, q_seg, kv_seg, offset, causal):
    out = np.zeros(q.shape)
    B, L, N, H = q.shape
    for b, l, n in np.ndindex(B, L, N):
        g = n // (N // k.shape[2])
        seen = [
            s
            for s in range(k.shape[1])
            if q_seg[b, l] == kv_seg[b, s] and (not causal or s <= l + offset)
        ]
        if seen:
            score = np.array([q[b, l, n] @ k[b, s, g] / np.sqrt(H) for s in seen])
            weight = np.exp(score - score.max())
            out[b, l, n] = weight / weight.sum() @ v[b, seen, g]
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), causal=st.booleans(), offset=st.integers(0, 3))
def test_equals_the_loop(seed, causal, offset):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    q, k, v = draw(2, 4, 4, 6), draw(2, 7, 2, 6), draw(2, 7, 2, 6)
    kv_seg = rng.integers(0, 3, (2, 7)).astype(np.int32)
    q_seg = kv_seg[:, offset : offset + 4]  # so a query finds at least itself
    out = jitted(q, k, v, q_seg, kv_seg, offset, causal)
    expected = one_by_one(q, k, v, q_seg, kv_seg, offset, causal)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_one_row_keeps_the_sharding_of_a_batch(heads):
    """JAX drops the axes of a dimension of size one in a reshape; the next product then refuses."""
    N, K = heads
    row = constrain(jnp.ones((1, 1, N, 8)), "act_BLNH")
    assert jax.typeof(module.grouped(row, K)).sharding.spec[0] == BATCH
    keys = constrain(jnp.ones((1, 1, K, 8)), "act_BLNH")
    one_B1 = constrain(jnp.ones((1, 1), jnp.int32), "batch")
    out = module.reference(row, keys, keys, Mask(True, one_B1, one_B1))
    assert jax.typeof(out).sharding.spec == jax.typeof(row).sharding.spec
