"""Attention weights of chosen query positions to every position of a text.

Beside each attention it takes the probabilities of a few queries, which the fused kernels never
hand out.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.models.attention import BLOCKED, grouped
from jaxcomp.models.model import Cache, Seen, Transformer
from jaxcomp.runtime.sharding import constrain


class Attended(NamedTuple):
    """share_BL: of the attention of a row's queries the part that goes to each place, the mean
    over layers, heads and queries (float32; sums to 1 over a row that has a query, else all 0).
    hidden_BLD: what `Transformer.__call__` gives."""

    share_BL: jax.Array
    hidden_BLD: jax.Array


def attended(
    model: Transformer, x_BLD: jax.Array, pos_BL: jax.Array, seg_BL: jax.Array, at_BQ: jax.Array
) -> Attended:
    """What the places `at_BQ` attend to, and the states of all.

    Args:
        model: read only; calls of equal shapes compile once, whatever the weights.
        x_BLD, pos_BL, seg_BL: as of `Transformer.__call__`.
        at_BQ: int32, indices of query places in the row; below 0: none.

    Beside what the model itself needs, B x N x Q x L probabilities exist at once.
    """
    return _attended(*nnx.split(model), x_BLD, pos_BL, seg_BL, at_BQ)


@functools.partial(jax.jit, static_argnames=("graphdef",))
def _attended(
    graphdef: nnx.GraphDef[Transformer],
    weights: nnx.State,
    x_BLD: jax.Array,
    pos_BL: jax.Array,
    seg_BL: jax.Array,
    at_BQ: jax.Array,
) -> Attended:
    model = nnx.merge(graphdef, weights)
    seg_BL = constrain(seg_BL.astype(jnp.int32), "batch")
    at_BQ1, slot_S = constrain(at_BQ, "batch")[:, :, None], jnp.arange(x_BLD.shape[1])
    # One-hot rows, not a gather, which would lose the layout of the batch.
    hot_BQL = at_BQ1 == slot_S
    seg_BQ1 = jnp.sum(jnp.where(hot_BQL, seg_BL[:, None], 0), axis=2, keepdims=True)
    allowed_BQS = (seg_BQ1 == seg_BL[:, None]) & (slot_S <= at_BQ1)

    def look(seen: Seen) -> jax.Array:
        q_BQNH = jnp.einsum("BQL,BLNH->BQNH", hot_BQL.astype(seen.q_BLNH.dtype), seen.q_BLNH)
        near_BQS = allowed_BQS
        if seen.mask.window is not None:
            rank_BS = seen.mask.rank_BS()
            rank_BQ1 = jnp.sum(jnp.where(hot_BQL, rank_BS[:, None], 0), axis=2, keepdims=True)
            near_BQS &= rank_BQ1 - rank_BS[:, None] < seen.mask.window
        return _mean_over_heads(q_BQNH, seen.k_BSKH, near_BQS)

    hidden_BLD, share_YBQS = model.through(x_BLD, pos_BL, seg_BL, look, unroll=1)
    asked_BQ1 = jnp.any(hot_BQL, axis=2, keepdims=True)
    count_B1 = jnp.maximum(jnp.sum(asked_BQ1, axis=1), 1)
    share_BL = jnp.sum(jnp.where(asked_BQ1, jnp.mean(share_YBQS, axis=0), 0.0), axis=1) / count_B1
    return Attended(share_BL, hidden_BLD)


@functools.partial(jax.jit, static_argnames=("graphdef", "room"))
def read_rows(
    graphdef: nnx.GraphDef[Transformer],
    weights: nnx.State,
    tok_BP: jax.Array,
    len_B: jax.Array,
    room: int,
) -> Cache:
    """Keys and values of rows of `len_B` tokens from position 0, with room for `room` more."""
    model = nnx.merge(graphdef, weights)
    pos_BP, seg_BP = places(tok_BP, len_B)
    return model.prefill(model.embed(tok_BP), pos_BP, seg_BP, tok_BP.shape[1] + room)[1]


@functools.partial(jax.jit, static_argnames=("graphdef",))
def tail_attention(
    graphdef: nnx.GraphDef[Transformer],
    weights: nnx.State,
    cache: Cache,
    start_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
) -> jax.Array:
    """Attention of a tail to the tokens that were read before it.

    Args:
        graphdef, weights: of the model that made the cache.
        cache: of `read_rows`, not changed; it has room for L tokens.
        start_B: position of each row's first tail token.
        tok_BL, len_B: tail tokens, padded at the end.

    Returns:
        score_BS: the probability that goes to each place of the cache, summed over layers, heads
        and tail tokens, / tail tokens (float32). Each layer is summed where it is computed, so
        B x N x L x S probabilities exist at once.
    """
    model = nnx.merge(graphdef, weights)
    place_BL, seg_BL = places(tok_BL, len_B)
    counted_BL1 = seg_BL[:, :, None] > 0

    def look(seen: Seen) -> jax.Array:
        share_BLS = _mean_over_heads(seen.q_BLNH, seen.k_BSKH, seen.mask.allowed_BLS())
        return jnp.sum(jnp.where(counted_BL1, share_BLS, 0.0), axis=1) * seen.q_BLNH.shape[2]

    pos_BL = place_BL + constrain(start_B, "batch")[:, None]
    *_, score_YBS = model.step_through(model.embed(tok_BL), pos_BL, seg_BL, cache, look)
    return jnp.sum(score_YBS, axis=0) / jnp.maximum(constrain(len_B, "batch"), 1)[:, None]


def places(tok_BL: jax.Array, len_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each token its index in the row; 1, or 0 for padding."""
    place_BL = constrain(jnp.broadcast_to(jnp.arange(tok_BL.shape[1]), tok_BL.shape), "batch")
    return place_BL, (place_BL < constrain(len_B, "batch")[:, None]).astype(jnp.int32)


def _mean_over_heads(q_BQNH: jax.Array, k_BSKH: jax.Array, allowed_BQS: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(H)) over the allowed keys, in float32: the mean of all heads."""
    q_BQKGH = grouped(q_BQNH * q_BQNH.shape[3] ** -0.5, k_BSKH.shape[2])
    q_BKGQH = q_BQKGH.transpose(0, 2, 3, 1, 4)
    scores_BKGQS = jnp.einsum(
        "BKGQH,BSKH->BKGQS", q_BKGQH, k_BSKH, preferred_element_type=jnp.float32
    )
    scores_BKGQS = jnp.where(allowed_BQS[:, None, None], scores_BKGQS, BLOCKED)
    share_BKGQS = jax.nn.softmax(scores_BKGQS, axis=-1)
    return constrain(jnp.mean(share_BKGQS, axis=(1, 2)), "batch")
