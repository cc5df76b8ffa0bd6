"""Batched greedy and sampled generation: one prefill, then one jitted loop over a donated cache."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.models.block import KVOverride
from jaxcomp.models.model import Cache, Transformer
from jaxcomp.runtime.sharding import constrain


class Generated(NamedTuple):
    """L = max_new. Row b ended by itself iff len_B[b] is below its limit.

    tok_BL: tokens, `eos_id` from the end on. len_B: tokens before the end token.
    entropy_BL: Shannon entropy (nats) of the softmax at temperature 1 from which token l was taken;
    top1_BL: the largest probability of that softmax. Both are 0 after the step that ended the row.
    """

    tok_BL: jax.Array
    len_B: jax.Array
    entropy_BL: jax.Array
    top1_BL: jax.Array


class Read(NamedTuple):
    """A prefix that was read: the logits of what follows, keys and values with room for it, its
    segment id and the position id of its first token."""

    logits_BV: jax.Array
    cache: Cache
    seg_B1: jax.Array
    start_pos_B: jax.Array


class State(NamedTuple):
    """Of the loop: `step` tokens are in `out`; `logits_BV` are those of the next one."""

    step: jax.Array
    done_B: jax.Array
    logits_BV: jax.Array
    cache: Cache
    out: Generated


def generate(
    model: Transformer,
    prefix_BPD: jax.Array,
    pos_BP: jax.Array,
    seg_BP: jax.Array,
    start_pos_B: jax.Array,
    kv_override: KVOverride | None = None,
    *,
    max_new: int,
    **options: Any,
) -> Generated:
    """Continues each row after the last valid (seg > 0) place of its prefix of embeddings.

    Padding may stand anywhere in the prefix; `kv_override` are keys and values of places in it,
    instead of the model's own. New tokens take positions start_pos_B, start_pos_B+1, ... and the
    segment id of that last valid place; `options` as of `resume`. Calls of equal shapes, whatever
    the weights, eos_id, temperature, key or limits, compile once.
    """
    prefix = prefix_BPD, pos_BP, seg_BP, start_pos_B, kv_override
    return resume(model, read(model, *prefix, room=max_new), max_new=max_new, **options)


def read(
    model: Transformer,
    prefix_BPD: jax.Array,
    pos_BP: jax.Array,
    seg_BP: jax.Array,
    start_pos_B: jax.Array,
    kv_override: KVOverride | None = None,
    *,
    room: int,
) -> Read:
    """A prefix as of `generate`, for `room` tokens after it at most."""
    graphdef, weights = nnx.split(model)
    logits_BV, cache, seg_B1 = _prefill(
        graphdef, weights, prefix_BPD, pos_BP, seg_BP, kv_override, room
    )
    return Read(logits_BV, cache, seg_B1, jnp.asarray(start_pos_B))


def resume(
    model: Transformer,
    found: Read,
    *,
    max_new: int,
    eos_id: int,
    temperature: float = 0.0,
    key: jax.Array | None = None,
    first_tok: jax.Array | None = None,
    limit_B: jax.Array | None = None,
) -> Generated:
    """Continue a prefix that was read, which this uses up: its cache is written over.

    Args:
        max_new: tokens at most, at most the room it was read with; stops early when all rows have
            ended or reached their limit.
        temperature: 0 takes the likeliest token; above, tokens are sampled with `key` from
            softmax(logits / temperature).
        first_tok: one token a row, forced as the first; its entropy is still reported.
        limit_B: the most tokens of each row (default and at most max_new).

    Raises ValueError where max_new < 1, temperature < 0, or sampling lacks a key.
    """
    if max_new < 1:
        raise ValueError(f"max_new is {max_new}, expected at least 1")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy) or more")
    if temperature > 0 and key is None:
        raise ValueError(f"temperature is {temperature} but key is None: sampling needs a key")
    graphdef, weights = nnx.split(model)
    forced_B = jnp.full(found.seg_B1.shape[:1], -1) if first_tok is None else first_tok
    out, _ = _decode(
        graphdef,
        weights,
        *found,
        jnp.asarray(forced_B),
        jnp.full_like(forced_B, max_new) if limit_B is None else jnp.asarray(limit_B),
        jnp.int32(eos_id),
        jnp.float32(temperature or 1.0),
        jax.random.key(0) if key is None else key,
        max_new=max_new,
        sample=temperature > 0,
    )
    return out


@functools.partial(jax.jit, static_argnames=("graphdef", "max_new"))
def _prefill(
    graphdef: nnx.GraphDef[Transformer],
    weights: nnx.State,
    prefix_BPD: jax.Array,
    pos_BP: jax.Array,
    seg_BP: jax.Array,
    kv_override: KVOverride | None,
    max_new: int,
) -> tuple[jax.Array, Cache, jax.Array]:
    model = nnx.merge(graphdef, weights)
    P = prefix_BPD.shape[1]
    hidden_BPD, cache = model.prefill(prefix_BPD, pos_BP, seg_BP, P + max_new, kv_override)
    # A row without any valid place (an empty row that fills a batch) continues from place 0.
    last_B1 = jnp.max(jnp.where(seg_BP > 0, jnp.arange(P), 0), axis=1, keepdims=True)
    last_B1 = constrain(last_B1, "batch")
    # A select, not a gather: take_along_axis loses the layout of a batch of one row.
    hot_BP = jnp.arange(seg_BP.shape[1]) == last_B1
    hidden_B1D = jnp.sum(jnp.where(hot_BP[:, :, None], hidden_BPD, 0), axis=1, keepdims=True)
    seg_B1 = jnp.sum(jnp.where(hot_BP, constrain(seg_BP, "batch"), 0), axis=1, keepdims=True)
    return model.unembed(hidden_B1D)[:, 0], cache, seg_B1


# The cache goes in and out so that its buffers are donated: the loop then writes in place.
@functools.partial(
    jax.jit, static_argnames=("graphdef", "max_new", "sample"), donate_argnames=("cache",)
)
def _decode(
    graphdef: nnx.GraphDef[Transformer],
    weights: nnx.State,
    logits_BV: jax.Array,
    cache: Cache,
    seg_B1: jax.Array,
    start_pos_B: jax.Array,
    forced_B: jax.Array,
    limit_B: jax.Array,
    eos_id: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
    *,
    max_new: int,
    sample: bool,
) -> tuple[Generated, Cache]:
    model = nnx.merge(graphdef, weights)
    B = logits_BV.shape[0]
    start_pos_B, forced_B = constrain(start_pos_B, "batch"), constrain(forced_B, "batch")
    limit_B = constrain(limit_B, "batch")

    def choose(state: State) -> jax.Array:
        if sample:
            step_key = jax.random.fold_in(key, state.step)
            noise_BV = jax.random.gumbel(step_key, state.logits_BV.shape)
            layout = jax.typeof(state.logits_BV).sharding.spec
            scores_BV = state.logits_BV / temperature + jax.reshard(noise_BV, layout)
        else:
            scores_BV = state.logits_BV
        tok_B = constrain(jnp.argmax(_whole_rows(scores_BV), axis=-1), "batch")
        return jnp.where((state.step == 0) & (forced_B >= 0), forced_B, tok_B)

    def body(state: State) -> State:
        tok_B = jnp.where(state.done_B, eos_id, choose(state)).astype(jnp.int32)
        entropy_B, top1_B = _sharpness(_whole_rows(state.logits_BV))
        live_B = ~state.done_B
        ended_B = state.done_B | (tok_B == eos_id)
        done_B = ended_B | (state.step + 1 >= limit_B)
        out = Generated(
            _write(state.out.tok_BL, tok_B, state.step),
            state.out.len_B + ~ended_B,
            _write(state.out.entropy_BL, jnp.where(live_B, entropy_B, 0), state.step),
            _write(state.out.top1_BL, jnp.where(live_B, top1_B, 0), state.step),
        )
        pos_B1 = (start_pos_B + state.step)[:, None]
        hidden_B1D, cache = model.step(model.embed(tok_B[:, None]), pos_B1, seg_B1, state.cache)
        logits_BV = model.unembed(hidden_B1D)[:, 0]
        return State(state.step + 1, done_B, logits_BV, cache, out)

    def unfinished(state: State) -> jax.Array:
        return (state.step < max_new) & ~jnp.all(state.done_B)

    zeros_BL = constrain(jnp.zeros((B, max_new), jnp.float32), "batch")
    zeros_B = constrain(jnp.zeros(B, jnp.int32), "batch")
    tok_BL = constrain(jnp.full((B, max_new), eos_id, jnp.int32), "batch")
    start = State(
        jnp.int32(0),
        limit_B < 1,
        logits_BV,
        cache,
        Generated(tok_BL, zeros_B, zeros_BL, zeros_BL),
    )
    end = jax.lax.while_loop(unfinished, body, start)
    return end.out, end.cache


def _whole_rows(x_BV: jax.Array) -> jax.Array:
    """Each row's vocabulary on one device: its argmax and sums cross no shards then."""
    return constrain(x_BV, "batch")


def _sharpness(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Entropy in nats and largest probability of each row's softmax."""
    logp_BV = jax.nn.log_softmax(logits_BV)
    return -jnp.sum(jnp.exp(logp_BV) * logp_BV, axis=-1), jnp.exp(jnp.max(logp_BV, axis=-1))


def _write(x_BL: jax.Array, column_B: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(x_BL, column_B[:, None].astype(x_BL.dtype), (0, at))
