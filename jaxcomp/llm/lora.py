"""Low-rank adapters (arXiv 2106.09685) on every linear projection of the transformer."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.config import LoraConfig
from jaxcomp.sharding import SPECS, constrain


class LoraParam(nnx.Variable[jax.Array]):
    """A leaf of an adapter; never an nnx.Param, so a filter on type tells it from the base."""


class Lora(nnx.Module):
    """x -> (alpha / R) B A dropout(x); A random, B zero (so a new adapter changes nothing).

    A keeps the projection's contracted axes and ends in R, B starts with R; both are float32
    whatever the base's dtype. Stacked over layers on axis 0 like the base.
    """

    def __init__(self, cfg: LoraConfig, a: jax.Array, b: jax.Array, specs: tuple[str, str]):
        self.a = LoraParam(a, spec=specs[0])
        self.b = LoraParam(b, spec=specs[1])
        self.scale = cfg.alpha / cfg.rank
        self.dropout = cfg.dropout

    def __call__(
        self, x: jax.Array, eqs: tuple[str, str], out: str, key: jax.Array | None
    ) -> jax.Array:
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            keep = jax.reshard(keep, jax.typeof(x).sharding.spec)
            x = jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)
        a, b = self.a[...].astype(x.dtype), self.b[...].astype(x.dtype)
        r_BLR = jnp.einsum(eqs[0], x, a, out_sharding=SPECS["act_BLR"])
        return jnp.einsum(eqs[1], r_BLR, b, out_sharding=SPECS[out]) * self.scale


class Linear(nnx.Module):
    """One projection by an einsum such as "BLD,DNH->BLNH", with an optional adapter.

    `spec` and `out` are rows of `sharding.SPECS`: of the weight and of the result. The weight is
    cast to the input's dtype at use, so float32 masters can drive bfloat16 matrix products.
    """

    def __init__(self, w: jax.Array, eq: str, spec: str, out: str, lora: Lora | None = None):
        self.w = nnx.Param(w, spec=spec)
        self.lora = lora
        self.eq = eq
        self.out = out

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        w = self.w[...].astype(x.dtype)
        y = jnp.einsum(self.eq, x, w, out_sharding=SPECS[self.out])
        if self.lora is not None:
            y = y + self.lora(x, lora_eqs(self.eq), self.out, key)
        return y


def lora_eqs(eq: str) -> tuple[str, str]:
    """The two einsums of an adapter: "BLD,DNH->BLNH" gives "BLD,DR->BLR" and "BLR,RNH->BLNH"."""
    x, w, y = eq.replace("->", ",").split(",")
    contracted = "".join(c for c in w if c in x)
    produced = "".join(c for c in w if c not in x)
    return f"{x},{contracted}R->BLR", f"BLR,R{produced}->{y}"


def lora_shapes(eq: str, shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of A and B for one layer's weight of `shape`."""
    x, w, _ = eq.replace("->", ",").split(",")
    contracted = tuple(n for c, n in zip(w, shape, strict=True) if c in x)
    produced = tuple(n for c, n in zip(w, shape, strict=True) if c not in x)
    return (*contracted, rank), (rank, *produced)


def lora_specs(eq: str) -> tuple[str, str]:
    """Names in `sharding.SPECS` of A and B."""
    a, b = lora_eqs(eq)
    return f"lora_{a.split(',')[1].split('-')[0]}", f"lora_{b.split(',')[1].split('-')[0]}"


def init_lora(
    key: jax.Array, cfg: LoraConfig, eq: str, shape: tuple[int, ...], layers: int
) -> Lora:
    """A new adapter for `layers` stacked weights, A uniform in +-1/sqrt(fan-in), B zero."""
    a_shape, b_shape = lora_shapes(eq, shape, cfg.rank)
    bound = 1 / math.sqrt(math.prod(a_shape[:-1]))
    a_spec, b_spec = lora_specs(eq)
    a = jax.random.uniform(key, (layers, *a_shape), jnp.float32, -bound, bound)
    b = jnp.zeros((layers, *b_shape), jnp.float32)
    return Lora(cfg, constrain(a, a_spec), constrain(b, b_spec), (a_spec, b_spec))


def merge(model: Any) -> Any:
    """A copy of `model` (any nnx module) whose adapters are added into the base and removed.

    w + (alpha / R) A B is formed in float32 and rounded once to w's dtype. Dropout, being a matter
    of training, is gone. The given model is left as it is.
    """
    graphdef, state = nnx.split(model)
    merged = nnx.merge(graphdef, state)
    for _, module in nnx.iter_modules(merged):
        if isinstance(module, Linear) and module.lora is not None:
            low = module.lora
            x, w, _ = module.eq.replace("->", ",").split(",")
            a_eq = "Y" + "".join(c for c in w if c in x) + "R"
            b_eq = "YR" + "".join(c for c in w if c not in x)
            delta = jnp.einsum(
                f"{a_eq},{b_eq}->Y{w}",
                low.a[...],
                low.b[...],
                out_sharding=jax.typeof(module.w[...]).sharding.spec,
                precision=jax.lax.Precision.HIGHEST,
            )
            base = module.w[...]
            new = (base.astype(jnp.float32) + low.scale * delta).astype(base.dtype)
            module.w.set_value(new)
            module.lora = None
    return merged
