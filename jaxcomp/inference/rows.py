"""The device half of `Pair`: compiled for a batch of rows, whatever the weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import Prefix
from jaxcomp.compress.memory import Memory
from jaxcomp.models.generate import Read
from jaxcomp.runtime.sharding import constrain


def padded(lists: Sequence[Sequence[int]], size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of rows as tok_BL, padded at the end to a multiple of `step` (at least one) and
    filled up with empty rows to B = `size`; and their lengths len_B."""
    longest = max([1, *map(len, lists)])
    tok_BL = np.zeros((size, -(-longest // step) * step), np.int32)
    len_B = np.zeros(size, np.int32)
    for b, ids in enumerate(lists):
        tok_BL[b, : len(ids)], len_B[b] = ids, len(ids)
    return tok_BL, len_B


@functools.partial(jax.jit, static_argnames=("graphdef", "ratio"))
def write(graphdef: Any, state: Any, ctx_BT: jax.Array, len_B: jax.Array, ratio: int) -> jax.Array:
    return nnx.merge(graphdef, state).compressor(ctx_BT, len_B, ratio=ratio).vec_BMD


@functools.partial(jax.jit, static_argnames=("graphdef", "ratio"))
def place(graphdef: Any, state: Any, vec_BGMD: jax.Array, len_BG: jax.Array, ratio: int) -> Memory:
    model = nnx.merge(graphdef, state)
    M, G = vec_BGMD.shape[2], len_BG.shape[1]
    places = [model.compressor.places(M, len_BG[:, g], ratio) for g in range(G)]
    seg_BGM, pos_BGM = (jnp.stack(part, axis=1) for part in zip(*places, strict=True))
    return model.place(vec_BGMD, seg_BGM, pos_BGM, model.compressor.segment)


@functools.partial(jax.jit, static_argnames=("graphdef",))
def with_text(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
) -> Prefix:
    """The decoder's prefix with a text after the marker."""
    model = nnx.merge(graphdef, state)
    prefix = model.prefix(memory, mode_B)
    slot_L = jnp.arange(tok_BL.shape[1], dtype=jnp.int32)
    x_BLD = model.decoder.embed(tok_BL).astype(prefix.x_BPD.dtype)
    seg_BL = (slot_L < len_B[:, None]).astype(jnp.int32)
    pos_BL = prefix.start_pos_B[:, None] + slot_L
    return Prefix(
        jnp.concatenate([prefix.x_BPD, x_BLD], axis=1),
        jnp.concatenate([prefix.pos_BP, pos_BL], axis=1),
        jnp.concatenate([prefix.seg_BP, seg_BL], axis=1),
        prefix.start_pos_B + len_B,
        prefix.kv_override,
    )


@functools.partial(jax.jit, static_argnames=("graphdef",))
def plain(graphdef: Any, state: Any, tok_BL: jax.Array, len_B: jax.Array) -> Prefix:
    """Text alone as the decoder's prefix: no memory, no markers, positions 0, 1, ..."""
    slot_BL = jnp.zeros_like(tok_BL) + jnp.arange(tok_BL.shape[1], dtype=jnp.int32)
    seg_BL = (slot_BL < len_B[:, None]).astype(jnp.int32)
    return Prefix(nnx.merge(graphdef, state).decoder.embed(tok_BL), slot_BL, seg_BL, len_B)


@functools.partial(jax.jit, static_argnames=("graphdef",))
def likelihoods(
    graphdef: Any, state: Any, found: Read, tok_BOL: jax.Array, len_BO: jax.Array
) -> jax.Array:
    """-ln p (nats) of each token of O texts after each row's prefix, each text by itself: nll_BOL.

    `found` has room for L tokens, and is left as it is; beyond a text's length nll is 0.
    """
    decoder = nnx.merge(graphdef, state).decoder
    slot_L = jnp.arange(tok_BOL.shape[2], dtype=jnp.int32)
    pos_BL = constrain(found.start_pos_B, "batch")[:, None] + slot_L

    def of_one(option: tuple[jax.Array, jax.Array]) -> jax.Array:
        tok_BL, len_B = option
        valid_BL = slot_L < len_B[:, None]
        x_BLD = decoder.embed(tok_BL)
        hidden_BLD, _ = decoder.step(x_BLD, pos_BL, valid_BL.astype(jnp.int32), found.cache)
        # Each place predicts the next: the prefix's last one the first token.
        first_B1V = constrain(found.logits_BV[:, None], "logits_BLV")
        logits_BLV = jnp.concatenate([first_B1V, decoder.unembed(hidden_BLD[:, :-1])], axis=1)
        logp_BLV = jax.nn.log_softmax(logits_BLV, axis=-1)
        is_label_BLV = jnp.arange(logp_BLV.shape[-1]) == tok_BL[:, :, None]
        return jnp.where(valid_BL, -jnp.where(is_label_BLV, logp_BLV, 0.0).sum(-1), 0)

    # One after the other, so that one copy of the cache exists at a time.
    options = jnp.swapaxes(tok_BOL, 0, 1), jnp.swapaxes(len_BO, 0, 1)
    return jnp.swapaxes(jax.lax.map(of_one, options), 0, 1)
