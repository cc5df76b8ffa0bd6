"""From the compressor's width to the decoder's: RMSNorm-Linear-GELU-Linear in float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.sharding import SPECS, constrain

# E[gelu(z)^2] for z ~ N(0, 1) (the exact, erf form): keeps the output at the wanted scale.
_GELU_SECOND_MOMENT = 0.4252


class Connector(nnx.Module):
    """RMSNorm-Linear-GELU-Linear (recipe `pcc`), E -> D, all float32 whatever the towers are (a TPU
    multiplies float32 in bfloat16 passes, by JAX's default precision).

    A fresh connector answers unit-variance noise with vectors around `mean_D` whose standard
    deviation is `std`, so that the decoder first sees something of the size of its own tokens.
    Its last map is in units of `unit`: one learning rate then suits small embeddings (SmolLM2's
    spread 0.1) and large ones (a tiny decoder's, trained from scratch: 4).

    Args:
        width_in: E.
        hidden: F, the width between the two linear maps.
        mean_D: mean of the decoder's token embeddings, the initial bias of the last map.
        std: standard deviation of the decoder's token embeddings around their mean.
        unit: the scale of the output.
        rngs: its `params` stream draws the two maps.
    """

    def __init__(
        self,
        width_in: int,
        hidden: int,
        mean_D: jax.Array,
        std: float,
        *,
        unit: float,
        rngs: nnx.Rngs,
    ):
        up = jax.random.normal(rngs.params(), (width_in, hidden)) / math.sqrt(width_in)
        down = jax.random.normal(rngs.params(), (hidden, mean_D.shape[0]))
        self.unit = unit
        down = down * (std / unit / math.sqrt(hidden * _GELU_SECOND_MOMENT))
        self.norm_E = _param(jnp.ones(width_in), "norm_D")
        self.up_EF = _param(up, "up_DF")
        self.bias_F = _param(jnp.zeros(hidden), "norm_D")
        self.down_FD = _param(down, "down_FD")
        self.bias_D = _param(mean_D.astype(jnp.float32) / unit, "norm_D")

    def __call__(self, hidden_BME: jax.Array) -> jax.Array:
        """hidden_BME -> mem_BMD (float32)."""
        with jax.named_scope("connector"):
            x = hidden_BME.astype(jnp.float32)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
            x = x * self.norm_E[...]
            x = jnp.einsum("BME,EF->BMF", x, self.up_EF[...], out_sharding=SPECS["act_BLF"])
            x = jax.nn.gelu(x + self.bias_F[...], approximate=False)
            out = jnp.einsum("BMF,FD->BMD", x, self.down_FD[...], out_sharding=SPECS["act_BLD"])
            return (out + self.bias_D[...]) * self.unit


def _param(x: jax.Array, spec: str) -> nnx.Param:
    return nnx.Param(constrain(x, spec), spec=spec)
