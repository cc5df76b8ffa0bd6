"""Objective `distil`: continue from the memory as the decoder continues from the whole text.

The teacher is the frozen decoder itself, reading the text as plain tokens from position 0 (no
memory, no markers) and then the continuation. At every token of the continuation the student, who
has only the memory, is pulled towards the teacher's distribution over the next token: KL(teacher ||
student) in nats (Hinton et al. 2015 at temperature 1; as context distillation, Snell et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.runtime.sharding import SPECS, constrain
from jaxcomp.training.loss import MemoryObjective, SumObjective, Terms, chunked, logits, token_nll


@dataclass(frozen=True)
class DistilObjective(SumObjective):
    """p_reconstruct * (mean nats of rebuilding) + (1 - p) * (mean KL of continuing).

    Batches hold both targets of every example (O = 2), rebuilding first. The KL is of examples with
    a memory and a text: one whose memory is dropped (`p_blank`) could only be taught to guess what
    the text says, and without a text there is no teacher. Metrics: those of
    `MemoryObjective` (of continuing too: its nats by the true tokens), and `kl_continue`.
    """

    def labels(self, batch: Any) -> jax.Array:
        return jnp.where(taught(batch) | (batch.mode_BO == 0), batch.tok_len_BO, 0)

    def terms(self, model: AutoEncoder, batch: Any, weights: Any, dropout_key: Any) -> Terms:
        targets = self.targets(model, batch, dropout_key)
        head_VD = model.decoder.head_VD()
        nll_RL, hit_RL = token_nll(targets.hidden_RLD, head_VD, targets.label_RL, chunk=self.chunk)
        valid_RL = targets.valid_RL.astype(jnp.float32)
        two = partial(_pairs, rows=batch.tok_len_BO.shape[0])
        nll_BO, hit_BO, count_BO = (
            two(jnp.sum(x_RL, axis=1)) for x_RL in (nll_RL * valid_RL, hit_RL * valid_RL, valid_RL)
        )
        valid_BL = two(valid_RL)[:, 1] * taught(batch)
        kl_BL = token_kl(
            two(targets.hidden_RLD)[:, 1], teacher(model, batch), head_VD, chunk=self.chunk
        )
        kl_B = jnp.sum(kl_BL * valid_BL, axis=1)
        loss = jnp.sum(nll_BO[:, 0] * weights[:, 0]) + jnp.sum(kl_B * weights[:, 1])
        sums = [loss]
        for o in (0, 1):
            sums += [jnp.sum(x_BO[:, o]) for x_BO in (nll_BO, hit_BO, count_BO)]
        return Terms(loss, jnp.stack([*sums, jnp.sum(kl_B), jnp.sum(valid_BL)]))

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]:
        return super().metrics(sums_K[:7]) | {"kl_continue": sums_K[7] / sums_K[8]}

    def by_labels(self) -> MemoryObjective:
        """Continuing counts the labels of every example there, taught or not."""
        return SumObjective(
            self.ratio, self.p_reconstruct, self.remat, self.chunk, self.word_dropout
        )


def taught(batch: Any) -> jax.Array:
    """Examples with a text that the teacher can read and a memory of it (bool, B x 1)."""
    len_B1 = constrain(batch.tok_len_BO[:, :1], "batch")
    return (len_B1 > 1) & (jnp.sum(batch.ctx_len_BG, 1, keepdims=True) > 0)


def teacher(model: AutoEncoder, batch: Any) -> jax.Array:
    """hidden_BLD: the decoder's states that predict each token of the continuation after the whole
    text. No gradient goes through them. Rows without a text hold nothing of meaning."""
    text_BL, follow_BL = batch.tok_BOL[:, 0], batch.tok_BOL[:, 1]
    L = text_BL.shape[1]
    # The end token is no part of the text.
    read_B1 = constrain(batch.tok_len_BO[:, :1], "batch") - 1
    slot_L = jnp.arange(L, dtype=jnp.int32)
    with jax.named_scope("teacher"):
        tok_BS = jnp.concatenate([text_BL, follow_BL[:, :-1]], axis=1)
        seg_BS = jnp.concatenate(
            [slot_L < read_B1, slot_L[:-1] < constrain(batch.tok_len_BO[:, 1:], "batch") - 1],
            axis=1,
        ).astype(jnp.int32)
        zero_B1 = 0 * read_B1
        pos_BS = jnp.concatenate([slot_L + zero_B1, slot_L[:-1] + read_B1], axis=1)
        hidden_BSD = model.decoder(model.decoder.embed(tok_BS), pos_BS, seg_BS, packed=False)
        # The last token of the text predicts the first that follows; a product, not a gather.
        last_BL = (slot_L == read_B1 - 1).astype(hidden_BSD.dtype)
        last_BD = jnp.einsum("BL,BLD->BD", last_BL, hidden_BSD[:, :L])
        return jax.lax.stop_gradient(jnp.concatenate([last_BD[:, None], hidden_BSD[:, L:]], axis=1))


def token_kl(
    student_BLD: jax.Array, teacher_BLD: jax.Array, head_VD: jax.Array, *, chunk: int = 0
) -> jax.Array:
    """KL(teacher || student) of the next-token distributions, nats, float32 (B x L).

    `chunk` as in `token_nll`.
    """
    head_VD = constrain(head_VD.astype(student_BLD.dtype), "table_VD")
    (kl_BL,) = chunked(partial(_kl, head_VD), (student_BLD, teacher_BLD), chunk)
    return kl_BL


def _kl(head_VD: jax.Array, student_BLD: jax.Array, teacher_BLD: jax.Array) -> tuple[jax.Array]:
    with jax.named_scope("distillation"):
        mine_BLV, told_BLV = (
            jax.nn.log_softmax(logits(head_VD, x_BLD), axis=-1)
            for x_BLD in (student_BLD, teacher_BLD)
        )
        told_BLV = jax.lax.stop_gradient(told_BLV)
        return (jnp.sum(jnp.exp(told_BLV) * (told_BLV - mine_BLV), axis=-1),)


def _pairs(x_R: jax.Array, *, rows: int) -> jax.Array:
    """Rows b * 2 + o -> [b, o]."""
    return jnp.reshape(x_R, (rows, 2, *x_R.shape[1:]), out_sharding=SPECS["batch"])
