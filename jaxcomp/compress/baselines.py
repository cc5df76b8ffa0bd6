"""Untrained memories for the same decoder, as baselines of a trained compressor.

Each is a pair without a compressor. Its `memory` reads *decoder* tokens, so that
`evals.evaluate(cfg, Baseline("lead", pair), dec_tok, dec_tok)` measures it as any other pair:
the decoder's tokenizer is given in both places. The budget of a text is that of a compressor at the
same ratio: K = sum over segments of ceil(t / ratio) vectors, t in decoder tokens.

    nothing   no vector: the no-memory baseline of each evaluation
    lead      the embeddings of the first K tokens: truncation
    strided   of K tokens at equal distances: the floor((2 m + 1) n / 2 K)-th of n, m = 0 .. K - 1
    random    of K tokens drawn without replacement, in their order
    mean      of each block of `ratio` tokens the mean of their embeddings (K vectors)
    full      the embeddings of every token: ratio 1

Vectors are embeddings as they are, never scaled: the mean of r unrelated ones is about r ** -0.5
as far from the mean embedding as one of them. Positions `spread`: a token's vector stands at its
own place in the text, that of a block at its last token's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.compress.memory import Memory, reshape
from jaxcomp.compress.pool import block_means
from jaxcomp.config import ConfigError
from jaxcomp.runtime.sharding import constrain

BASELINES = ("nothing", "lead", "strided", "random", "mean", "full")


class Plain(AutoEncoder):
    """A pair without a compressor: decoder, markers and layout are those of `pair`."""

    def __init__(self, pair: AutoEncoder):
        nnx.Module.__init__(self)
        self.decoder = pair.decoder
        self.markers_4D = pair.markers_4D
        self.positions = pair.positions

    def _text(self, ctx_BGT: jax.Array, len_BG: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens of all segments in a row, and 1 where there is one: tok_BS, seg_BS."""
        B, G, T = ctx_BGT.shape
        seg_BGT = (jnp.arange(T, dtype=jnp.int32) < len_BG[:, :, None]).astype(jnp.int32)
        return reshape(ctx_BGT, B, G * T), reshape(seg_BGT, B, G * T)

    def _placed(self, vec_BMD: jax.Array, seg_BM: jax.Array, at_BM: jax.Array, S: int) -> Memory:
        """Vectors for places `at_BM` of a text of S slots."""
        vec_BMD = vec_BMD.astype(jnp.float32) * seg_BM[:, :, None]
        return self.place(vec_BMD[:, None], seg_BM[:, None], at_BM[:, None], S)


class Baseline(Plain):
    """One of BASELINES for the decoder of `pair`; `seed` draws the tokens of `random`.

    Raises ConfigError for an unknown name.
    """

    def __init__(self, name: str, pair: AutoEncoder, *, seed: int = 0):
        super().__init__(pair)
        if name not in BASELINES:
            known = ", ".join(BASELINES)
            raise ConfigError(f"baseline {name!r} is unknown; expected one of: {known}")
        self.name, self.seed = name, seed

    def memory(
        self,
        ctx_BGT: jax.Array,
        len_BG: jax.Array,
        *,
        ratio: int,
        remat: str = "none",
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """As `AutoEncoder.memory`, of decoder tokens."""
        tok_BS, seg_BS = self._text(ctx_BGT, len_BG)
        S = tok_BS.shape[1]
        slot_BS = jnp.zeros_like(tok_BS) + jnp.arange(S, dtype=jnp.int32)
        if self.name == "full":
            return self._placed(self.decoder.embed(tok_BS), seg_BS, slot_BS, S)
        block_BM, last_BM = blocks(seg_BS, ratio)
        if self.name == "mean":
            mean_BMD = block_means(self.decoder.embed(tok_BS), seg_BS, ratio)
            return self._placed(mean_BMD, block_BM, last_BM, S)
        budget_B1 = jnp.sum(block_BM, axis=1, keepdims=True)
        if self.name == "nothing":
            budget_B1 = 0 * budget_B1
        M = block_BM.shape[1]
        keep_BS = self._kept(seg_BS, budget_B1, M)
        hot_BMS = picks(keep_BS, M)
        seg_BM = jnp.sum(hot_BMS, axis=2)
        vec_BMD = self.decoder.embed(jnp.sum(hot_BMS * tok_BS[:, None], axis=2))
        return self._placed(vec_BMD, seg_BM, jnp.sum(hot_BMS * slot_BS[:, None], axis=2), S)

    def _kept(self, seg_BS: jax.Array, budget_B1: jax.Array, M: int) -> jax.Array:
        """1 for the `budget` tokens of each row that are taken."""
        rank_BS = jnp.cumsum(seg_BS, axis=1) - 1  # of a valid token: how many stand before it
        if self.name == "strided":
            count_B1 = jnp.sum(seg_BS, axis=1, keepdims=True)
            slot_M = jnp.arange(M, dtype=jnp.int32)
            want_BM = (2 * slot_M + 1) * count_B1 // jnp.maximum(2 * budget_B1, 1)
            want_BM = jnp.where(slot_M < budget_B1, want_BM, -1)
            chosen_BS = jnp.any(rank_BS[:, :, None] == want_BM[:, None, :], axis=2)
        else:
            if self.name == "random":
                # The same draw for every row, so that a row does not depend on its place.
                draw_S = jax.random.uniform(jax.random.key(self.seed), seg_BS.shape[1:])
                before_SS = (draw_S[None, :] < draw_S[:, None]).astype(jnp.int32)
                rank_BS = jnp.einsum("ST,BT->BS", before_SS, seg_BS)
            chosen_BS = rank_BS < budget_B1
        return constrain(chosen_BS.astype(jnp.int32) * seg_BS, "batch")


def blocks(seg_BS: jax.Array, ratio: int) -> tuple[jax.Array, jax.Array]:
    """Of each block of `ratio` slots: 1 where any is valid, and the last valid one (else 0)."""
    B, S = seg_BS.shape
    after_BS = seg_BS * (jnp.arange(S, dtype=jnp.int32) + 1)
    last_BM = jnp.max(reshape(after_BS, B, S // ratio, ratio), axis=2)
    return (last_BM > 0).astype(jnp.int32), jnp.maximum(last_BM - 1, 0)


def picks(keep_BS: jax.Array, M: int) -> jax.Array:
    """hot_BMS int32: row m points at the m-th kept slot (all zero beyond them)."""
    order_BS = jnp.cumsum(keep_BS, axis=1) - 1
    hot_BMS = order_BS[:, None, :] == jnp.arange(M, dtype=jnp.int32)[:, None]
    return hot_BMS.astype(jnp.int32) * keep_BS[:, None, :]
