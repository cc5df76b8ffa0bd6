"""Fused kernels against the reference: outputs and gradients, with padding, holes and packing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of

from jaxcomp.models import kernels
from jaxcomp.models.attention import KERNELS, implementation, reference
from jaxcomp.models.mask import Mask
from jaxcomp.runtime.sharding import constrain, put_batch, use_mesh

B, N, K = 4, 4, 2


def inputs(L, H, mesh, packed):
    keys = jax.random.split(jax.random.key(L + H), 4)
    heads = (N, K, K, N)
    arrays = [
        constrain(jax.random.normal(k, (B, L, n, H)), "act_BLNH")
        for k, n in zip(keys, heads, strict=True)
    ]
    seg_BL = np.ones((B, L), np.int32)
    seg_BL[1, 2 * L // 3 :] = 0  # a short text
    seg_BL[2, L // 5 : L // 3] = 0  # a hole between its memory and what follows
    seg_BL[3, L // 2 :] = 2  # another text
    seg_BL[3, -3:] = 0
    seg_BL = seg_BL if packed else np.minimum(seg_BL, 1)
    seg = put_batch(seg_BL, mesh)
    return arrays, Mask(True, seg, seg, packed=packed), seg_BL > 0


def outputs(kernel, arrays, mask, real_BL):
    """What a kernel gives at real places, the gradients of q, k and v, and what it gives at all."""
    *qkv, weight_BLNH = arrays
    real = real_BL[:, :, None, None]

    @jax.jit
    def run(qkv):
        def loss(qkv):
            all_BLNH = kernel(*qkv, mask)
            out_BLNH = jnp.where(real, all_BLNH, 0)
            return jnp.sum(out_BLNH * weight_BLNH), [out_BLNH, all_BLNH]

        grads, (out_BLNH, all_BLNH) = jax.grad(loss, has_aux=True)(qkv)
        return [out_BLNH, *grads, all_BLNH]

    return [np.asarray(x) for x in run(qkv)]


def interpreted(q, k, v, mask):
    with jax.default_matmul_precision("highest"):
        return kernels.splash(q, k, v, mask, interpret=True)


def through_xla(q, k, v, mask):
    return kernels.cudnn(q, k, v, mask, implementation="xla")


@pytest.mark.parametrize(
    ("kernel", "L", "H", "shape", "packed"),
    [
        (interpreted, 272, 128, (1, 1, 1), False),
        (interpreted, 150, 64, (2, 2, 2), True),
        pytest.param(interpreted, 640, 16, (1, 1, 1), True, marks=pytest.mark.slow),  # > one block
        (through_xla, 50, 16, (2, 2, 2), False),
    ],
)
def test_a_kernel_gives_what_the_reference_gives(kernel, L, H, shape, packed):
    mesh = mesh_of(shape)
    with use_mesh(mesh):
        given = inputs(L, H, mesh, packed)
        *expected, expected_all = outputs(reference, *given)
        *found, found_all = outputs(kernel, *given)
    assert np.isfinite(expected_all).all()  # also at padding
    assert np.isfinite(found_all).all()
    for x, y in zip(expected, found, strict=True):
        assert np.abs(x).max() > 0
        np.testing.assert_allclose(y, x, atol=2e-5)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 272, 386, 1000, 4096])
def test_blocks_divide_the_padded_length(length):
    padded = -(-length // kernels.LANES) * kernels.LANES
    block = kernels.block_of(length)
    assert padded % block == 0
    assert kernels.LANES <= block <= kernels.LONGEST_BLOCK
    assert block == padded or padded > kernels.LONGEST_BLOCK


def mask_of(packed=True, causal=True, offset: Any = 0):
    seg = jnp.ones((1, 1), jnp.int32)
    return Mask(causal, seg, seg, offset, packed)


@pytest.mark.parametrize(
    ("where", "lengths", "dtype", "mask", "kind"),
    [
        ("cpu", (300, 300), jnp.bfloat16, mask_of(), "reference"),
        ("tpu", (300, 300), jnp.bfloat16, mask_of(), "splash"),
        ("tpu", (300, 300), jnp.float32, mask_of(), "splash"),
        ("tpu", (20, 20), jnp.bfloat16, mask_of(), "reference"),
        ("tpu", (1, 300), jnp.bfloat16, mask_of(offset=jnp.int32(7)), "reference"),
        ("gpu", (300, 300), jnp.bfloat16, mask_of(packed=False), "cudnn"),
        ("gpu", (300, 300), jnp.bfloat16, mask_of(packed=True), "reference"),
        ("gpu", (300, 300), jnp.float32, mask_of(packed=False), "reference"),
    ],
)
def test_the_platform_and_the_mask_choose(where, lengths, dtype, mask, kind):
    q, k = ((2, n, 4, 64) for n in lengths)
    assert implementation(where, q, k, dtype, mask) == kind
    assert kind in KERNELS
