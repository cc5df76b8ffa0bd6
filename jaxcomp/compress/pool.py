"""Memory vectors as means of blocks of states."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcomp.compress.memory import Compressor, Segments, reshape


class Pool(Compressor):
    """Kind `pool` (`arc`, `lclm`, `mean_pool`): means of the last states of blocks of `ratio`
    tokens; a last, shorter block is the mean of what it has. No memory tokens.

    The tower stays causal: a vector knows its block and what came before. Places are those of
    `append`: `spread`: the last token of the block.
    """

    memory_tokens = False

    def states(self, rows: Segments, remat: str, dropout_key: jax.Array | None) -> jax.Array:
        hidden_BTE = self.text_states(rows, remat, dropout_key)
        return block_means(hidden_BTE, rows.seg_BT, rows.ratio)


def block_means(x_BTE: jax.Array, seg_BT: jax.Array, ratio: int) -> jax.Array:
    """mean_BME, float32: of the valid (seg > 0) slots of each block of `ratio`; 0 without any."""
    B, T, E = x_BTE.shape
    M = T // ratio
    valid_BMR = reshape((seg_BT > 0).astype(jnp.float32), B, M, ratio)
    x_BMRE = reshape(x_BTE.astype(jnp.float32), B, M, ratio, E)
    # A select, not a product: what stands in padding may be anything finite or not.
    total_BME = jnp.sum(jnp.where(valid_BMR[..., None] > 0, x_BMRE, 0.0), axis=2)
    return total_BME / jnp.maximum(jnp.sum(valid_BMR, axis=2), 1.0)[..., None]
