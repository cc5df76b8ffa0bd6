"""Memory kind `kv`: one vector holds the keys and values of every layer at one position.

A vector is, layer after layer, the K x H keys and then the K x H values: 2 Y K H numbers. Keys are
those before RoPE, so that a vector does not know where it stands.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcomp.compress.memory import Compressor, Segments
from jaxcomp.config import ModelConfig
from jaxcomp.models.block import KeyValues
from jaxcomp.runtime.sharding import SPECS, constrain


def width(cfg: ModelConfig) -> int:
    """D': numbers of one place's keys and values."""
    return 2 * cfg.num_hidden_layers * cfg.num_key_value_heads * cfg.head_dim


def flat(kv: KeyValues) -> jax.Array:
    """vec_BMD', float32."""
    # Heads may lie on several devices: each row whole before its axes are joined.
    k_BMYKH, v_BMYKH = (
        constrain(jnp.transpose(x, (1, 2, 0, 3, 4)), "batch").astype(jnp.float32) for x in kv
    )
    x_BMYCKH = jnp.stack([k_BMYKH, v_BMYKH], axis=3)
    B, M = x_BMYCKH.shape[:2]
    return jnp.reshape(x_BMYCKH, (B, M, -1), out_sharding=SPECS["act_BLD"])


def unflat(vec_BMD: jax.Array, cfg: ModelConfig) -> KeyValues:
    """What `flat` was given, laid as attention wants it."""
    Y, K, H = cfg.num_hidden_layers, cfg.num_key_value_heads, cfg.head_dim
    shape = (*vec_BMD.shape[:2], Y, 2, K, H)
    x_BMYCKH = jnp.reshape(vec_BMD, shape, out_sharding=SPECS["batch"])
    k_YBMKH, v_YBMKH = jnp.transpose(x_BMYCKH, (3, 2, 0, 1, 4, 5))
    return KeyValues(constrain(k_YBMKH, "cache_YBSKH"), constrain(v_YBMKH, "cache_YBSKH"))


class PerLayer(Compressor):
    """Kind `kv` (recipe `500x`): memory tokens stand and see as those of `append`; a vector is the
    keys (before RoPE) and values that one of them has in every layer (`flat`).

    There is no connector: the decoder attends to them in the place of its own, so it has as many
    layers, key/value heads and numbers in a head. Source: arXiv 2408.03094. There the compressor
    is the decoder with LoRA, and positions are those of the compressor; here the decoder rotates
    the keys by the memory's places in its own text, as in every kind.
    """

    per_layer = True
    # Nor is what the last layer does after its keys and values, but it lies in one array with the
    # layers before.
    unused = ("head", "norm")

    @staticmethod
    def width(decoder: ModelConfig) -> int:
        return width(decoder)

    def states(self, rows: Segments, remat: str, dropout_key: jax.Array | None) -> jax.Array:
        _, kv = self.llm.keep(
            *self.appended(rows),
            last=rows.seg_BM.shape[1],
            remat=remat,
            packed=False,
            dropout_key=dropout_key,
        )
        return flat(kv)
