"""One transformer layer, with optional replacement of its keys and values."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.config import ModelConfig
from jaxcomp.models.attention import Rope, rotate
from jaxcomp.models.families import family
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


class Leaf(NamedTuple):
    """One parameter of one layer (or of the model): its shape, its row of SPECS, its start."""

    shape: tuple[int, ...]
    spec: str
    std: float  # of a truncated normal; 0: every value is `fill`
    fill: float = 1.0


def layer_leaves(cfg: ModelConfig) -> dict[str, Leaf]:
    """Parameters of one layer; the model stacks them on a leading axis Y."""
    row = family(cfg.model_type)
    D, F, H = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    N, K = cfg.num_attention_heads, cfg.num_key_value_heads
    # 2Y branches add to the residual stream; so scaled, their sum has the size of one (GPT-2).
    branch = (2 * cfg.num_hidden_layers) ** -0.5
    norm = norm_leaf(cfg)
    pre = {"attn_norm": norm, "mlp_norm": norm} if row.pre_norm else {}
    leaves = pre | {
        "q": Leaf((D, N, H), "qkv_DNH", D**-0.5),
        "k": Leaf((D, K, H), "qkv_DNH", D**-0.5),
        "v": Leaf((D, K, H), "qkv_DNH", D**-0.5),
        "o": Leaf((N, H, D), "o_NHD", branch * (N * H) ** -0.5),
        "gate": Leaf((D, F), "up_DF", D**-0.5),
        "up": Leaf((D, F), "up_DF", D**-0.5),
        "down": Leaf((F, D), "down_FD", branch * F**-0.5),
    }
    if row.post_norm:
        leaves |= {"attn_post_norm": norm, "mlp_post_norm": norm}
    if row.qk_norm == "head":
        head = norm._replace(shape=(H,))
        leaves |= {"q_norm": head, "k_norm": head}
    elif row.qk_norm == "projection":
        heads = norm._replace(spec="bias_NH")
        leaves |= {"q_norm": heads._replace(shape=(N, H)), "k_norm": heads._replace(shape=(K, H))}
    if row.qkv_bias:
        leaves |= {
            f"{name}_bias": Leaf(leaves[name].shape[1:], "bias_NH", 0, 0.0) for name in "qkv"
        }
    return leaves


def norm_leaf(cfg: ModelConfig) -> Leaf:
    """The weight of a norm of the residual stream, which starts by changing nothing."""
    return Leaf((cfg.hidden_size,), "norm_D", 0, 1.0 - family(cfg.model_type).norm_offset)


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def rms_norm(x: jax.Array, weight: jax.Array, eps: float, offset: float = 0.0) -> jax.Array:
    """x / rms(x) * (weight + offset) over the weight's axes, x's last ones; in float32 inside, x's
    dtype out."""
    x32, weight = x.astype(jnp.float32), weight.astype(jnp.float32)
    axes = tuple(range(-weight.ndim, 0))
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=axes, keepdims=True) + eps)
    return (x32 * (weight + offset if offset else weight)).astype(x.dtype)


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
    attn_norm: nnx.Param[jax.Array]
    q_bias: nnx.Param[jax.Array]
    k_bias: nnx.Param[jax.Array]
    v_bias: nnx.Param[jax.Array]

    def __init__(self, cfg: ModelConfig, params: dict[str, jax.Array], lora: dict[str, Lora]):
        leaves = layer_leaves(cfg)
        for name, leaf in leaves.items():
            weight = params[f"layers.{name}"]
            if name in PROJECTIONS:
                p = PROJECTIONS[name]
                setattr(self, name, Linear(weight, p.eq, p.spec, p.out, lora.get(name)))
            else:
                setattr(self, name, nnx.Param(weight, spec=leaf.spec))
        self.family = family(cfg.model_type)
        self.eps = cfg.rms_norm_eps
        # Attention divides the scores by sqrt(head_dim).
        scalar = cfg.query_pre_attn_scalar or cfg.head_dim
        self.query_scale = (cfg.head_dim / scalar) ** 0.5

    def heads(
        self, x_BLD: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values before RoPE: q_BLNH, k_BLKH, v_BLKH."""
        h_BLD = self._norm(x_BLD, "attn_norm") if self.family.pre_norm else x_BLD
        # Adapters that read the same input drop the same of it: one mask to draw instead of three.
        key = _sub(key, 0)
        q_BLNH, k_BLKH, v_BLKH = self.q(h_BLD, key), self.k(h_BLD, key), self.v(h_BLD, key)
        if self.family.qkv_bias:
            q_BLNH = q_BLNH + self.q_bias[...].astype(q_BLNH.dtype)
            k_BLKH = k_BLKH + self.k_bias[...].astype(k_BLKH.dtype)
            v_BLKH = v_BLKH + self.v_bias[...].astype(v_BLKH.dtype)
        if self.family.qk_norm != "none":
            q_BLNH, k_BLKH = self._norm(q_BLNH, "q_norm"), self._norm(k_BLKH, "k_norm")
        if self.query_scale != 1:
            q_BLNH = q_BLNH * self.query_scale
        return q_BLNH, k_BLKH, v_BLKH

    def qkv(self, x_BLD: jax.Array, angle: Rope, key: jax.Array | None) -> tuple[jax.Array, ...]:
        """As `heads`, queries and keys rotated."""
        return apply_rope(*self.heads(x_BLD, key), angle)

    def mix(self, x_BLD: jax.Array, heads_BLNH: jax.Array, key: jax.Array | None) -> jax.Array:
        """The rest of the layer: output projection, then the gated MLP."""
        out_BLD = self.o(heads_BLNH, _sub(key, 1))
        if self.family.post_norm:
            out_BLD = self._norm(out_BLD, "attn_post_norm")
        x_BLD = x_BLD + out_BLD
        h_BLD = self._norm(x_BLD, "mlp_norm") if self.family.pre_norm else x_BLD
        gate_BLF, up_BLF = self.gate(h_BLD, _sub(key, 2)), self.up(h_BLD, _sub(key, 2))
        activation = ACTIVATIONS[self.family.activation]
        out_BLD = self.down(activation(gate_BLF) * up_BLF, _sub(key, 3))
        if self.family.post_norm:
            out_BLD = self._norm(out_BLD, "mlp_post_norm")
        return x_BLD + out_BLD

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        return rms_norm(x, getattr(self, name)[...], self.eps, self.family.norm_offset)


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
