"""Fused attention kernels: splash on TPU, cuDNN on GPU, with the mask in their terms.

Both give what `attention.reference` gives at every place that is not padding; at padding they give
zeros (cuDNN) or finite values that nothing reads (splash).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec as P

from jaxcomp.runtime.sharding import SPECS

if TYPE_CHECKING:
    from jaxcomp.models.mask import Mask

LANES = 128  # a TPU's tile: splash wants lengths in multiples of it
LONGEST_BLOCK = 512  # of queries or keys that one step of splash holds in a core's fast memory


def block_of(length: int) -> int:
    """The largest block of up to `LONGEST_BLOCK` that divides a length padded to `LANES`."""
    tiles = -(-length // LANES)
    return LANES * max(n for n in range(1, LONGEST_BLOCK // LANES + 1) if tiles % n == 0)


def splash(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention of JAX's Pallas kernels: causal blocks that no query sees are skipped,
    segment ids keep padding and packed documents apart, heads and rows stay on their devices.

    For self-attention (L = S, offset 0). `interpret` runs it on a CPU, slowly.
    """
    _, L, N, H = q_BLNH.shape
    wide = ((0, 0), (0, -L % LANES), (0, 0), (0, -H % LANES if H > LANES else 0))
    q, k, v = (jnp.pad(x, wide) for x in (q_BLNH * H**-0.5, k_BSKH, v_BSKH))
    seg_BL = jnp.pad(mask.q_seg_BL, wide[:2])
    length, block = L + wide[1][1], block_of(L)
    tp = jax.sharding.get_abstract_mesh().shape["tp"]
    kernel = _kernel(N // tp, length, block, mask.causal, interpret)

    def one_device(kernel, q_BLNH, k_BSKH, v_BSKH, seg_BL):
        q_BNLH, k_BKSH, v_BKSH = (x.transpose(0, 2, 1, 3) for x in (q_BLNH, k_BSKH, v_BSKH))

        def one_row(q_NLH, k_KSH, v_KSH, seg_L):
            ids = splash_attention_kernel.SegmentIds(q=seg_L, kv=seg_L)
            return kernel(q_NLH, k_KSH, v_KSH, segment_ids=ids)

        return jax.vmap(one_row)(q_BNLH, k_BKSH, v_BKSH, seg_BL).transpose(0, 2, 1, 3)

    heads, rows = SPECS["act_BLNH"], SPECS["batch"]
    # The kernel's outputs carry no record of the axes over which they vary, so none is checked.
    run = jax.shard_map(
        one_device,
        in_specs=(jax.tree.map(lambda _: P(), kernel), heads, heads, heads, rows),
        out_specs=heads,
        check_vma=False,
    )
    return run(kernel, q, k, v, seg_BL)[:, :L, :, :H]


def _kernel(heads: int, length: int, block: int, causal: bool, interpret: bool) -> Any:
    """The kernel of one device's heads: a pytree that holds the mask's blocks."""
    masks = splash_attention_mask
    one = masks.CausalMask((length, length)) if causal else masks.FullMask((length, length))
    sizes = splash_attention_kernel.BlockSizes(
        **dict.fromkeys(("block_q", "block_kv", "block_kv_compute"), block),
        **dict.fromkeys(("block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"), block),
        use_fused_bwd_kernel=True,
    )
    return splash_attention_kernel.make_splash_mha(
        masks.MultiHeadMask([one] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )


def cudnn(
    q_BLNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """cuDNN's fused attention, for causal self-attention with ids 0 (padding) and 1 only.

    cuDNN knows a row's length but no holes, and a short text leaves one between its memory and
    what follows. So the real places are moved to the front, in their order, and back afterwards.
    `implementation="xla"` computes the same call without a GPU.
    """
    real_BL = mask.q_seg_BL > 0
    order_BL = jnp.argsort(~real_BL, axis=1, stable=True)
    back_BL = jnp.argsort(order_BL, axis=1)
    len_B = jnp.sum(real_BL, axis=1, dtype=jnp.int32)

    def one_device(q_BLNH, k_BSKH, v_BSKH, real_BL, order_BL, back_BL, len_B):
        q, k, v = (_permute(x, order_BL, back_BL) for x in (q_BLNH, k_BSKH, v_BSKH))
        out_BLNH = jax.nn.dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            query_seq_lengths=len_B,
            key_value_seq_lengths=len_B,
            implementation=implementation,
        )
        return jnp.where(real_BL[:, :, None, None], _permute(out_BLNH, back_BL, order_BL), 0)

    heads, rows = SPECS["act_BLNH"], SPECS["batch"]
    run = jax.shard_map(
        one_device, in_specs=(heads,) * 3 + (rows,) * 4, out_specs=heads, check_vma=False
    )
    return run(q_BLNH, k_BSKH, v_BSKH, real_BL, order_BL, back_BL, len_B)


@jax.custom_vjp
def _permute(x_BLNH: jax.Array, order_BL: jax.Array, back_BL: jax.Array) -> jax.Array:
    """Place l of a row takes what stood at order_BL[l]; `back_BL` undoes it."""
    return jnp.take_along_axis(x_BLNH, order_BL[:, :, None, None], axis=1)


def _permute_forward(x_BLNH, order_BL, back_BL):
    return _permute(x_BLNH, order_BL, back_BL), (order_BL, back_BL)


def _permute_backward(kept, grad_BLNH):
    # JAX would scatter, not knowing that no two places take from one.
    order_BL, back_BL = kept
    return _permute(grad_BLNH, back_BL, order_BL), None, None


_permute.defvjp(_permute_forward, _permute_backward)
