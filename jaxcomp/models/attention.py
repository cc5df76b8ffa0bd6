"""Attention with a small mask spec, RoPE, and the choice of kernel (`implementation`)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.config import MOST, ModelConfig
from jaxcomp.models import kernels
from jaxcomp.models.mask import Mask
from jaxcomp.runtime.sharding import SPECS, platform

# What was chosen in this process: of each of KERNELS the queries and keys (L, S) it was traced for.
traced: dict[str, set[tuple[int, int]]] = {}
# Finite, so that a row without any allowed key gives an average instead of NaN.
BLOCKED = -1e30


def attention(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v for each query head, N a multiple of K; out_BLNH in q's dtype.

    At padding the result is finite and means nothing. Raises ValueError where the head counts do
    not fit.
    """
    N, K = q_BLNH.shape[2], k_BSKH.shape[2]
    if N % K:
        raise ValueError(f"{N} query heads cannot share {K} key/value heads: not a multiple")
    kind = implementation(platform(), q_BLNH.shape, k_BSKH.shape, q_BLNH.dtype, mask)
    traced.setdefault(kind, set()).add((q_BLNH.shape[1], k_BSKH.shape[1]))
    return KERNELS[kind](q_BLNH, k_BSKH, v_BSKH, mask)


def implementation(
    where: str, q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any, mask: Mask
) -> str:
    """Which of `KERNELS` computes an attention on platform `where`: the fused one of the platform
    if it can say this mask, else the reference. Steps of decoding take `cached`.
    """
    if mask.window is not None:
        return "reference"
    itself = q_shape[1] == k_shape[1] and isinstance(mask.offset, int) and mask.offset == 0
    if where == "tpu" and itself and q_shape[1] >= kernels.LANES:
        return "splash"
    half = dtype in (jnp.bfloat16, jnp.float16)
    if where == "gpu" and itself and mask.causal and not mask.packed and half:
        return "cudnn"
    return "reference"


def description() -> str:
    """ "splash (272 x 272, 345 x 345)": what has been traced so far, queries x keys."""
    of = {kind: ", ".join(f"{L} x {S}" for L, S in sorted(traced[kind])) for kind in sorted(traced)}
    return "; ".join(f"{kind} ({shapes})" for kind, shapes in of.items())


def reference(q_BLNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """Plain attention that materialises the scores; softmax in float32."""
    return by_heads(q_BLNH, k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3), mask)


def cached(q_BLNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask: Mask) -> jax.Array:
    """`attention` over keys and values as a cache holds them, heads before positions."""
    traced.setdefault("reference", set()).add((q_BLNH.shape[1], k_BKSH.shape[2]))
    return by_heads(q_BLNH, k_BKSH, v_BKSH, mask)


def grouped(q_BLNH: jax.Array, K: int) -> jax.Array:
    """q_BLKGH: the query heads that share each of the K key/value heads."""
    B, L, N, H = q_BLNH.shape
    # Without the sharding a reshape forgets on which axes a batch of one row lies.
    return jnp.reshape(q_BLNH, (B, L, K, N // K, H), out_sharding=SPECS["act_BLKGH"])


def by_heads(q_BLNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask: Mask) -> jax.Array:
    B, L, N, H = q_BLNH.shape
    # Heads before positions, and the division after the values: on CPUs 1.5 times as fast.
    q_BKGLH = grouped(q_BLNH * H**-0.5, k_BKSH.shape[1]).transpose(0, 2, 3, 1, 4)
    scores_BKGLS = jnp.einsum(
        "BKGLH,BKSH->BKGLS", q_BKGLH, k_BKSH, preferred_element_type=jnp.float32
    )
    scores_BKGLS = jnp.where(mask.allowed_BLS()[:, None, None], scores_BKGLS, BLOCKED)
    top_BKGL1 = jax.lax.stop_gradient(jnp.max(scores_BKGLS, axis=-1, keepdims=True))
    share_BKGLS = jnp.exp(scores_BKGLS - top_BKGL1)
    total_BKGL1 = jnp.sum(share_BKGLS, axis=-1, keepdims=True)
    out_BKGLH = jnp.einsum(
        "BKGLS,BKSH->BKGLH",
        share_BKGLS.astype(v_BKSH.dtype),
        v_BKSH,
        preferred_element_type=jnp.float32,
    )
    out_BKGLH = (out_BKGLH / total_BKGL1).astype(q_BLNH.dtype)
    return jnp.reshape(
        out_BKGLH.transpose(0, 3, 1, 2, 4), (B, L, N, H), out_sharding=SPECS["act_BLNH"]
    )


KERNELS = {"reference": reference, "splash": kernels.splash, "cudnn": kernels.cudnn}


class Rope(NamedTuple):
    cos_BL1H: jax.Array
    sin_BL1H: jax.Array


def rope_frequencies(cfg: ModelConfig) -> np.ndarray:
    """Radians per position of each of the H/2 pairs, scaled where configured.

    Source: `_compute_llama3_parameters` of transformers/modeling_rope_utils.py.
    """
    freq = cfg.rope_theta ** (-np.arange(0, cfg.head_dim, 2, dtype=np.float64) / cfg.head_dim)
    scaling = cfg.rope_scaling
    if scaling is not None and scaling.rope_type == "linear":
        freq = freq / scaling.factor
    elif scaling is not None:
        turns = scaling.original_max_position_embeddings * freq / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        # 0 where fewer than `low` turns fit the original context (slowed), 1 where over `high`.
        kept = np.clip((turns - low) / (high - low), 0, 1)
        freq = freq * (kept + (1 - kept) / scaling.factor)
    return freq.astype(np.float32)


def rope(cfg: ModelConfig, pos_BL: jax.Array) -> Rope:
    angle = pos_BL.astype(jnp.float32)[..., None, None] * rope_frequencies(cfg)
    return Rope(jnp.cos(angle), jnp.sin(angle))


class Sight(NamedTuple):
    """By what the layers attend: RoPE and mask, and the RoPE of layers with a window, if any."""

    rope: Rope
    mask: Mask
    local: Rope | None = None

    def of(self, window: jax.Array | None) -> tuple[Rope, Mask]:
        """RoPE and mask of one layer, of which `window` is its entry in `windows`."""
        if window is None or self.local is None:
            return self.rope, self.mask
        pairs = zip(self.local, self.rope, strict=True)
        angle = Rope(*(jnp.where(window < MOST, local, whole) for local, whole in pairs))
        return angle, self.mask._replace(window=window)


def windows(cfg: ModelConfig) -> np.ndarray | None:
    """Of each layer how many places a query sees (`Mask.window`); None where none has a window."""
    if cfg.sliding_window_pattern <= 1:
        return None
    whole_Y = np.arange(1, cfg.num_hidden_layers + 1) % cfg.sliding_window_pattern == 0
    return np.where(whole_Y, MOST, cfg.sliding_window).astype(np.int32)


def sight(cfg: ModelConfig, pos_BL: jax.Array, mask: Mask) -> Sight:
    """What every layer attends by, from position ids and the mask without windows."""
    local = None
    if windows(cfg) is not None:
        base = dataclasses.replace(cfg, rope_theta=cfg.rope_local_base_freq, rope_scaling=None)
        local = rope(base, pos_BL)
    return Sight(rope(cfg, pos_BL), mask, local)


def rotate(x_BLNH: jax.Array, angle: Rope) -> jax.Array:
    """Rotary embedding in Hugging Face's layout: pair i is (x[i], x[i + H/2])."""
    a, b = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = angle
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLNH.dtype)
