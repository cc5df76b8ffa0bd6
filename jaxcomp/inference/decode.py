"""The device half of a trained pair, compiled for a batch of rows whatever the weights: memories,
and what the decoder makes of them, teacher-forced likelihoods and greedy text.

Everything jitted takes the graph definition as a static argument, so that equal shapes never
compile twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import Memory, Prefix
from jaxcomp.models.generate import Generated, Read, generate
from jaxcomp.runtime.sharding import constrain

LOGITS_ELEMENTS = 2**26  # most float32 logits that exist at once (256 MB)


class Forced(NamedTuple):
    """Teacher-forced, one value a target token (0 where there is none); entropy and nll in nats.
    `other_BL`: ln p of another token in its place, where `forced` was given some."""

    nll_BL: jax.Array
    entropy_BL: jax.Array
    top1_BL: jax.Array
    correct_BL: jax.Array
    other_BL: jax.Array | None = None


@partial(jax.jit, static_argnames=("graphdef", "ratio"))
def read(graphdef: Any, state: Any, ctx_BGT: jax.Array, len_BG: jax.Array, ratio: int) -> Memory:
    """The memory of a batch of contexts."""
    return nnx.merge(graphdef, state).memory(ctx_BGT, len_BG, ratio=ratio)


@partial(jax.jit, static_argnames=("graphdef", "ratio"))
def write(graphdef: Any, state: Any, ctx_BT: jax.Array, len_B: jax.Array, ratio: int) -> jax.Array:
    """The vectors of a batch of segments: vec_BMD."""
    return nnx.merge(graphdef, state).compressor(ctx_BT, len_B, ratio=ratio).vec_BMD


@partial(jax.jit, static_argnames=("graphdef", "ratio"))
def place(graphdef: Any, state: Any, vec_BGMD: jax.Array, len_BG: jax.Array, ratio: int) -> Memory:
    """A batch of memories from their segments' vectors and lengths in tokens."""
    model = nnx.merge(graphdef, state)
    M, G = vec_BGMD.shape[2], len_BG.shape[1]
    places = [model.compressor.places(M, len_BG[:, g], ratio) for g in range(G)]
    seg_BGM, pos_BGM = (jnp.stack(part, axis=1) for part in zip(*places, strict=True))
    return model.place(vec_BGMD, seg_BGM, pos_BGM, model.compressor.segment)


def no_memory(memory: Memory) -> Memory:
    """The no-memory baseline: the same shapes, and nothing that the decoder may attend to."""
    return memory._replace(seg_BM=jnp.zeros_like(memory.seg_BM))


@partial(jax.jit, static_argnames=("graphdef",))
def forced(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
    other_BL: jax.Array | None = None,
) -> Forced:
    """What the decoder expects of each target token, and of `other_BL` in its place, after the
    memory and the true tokens before."""
    model = nnx.merge(graphdef, state)
    hidden_BLD, valid_BL = after_memory(model, memory, mode_B, tok_BL, len_B)
    asked = (tok_BL,) if other_BL is None else (tok_BL, other_BL)
    parts = read_off(_expectations, model, hidden_BLD, *asked)
    return Forced(*(jnp.where(valid_BL, p, 0) for p in parts))


