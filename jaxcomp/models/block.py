"""One layer of the transformer, and what can stand in for the keys and values it makes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.config import ModelConfig
from jaxcomp.models.attention import Rope, rotate
from jaxcomp.models.lora import Linear, Lora


class Projection(NamedTuple):
    eq: str
    spec: str
    out: str


_IN = Projection("BLD,DNH->BLNH", "qkv_DNH", "act_BLNH")
_UP = Projection("BLD,DF->BLF", "up_DF", "act_BLF")
PROJECTIONS = {
    "q": _IN,
    "k": _IN,
    "v": _IN,
    "o": Projection("BLNH,NHD->BLD", "o_NHD", "act_BLD"),
    "gate": _UP,
    "up": _UP,
    "down": Projection("BLF,FD->BLD", "down_FD", "act_BLD"),
}


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * weight over the last axis, in float32 inside; x's dtype out."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * weight.astype(jnp.float32)).astype(x.dtype)


class KeyValues(NamedTuple):
    """Keys, before RoPE, and values that M places of each row have in every layer (inside a scan:
    in one, without the axis Y)."""

    k_YBMKH: jax.Array
    v_YBMKH: jax.Array


class KVOverride(NamedTuple):
    """Keys and values that stand in for a tower's own at M places in a row: the residual stream of
    those places is computed as ever, and nothing reads it.

    Keys are rotated by the position ids of the places where they come to stand.
    """

    kv: KeyValues
    first: jax.Array  # int32: the first of the places, as an index of the row

    def placed(self, k_BLKH: jax.Array, v_BLKH: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One layer's keys and values, those of the M places replaced."""
        k_BMKH, v_BMKH = (x.astype(k_BLKH.dtype) for x in self.kv)
        at = (0, self.first, 0, 0)
        return (
            jax.lax.dynamic_update_slice(k_BLKH, k_BMKH, at),
            jax.lax.dynamic_update_slice(v_BLKH, v_BMKH, at),
        )


class Block(nnx.Module):
    """All layers, stacked on axis 0; inside a scan, one layer."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear
    up: Linear
    down: Linear

    def __init__(self, cfg: ModelConfig, params: dict[str, jax.Array], lora: dict[str, Lora]):
        self.attn_norm = nnx.Param(params["layers.attn_norm"], spec="norm_D")
        self.mlp_norm = nnx.Param(params["layers.mlp_norm"], spec="norm_D")
        for name, p in PROJECTIONS.items():
            weight = params[f"layers.{name}"]
            setattr(self, name, Linear(weight, p.eq, p.spec, p.out, lora.get(name)))
        if cfg.qk_norm:
            self.q_norm = nnx.Param(params["layers.q_norm"], spec="norm_D")
            self.k_norm = nnx.Param(params["layers.k_norm"], spec="norm_D")
        if cfg.qkv_bias:
            self.q_bias = nnx.Param(params["layers.q_bias"], spec="bias_NH")
            self.k_bias = nnx.Param(params["layers.k_bias"], spec="bias_NH")
            self.v_bias = nnx.Param(params["layers.v_bias"], spec="bias_NH")
        self.eps = cfg.rms_norm_eps
        self.qk_norm = cfg.qk_norm
        self.qkv_bias = cfg.qkv_bias

    def heads(
        self, x_BLD: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values before RoPE: q_BLNH, k_BLKH, v_BLKH."""
        h_BLD = rms_norm(x_BLD, self.attn_norm[...], self.eps)
        # Adapters that read the same input drop the same of it: one mask to draw instead of three.
        key = _sub(key, 0)
        q_BLNH, k_BLKH, v_BLKH = self.q(h_BLD, key), self.k(h_BLD, key), self.v(h_BLD, key)
        if self.qkv_bias:
            q_BLNH = q_BLNH + self.q_bias[...].astype(q_BLNH.dtype)
            k_BLKH = k_BLKH + self.k_bias[...].astype(k_BLKH.dtype)
            v_BLKH = v_BLKH + self.v_bias[...].astype(v_BLKH.dtype)
        if self.qk_norm:
            q_BLNH = rms_norm(q_BLNH, self.q_norm[...], self.eps)
            k_BLKH = rms_norm(k_BLKH, self.k_norm[...], self.eps)
        return q_BLNH, k_BLKH, v_BLKH

    def qkv(self, x_BLD: jax.Array, angle: Rope, key: jax.Array | None) -> tuple[jax.Array, ...]:
        """As `heads`, queries and keys rotated."""
        return apply_rope(*self.heads(x_BLD, key), angle)

    def mix(self, x_BLD: jax.Array, heads_BLNH: jax.Array, key: jax.Array | None) -> jax.Array:
        """The rest of the layer: output projection, then the SwiGLU MLP."""
        x_BLD = x_BLD + self.o(heads_BLNH, _sub(key, 1))
        h_BLD = rms_norm(x_BLD, self.mlp_norm[...], self.eps)
        gate_BLF, up_BLF = self.gate(h_BLD, _sub(key, 2)), self.up(h_BLD, _sub(key, 2))
        return x_BLD + self.down(jax.nn.silu(gate_BLF) * up_BLF, _sub(key, 3))


def _sub(key: jax.Array | None, index: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, index)


def apply_rope(
    q_BLNH: jax.Array,
    k_BLKH: jax.Array,
    v_BLKH: jax.Array,
    angle: Rope,
    kv_override: KVOverride | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries, keys and values of one layer as attention takes them.

    Those of `kv_override` replace the layer's own at their places; queries and keys are rotated.
    """
    if kv_override is not None:
        k_BLKH, v_BLKH = kv_override.placed(k_BLKH, v_BLKH)
    return rotate(q_BLNH, angle), rotate(k_BLKH, angle), v_BLKH
