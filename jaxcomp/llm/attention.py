"""One attention function with a small mask spec; kernels are chosen in `attention` alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a row without any allowed key gives an average instead of NaN.
BLOCKED = -1e30


class Mask(NamedTuple):
    """Which keys a query sees: same segment id, and (if causal) key index <= query index + offset.

    causal: Python bool. q_seg_BL, kv_seg_BS: int32 ids, 0 = padding (sees padding only).
    offset: int or int32 scalar, the index among the keys at which query 0 stands.
    """

    causal: bool
    q_seg_BL: jax.Array
    kv_seg_BS: jax.Array
    offset: jax.Array | int = 0

    def allowed_BLS(self) -> jax.Array:
        ok_BLS = self.q_seg_BL[:, :, None] == self.kv_seg_BS[:, None, :]
        if self.causal:
            L, S = ok_BLS.shape[1:]
            ok_BLS &= jnp.arange(S)[None, :] <= jnp.arange(L)[:, None] + self.offset
        return ok_BLS


def attention(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v for each query head, N a multiple of K; out_BLNH in q's dtype.

    The only place that chooses an implementation: kernels are added here and tested against
    `reference`. Raises ValueError where the head counts do not fit.
    """
    N, K = q_BLNH.shape[2], k_BSKH.shape[2]
    if N % K:
        raise ValueError(f"{N} query heads cannot share {K} key/value heads: not a multiple")
    return reference(q_BLNH, k_BSKH, v_BSKH, mask)


def reference(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """Plain attention that materialises the scores; softmax in float32."""
    B, L, N, H = q_BLNH.shape
    K = k_BSKH.shape[2]
    q_BLKGH = (q_BLNH * H**-0.5).reshape(B, L, K, N // K, H)
    scores_BKGLS = jnp.einsum(
        "BLKGH,BSKH->BKGLS", q_BLKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    ok_B11LS = mask.allowed_BLS()[:, None, None]
    probs_BKGLS = jax.nn.softmax(jnp.where(ok_B11LS, scores_BKGLS, BLOCKED), axis=-1)
    out_BLKGH = jnp.einsum("BKGLS,BSKH->BLKGH", probs_BKGLS.astype(v_BSKH.dtype), v_BSKH)
    return out_BLKGH.reshape(B, L, N, H)
