"""Memory tokens among the text: one after every `ratio` tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcomp.compress.memory import Compressor, Segments, Slot, reshape


class Interleave(Compressor):
    """Kind `interleave` (recipe `pisco`): a learned memory token after every `ratio` tokens.

    S = T + M slots: ratio tokens, memory token 1, ratio tokens, memory token 2, ... Attention is
    causal, so memory token m sees the tokens of its block and of those before, and the earlier
    memory tokens; later tokens see it. In a block of t < ratio valid tokens it stands after the
    padding, which it never sees. Position ids in the compressor: `spread`: a token's are its
    index, a memory token has that of its block's last token; `consecutive`: valid slots are
    numbered as they come. The last states of the memory tokens are read out.
    """

    def places(self, M: int, len_B: jax.Array, ratio: int) -> tuple[jax.Array, jax.Array]:
        seg_BM, pos_BM = super().places(M, len_B, ratio)
        if self.positions == "consecutive":
            slot_M = jnp.arange(M, dtype=jnp.int32)
            pos_BM = jnp.minimum((slot_M + 1) * ratio, len_B[:, None]) + slot_M
        return seg_BM, pos_BM

    @classmethod
    def reads(cls, text_T: list[Slot], memory_M: list[Slot]) -> list[Slot]:
        block = len(text_T) // len(memory_M)
        each = ((*text_T[m * block :][:block], memory) for m, memory in enumerate(memory_M))
        return [slot for part in each for slot in part]

    def states(self, rows: Segments, remat: str, dropout_key: jax.Array | None) -> jax.Array:
        ratio, (B, M) = rows.ratio, rows.seg_BM.shape
        pos_BT = rows.slot_BT
        if self.positions == "consecutive":
            pos_BT = pos_BT + pos_BT // ratio

        def woven(x_BT: jax.Array, end_BM: jax.Array) -> jax.Array:
            """Each block of `ratio` slots, then its memory token's."""
            more = x_BT.shape[2:]
            x_BMR, end_BM1 = reshape(x_BT, B, M, ratio, *more), reshape(end_BM, B, M, 1, *more)
            return reshape(jnp.concatenate([x_BMR, end_BM1], axis=2), B, M * (ratio + 1), *more)

        hidden_BSE = self.llm(
            woven(self.llm.embed(rows.ctx_BT), self.tokens_of(rows)),
            woven(pos_BT, rows.pos_BM),
            woven(rows.seg_BT, rows.seg_BM),
            remat=remat,
            packed=False,
            dropout_key=dropout_key,
        )
        return reshape(hidden_BSE, B, M, ratio + 1, hidden_BSE.shape[2])[:, :, ratio]
