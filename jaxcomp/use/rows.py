"""The device half of `Pair`: compiled for a batch of rows, whatever the weights."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress.autoencoder import Prefix
from jaxcomp.compress.compressor import Memory


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
    )
