"""Maps from the compressor's width to the decoder's, in float32 (`memory.connector`)."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.runtime.sharding import SPECS, constrain


class Connector(nnx.Module):
    """RMSNorm-Linear-GELU-Linear (`mlp`, recipe `pcc`), E -> D, all float32 whatever the towers are
    (a TPU multiplies float32 in bfloat16 passes, by JAX's default precision).

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

    in_units: tuple[str, ...] = ("down_FD", "bias_D")  # parameters that are in units of `unit`
    normed = True
    # E[gelu(z)^2] for z ~ N(0, 1) (the exact, erf form): keeps the output at the wanted scale.
    SECOND_MOMENT = 0.4252
    activation = staticmethod(functools.partial(jax.nn.gelu, approximate=False))

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
        down = down * (std / unit / math.sqrt(hidden * self.SECOND_MOMENT))
        if self.normed:
            self.norm_E = _param(jnp.ones(width_in), "norm_D")
        self.up_EF = _param(up, "up_DF")
        self.bias_F = _param(jnp.zeros(hidden), "norm_D")
        self.down_FD = _param(down, "down_FD")
        self.bias_D = _param(mean_D.astype(jnp.float32) / unit, "norm_D")

    @staticmethod
    def weights(width_in: int, hidden: int, width_out: int) -> int:
        """Numbers in its matrices."""
        return hidden * (width_in + width_out)

    def __call__(self, hidden_BME: jax.Array) -> jax.Array:
        """hidden_BME -> mem_BMD (float32)."""
        with jax.named_scope("connector"):
            x = hidden_BME.astype(jnp.float32)
            if self.normed:
                x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
                x = x * self.norm_E[...]
            x = jnp.einsum("BME,EF->BMF", x, self.up_EF[...], out_sharding=SPECS["act_BLF"])
            x = self.activation(x + self.bias_F[...])
            out = jnp.einsum("BMF,FD->BMD", x, self.down_FD[...], out_sharding=SPECS["act_BLD"])
            return (out + self.bias_D[...]) * self.unit


class ReluConnector(Connector):
    """Linear-ReLU-Linear (`relu`, recipe `pisco`): as `Connector`, without a norm before it."""

    normed = False
    SECOND_MOMENT = 0.5  # E[relu(z)^2]
    activation = staticmethod(jax.nn.relu)


class NoConnector(nnx.Module):
    """The compressor's own states, times the constant `unit` (`none`, recipe `icae`): E = D.

    Nothing is learned. After its final norm a state has entries of about 1, whatever the scale of
    the decoder's embeddings; in their unit it starts at the size of a token. ICAE feeds the states
    as they are (unit 1) to the model that wrote them. Keys and values (`kv`) stay as they are too.
    """

    in_units: tuple[str, ...] = ()

    def __init__(self, *_: Any, unit: float, **__: Any):
        self.unit = unit

    @staticmethod
    def weights(width_in: int, hidden: int, width_out: int) -> int:
        return 0

    def __call__(self, hidden_BME: jax.Array) -> jax.Array:
        """hidden_BME -> mem_BMD (float32), D = E."""
        return hidden_BME.astype(jnp.float32) * self.unit


def _param(x: jax.Array, spec: str) -> nnx.Param:
    return nnx.Param(constrain(x, spec), spec=spec)
