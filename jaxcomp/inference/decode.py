"""What the decoder makes of a batch of memories: teacher-forced likelihoods and greedy text.

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
from jaxcomp.models.generate import Generated, generate

LOGITS_ELEMENTS = 2**26  # most float32 logits that exist at once (256 MB)


class Forced(NamedTuple):
    """Teacher-forced, one value a target token (0 where there is none); entropy and nll in nats."""

    nll_BL: jax.Array
    entropy_BL: jax.Array
    top1_BL: jax.Array
    correct_BL: jax.Array


@partial(jax.jit, static_argnames=("graphdef", "ratio"))
def read(graphdef: Any, state: Any, ctx_BGT: jax.Array, len_BG: jax.Array, ratio: int) -> Memory:
    """The memory of a batch of contexts."""
    return nnx.merge(graphdef, state).memory(ctx_BGT, len_BG, ratio=ratio)


def no_memory(memory: Memory) -> Memory:
    """The floor: the same shapes, and nothing that the decoder may attend to."""
    return memory._replace(seg_BM=jnp.zeros_like(memory.seg_BM))


@partial(jax.jit, static_argnames=("graphdef",))
def forced(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
) -> Forced:
    """What the decoder expects of each target token after the memory and the true tokens before."""
    model = nnx.merge(graphdef, state)
    hidden_BLD, valid_BL = after_memory(model, memory, mode_B, tok_BL, len_B)
    parts = read_off(_expectations, model, hidden_BLD, tok_BL)
    return Forced(*(jnp.where(valid_BL, p, 0) for p in parts))


def after_memory(
    model: Any, memory: Memory, mode_B: jax.Array, tok_BL: jax.Array, len_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The decoder's hidden_BLD from which each token of `tok_BL` is expected, and valid_BL."""
    x_BPD, pos_BP, seg_BP, start_pos_B, kv_override = model.prefix(memory, mode_B)
    P, L = x_BPD.shape[1], tok_BL.shape[1]
    valid_BL = jnp.arange(L)[None, :] < len_B[:, None]
    x_BSD = jnp.concatenate([x_BPD, model.decoder.embed(tok_BL).astype(x_BPD.dtype)], axis=1)
    pos_BS = jnp.concatenate([pos_BP, start_pos_B[:, None] + jnp.arange(L)[None, :]], axis=1)
    seg_BS = jnp.concatenate([seg_BP, valid_BL.astype(seg_BP.dtype)], axis=1)
    # The last prefix position (the marker) predicts the first token.
    hidden_BSD = model.decoder(x_BSD, pos_BS, seg_BS, kv_override=kv_override)
    return hidden_BSD[:, P - 1 : P - 1 + L], valid_BL


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


def _expectations(model: Any, hidden_BLD: jax.Array, tok_BL: jax.Array) -> Forced:
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(hidden_BLD), axis=-1)
    # A gather over a sharded vocabulary would bring it to every device; a select does not.
    is_label_BLV = jnp.arange(logp_BLV.shape[-1])[None, None, :] == tok_BL[:, :, None]
    nll_BL = -jnp.where(is_label_BLV, logp_BLV, 0.0).sum(-1)
    entropy_BL = -(jnp.exp(logp_BLV) * logp_BLV).sum(-1)
    best_BL = jnp.argmax(logp_BLV, axis=-1)
    return Forced(nll_BL, entropy_BL, jnp.exp(logp_BLV.max(-1)), best_BL == tok_BL)


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


def until_end(tok_L: np.ndarray, eos_id: int) -> tuple[list[int], int]:
    """Tokens before the first end token, and the steps taken (the end token's included)."""
    ends = np.flatnonzero(tok_L == eos_id)
    count = int(ends[0]) if ends.size else len(tok_L)
    return [int(t) for t in tok_L[:count]], count + bool(ends.size)
