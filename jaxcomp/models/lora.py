"""Low-rank adapters (arXiv 2106.09685) on every linear projection of the transformer."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxcomp.config import LoraConfig
from jaxcomp.runtime.sharding import SPECS, constrain


class LoraParam(nnx.Variable[jax.Array]):
    """A leaf of an adapter; never an nnx.Param, so a filter on type tells it from the base."""


class Lora(nnx.Module):
    """x -> (alpha / R) B A dropout(x); A random, B zero (so a new adapter changes nothing).

    A keeps the projection's contracted axes and ends in R, B starts with R; both are float32
    whatever the base's dtype. Stacked over layers on axis 0 like the base.
    """

    def __init__(self, cfg: LoraConfig, ab: tuple[jax.Array, jax.Array], specs: tuple[str, str]):
        self.a = LoraParam(ab[0], spec=specs[0])
        self.b = LoraParam(ab[1], spec=specs[1])
        self.scale = cfg.alpha / cfg.rank
        self.dropout = cfg.dropout

    def __call__(
        self, x: jax.Array, eqs: tuple[str, str], out: str, key: jax.Array | None
    ) -> jax.Array:
        if key is not None and self.dropout > 0:
            keep = _mask(key, 1 - self.dropout, jax.typeof(x))
            x = jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)
        a, b = self.a[...].astype(x.dtype), self.b[...].astype(x.dtype)
        r_BLR = jnp.einsum(eqs[0], x, a, out_sharding=SPECS["act_BLR"])
        return jnp.einsum(eqs[1], r_BLR, b, out_sharding=SPECS[out]) * self.scale


def _mask(key: jax.Array, share: float, like: Any) -> jax.Array:
    """True with probability `share`, of the shape and sharding of `like`.

    Each device draws its own part with XLA's generator, so what is drawn depends on the mesh.
    Threefry's masks more than doubled the compiler's work on an 8B step for a TPU; and left to
    XLA, each chip would draw the whole batch's mask.
    """
    spec = like.sharding.spec
    cut = (entry for entry in spec if entry is not None)
    axes = tuple(a for entry in cut for a in ((entry,) if isinstance(entry, str) else entry))

    def one_device(key: jax.Array) -> jax.Array:
        # Along the other axes devices hold the same of `like`, and must drop the same.
        own = jax.random.fold_in(key, jax.lax.axis_index(axes)) if axes else key
        data = jnp.tile(jax.random.key_data(own), 2)
        fast = jax.random.wrap_key_data(data, impl="rbg")
        return jax.random.bernoulli(fast, share, like.sharding.shard_shape(like.shape))

    draw = jax.shard_map(one_device, in_specs=P(), out_specs=spec, check_vma=False)
    return draw(jax.reshard(key, P()))


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


def _axes(eq: str) -> tuple[str, str, str, str]:
    """Of a projection: its input's axes, those contracted, those produced, and its output's."""
    x, w, y = eq.replace("->", ",").split(",")
    return x, "".join(c for c in w if c in x), "".join(c for c in w if c not in x), y


def lora_eqs(eq: str) -> tuple[str, str]:
    """The two einsums of an adapter: "BLD,DNH->BLNH" gives "BLD,DR->BLR" and "BLR,RNH->BLNH"."""
    x, contracted, produced, y = _axes(eq)
    return f"{x},{contracted}R->BLR", f"BLR,R{produced}->{y}"


def lora_specs(eq: str) -> tuple[str, str]:
    """Names in `sharding.SPECS` of A and B."""
    _, contracted, produced, _ = _axes(eq)
    return f"lora_{contracted}R", f"lora_R{produced}"


def init_lora(
    key: jax.Array, cfg: LoraConfig, weights: tuple[tuple[str, str, tuple[int, ...]], ...], Y: int
) -> dict[str, Lora]:
    """New adapters for (name, einsum, one layer's shape) of Y stacked layers.

    A is uniform in +-1/sqrt(fan-in), as in Microsoft's loralib and PEFT; B is zero.
    """
    pairs = _draw(key, cfg.rank, weights, Y)
    return {name: Lora(cfg, pairs[name], lora_specs(eq)) for name, eq, _ in weights}


@functools.partial(jax.jit, static_argnames=("rank", "weights", "Y"))
def _draw(
    key: jax.Array, rank: int, weights: tuple[tuple[str, str, tuple[int, ...]], ...], Y: int
) -> dict[str, tuple[jax.Array, jax.Array]]:
    shapes = {}
    for name, eq, shape in weights:
        cut = len(_axes(eq)[1])  # of a weight the contracted axes come first
        shapes[name] = (*shape[:cut], rank), (rank, *shape[cut:])
    total = sum(Y * math.prod(a) for a, _ in shapes.values())
    unit = jax.random.uniform(key, (total,), minval=-1.0)
    out, start = {}, 0
    for name, eq, _ in weights:
        (a_shape, b_shape), (a_spec, b_spec) = shapes[name], lora_specs(eq)
        size = Y * math.prod(a_shape)
        a = unit[start : start + size].reshape(Y, *a_shape) / math.prod(a_shape[:-1]) ** 0.5
        start += size
        out[name] = constrain(a, a_spec), constrain(jnp.zeros((Y, *b_shape)), b_spec)
    return out


def merge(model: Any) -> Any:
    """A copy of `model` (any nnx module) whose adapters are added into the base and removed.

    w + (alpha / R) A B is formed in float32 and rounded once to w's dtype. Dropout, being a matter
    of training, is gone. The given model is left as it is.
    """
    merged = nnx.clone(model)  # not split and merge, which would share the Variables
    for _, module in nnx.iter_modules(merged):
        if isinstance(module, Linear) and module.lora is not None:
            low = module.lora
            _, contracted, produced, _ = _axes(module.eq)
            delta = jnp.einsum(
                f"Y{contracted}R,YR{produced}->Y{contracted}{produced}",
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