def after_memory(
    model: Any, memory: Memory, mode_B: jax.Array, tok_BL: jax.Array, len_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The decoder's hidden_BLD from which each token of `tok_BL` is expected, and valid_BL."""
    valid_BL = jnp.arange(tok_BL.shape[1]) < len_B[:, None]
    text = _with_text(model, memory, mode_B, tok_BL, len_B)
    hidden_BSD = model.decoder(text.x_BPD, text.pos_BP, text.seg_BP, kv_override=text.kv_override)
    # The last prefix position (the marker) predicts the first token.
    L = tok_BL.shape[1]
    return hidden_BSD[:, -L - 1 : -1], valid_BL


def _with_text(
    model: Any, memory: Memory, mode_B: jax.Array, tok_BL: jax.Array, len_B: jax.Array
) -> Prefix:
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


@partial(jax.jit, static_argnames=("graphdef",))
def with_text(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
) -> Prefix:
    """The decoder's prefix with a text after the marker."""
    return _with_text(nnx.merge(graphdef, state), memory, mode_B, tok_BL, len_B)


def read_off(
    of: Callable[..., tuple[jax.Array, ...]], model: Any, hidden_BLD: jax.Array, *tok_BL: jax.Array
) -> list[jax.Array]:
    """`of(model, hidden_BLD, *tok_BL)`, a few positions at a time: a batch's logits are large."""
    B, L = tok_BL[0].shape
    size = max(1, min(L, LOGITS_ELEMENTS // (B * model.decoder.cfg.vocab_size)))
    chunks = [
        of(model, *(x[:, i : i + size] for x in (hidden_BLD, *tok_BL))) for i in range(0, L, size)
    ]
    return [jnp.concatenate(p, axis=1) for p in zip(*chunks, strict=True)]


def _expectations(
    model: Any, hidden_BLD: jax.Array, tok_BL: jax.Array, *other_BL: jax.Array
) -> tuple[jax.Array, ...]:
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(hidden_BLD), axis=-1)

    def of(tok_BL: jax.Array) -> jax.Array:
        # A gather over a sharded vocabulary would bring it to every device; a select does not.
        is_label_BLV = jnp.arange(logp_BLV.shape[-1])[None, None, :] == tok_BL[:, :, None]
        return jnp.where(is_label_BLV, logp_BLV, 0.0).sum(-1)

    nll_BL = -of(tok_BL)
    entropy_BL = -(jnp.exp(logp_BLV) * logp_BLV).sum(-1)
    best_BL = jnp.argmax(logp_BLV, axis=-1)
    found = nll_BL, entropy_BL, jnp.exp(logp_BLV.max(-1)), best_BL == tok_BL
    return *found, *map(of, other_BL)


@partial(jax.jit, static_argnames=("graphdef",))
def _prefix(graphdef: Any, state: Any, memory: Memory, mode_B: jax.Array) -> Prefix:
    return nnx.merge(graphdef, state).prefix(memory, mode_B)


def free(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    key: jax.Array,
    *,
    max_new: int,
    eos_id: int,
    temperature: float = 0.0,
    limit_B: jax.Array | None = None,
) -> Generated:
    """The decoder's own rebuilding: greedy at temperature 0, else sampled; `limit_B` is the most
    tokens of each row (default `max_new`)."""
    decoder = nnx.merge(graphdef, state).decoder
    prefix = _prefix(graphdef, state, memory, mode_B)
    return generate(
        decoder, *prefix, max_new=max_new, eos_id=eos_id, temperature=temperature, key=key,
        limit_B=limit_B,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("graphdef",))
def plain(graphdef: Any, state: Any, tok_BL: jax.Array, len_B: jax.Array) -> Prefix:
    """Text alone as the decoder's prefix: no memory, no markers, positions 0, 1, ..."""
    slot_BL = jnp.zeros_like(tok_BL) + jnp.arange(tok_BL.shape[1], dtype=jnp.int32)
    seg_BL = (slot_BL < len_B[:, None]).astype(jnp.int32)
    return Prefix(nnx.merge(graphdef, state).decoder.embed(tok_BL), slot_BL, seg_BL, len_B)


@partial(jax.jit, static_argnames=("graphdef",))
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


def until_end(tok_L: np.ndarray, eos_id: int) -> tuple[list[int], int]:
    """Tokens before the first end token, and the steps taken (the end token's included)."""
    ends = np.flatnonzero(tok_L == eos_id)
    count = int(ends[0]) if ends.size else len(tok_L)
    return [int(t) for t in tok_L[:count]], count + bool(ends.size)
