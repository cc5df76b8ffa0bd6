"""Cross-entropy, and the objectives built on it.

A loss is sum(weight * nll) with weights that already hold 1 / (global count), so gradients of
micro-batches, and of devices, add up to the gradient of sum / sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp

from jaxcomp.compress.autoencoder import AutoEncoder, Targets
from jaxcomp.config import Config, TrainConfig
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.registry import implementation
from jaxcomp.runtime.sharding import SPECS, constrain


class Terms(NamedTuple):
    """What a micro-batch adds. `loss` is differentiated; `sums_K` are only added up (see the
    objective's `metrics`)."""

    loss: jax.Array
    sums_K: jax.Array


class Objective(Protocol):
    """A hashable description of a loss: it is a static argument of the compiled step."""

    def weights(self, batch: Any) -> Any:
        """Weight of each label, from the whole batch (float32)."""
        ...

    def terms(self, model: Any, batch: Any, weights: Any, dropout_key: Any) -> Terms: ...

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]: ...

    def tokens(self, batch: Any) -> jax.Array:
        """Tokens of the batch that are not padding (int32)."""
        ...


def token_nll(
    hidden_BLD: jax.Array, head_VD: jax.Array, label_BL: jax.Array, *, chunk: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood of each label in nats, and whether it was the most likely token.

    Args:
        hidden_BLD: states that predict label_BL, position by position.
        head_VD: output matrix.
        chunk: positions whose logits exist at a time (recomputed in the backward pass); 0 = all.

    Returns:
        (nll_BL float32, hit_BL float32 0 or 1; a tie counts as a hit).
    """
    # Once, not once a chunk; its gradient is added up here before it goes back to its shards.
    head_VD = constrain(head_VD.astype(hidden_BLD.dtype), "table_VD")
    nll_BL, hit_BL = chunked(partial(_nll, head_VD), (hidden_BLD, label_BL), chunk)
    return nll_BL, hit_BL


def chunked(
    of: Callable[..., tuple[jax.Array, ...]], xs: Sequence[jax.Array], chunk: int
) -> tuple[jax.Array, ...]:
    """`of(*xs)`, whose results are B x L, over `chunk` positions of axis 1 at a time, recomputed in
    the backward pass; 0: all at once."""
    L = xs[0].shape[1]
    if chunk <= 0 or chunk >= L:
        return of(*xs)

    def chunks(x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [C, B, chunk, ...]."""
        x = jnp.pad(x, ((0, 0), (0, -L % chunk), *[(0, 0)] * (x.ndim - 2)))
        shape = (x.shape[0], x.shape[1] // chunk, chunk, *x.shape[2:])
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=SPECS["batch"]), 1, 0)

    def join(x_CBL: jax.Array) -> jax.Array:
        x_BCL = jnp.moveaxis(x_CBL, 0, 1)
        shape = (x_BCL.shape[0], -1)
        return jnp.reshape(x_BCL, shape, out_sharding=SPECS["batch"])[:, :L]

    def body(carry: None, parts: tuple[jax.Array, ...]):
        return carry, of(*parts)

    _, found = jax.lax.scan(jax.checkpoint(body), None, tuple(map(chunks, xs)))
    return tuple(map(join, found))


def logits(head_VD: jax.Array, hidden_BLD: jax.Array) -> jax.Array:
    """Float32 logits (B x L x V); `head_VD` in the dtype of the states."""
    return jnp.einsum(
        "BLD,VD->BLV",
        hidden_BLD,
        head_VD,
        preferred_element_type=jnp.float32,
        out_sharding=SPECS["logits_BLV"],
    )


def _nll(
    head_VD: jax.Array, hidden_BLD: jax.Array, label_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    with jax.named_scope("cross_entropy"):
        logits_BLV = logits(head_VD, hidden_BLD)
        top_BL = jax.lax.stop_gradient(jnp.max(logits_BLV, axis=-1))
        # A select over the vocabulary, not a gather: it also works where V is sharded.
        is_label = jnp.arange(logits_BLV.shape[-1]) == label_BL[:, :, None]
        label_logit_BL = jnp.sum(jnp.where(is_label, logits_BLV, 0.0), axis=-1)
        total_BL = jnp.sum(jnp.exp(logits_BLV - top_BL[:, :, None]), axis=-1)
        nll_BL = jnp.log(total_BL) + top_BL - label_logit_BL
        return nll_BL, (label_logit_BL >= top_BL).astype(jnp.float32)


@dataclass(frozen=True)
class LmObjective:
    """Next-token prediction on packed documents (`data.batches.LmBatch`).

    A token is a label where it and the token before it are of the same document.
    Metrics: `loss` nats/token, `accuracy` share of labels that were the most likely token.
    """

    remat: str = "none"
    chunk: int = 0

    def weights(self, batch: Any) -> jax.Array:
        valid_BL = self._valid(batch).astype(jnp.float32)
        return valid_BL / jnp.maximum(jnp.sum(valid_BL), 1.0)

    def terms(self, model: Transformer, batch: Any, weights: jax.Array, dropout_key: Any) -> Terms:
        seg_BL, pos_BL = batch.seg_BL[:, :-1], batch.pos_BL[:, :-1]
        emb_BLD = model.embed(batch.tok_BL[:, :-1])
        hidden_BLD = model(emb_BLD, pos_BL, seg_BL, remat=self.remat, dropout_key=dropout_key)
        nll_BL, hit_BL = token_nll(
            hidden_BLD, model.head_VD(), batch.tok_BL[:, 1:], chunk=self.chunk
        )
        valid_BL = self._valid(batch).astype(jnp.float32)
        sums = [jnp.sum(nll_BL * valid_BL), jnp.sum(hit_BL * valid_BL), jnp.sum(valid_BL)]
        return Terms(jnp.sum(nll_BL * weights), jnp.stack(sums))

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]:
        count = jnp.maximum(sums_K[2], 1.0)
        return {"loss": sums_K[0] / count, "accuracy": sums_K[1] / count}

    def tokens(self, batch: Any) -> jax.Array:
        return jnp.sum((batch.seg_BL > 0).astype(jnp.int32))

    @staticmethod
    def _valid(batch: Any) -> jax.Array:
        return (batch.seg_BL[:, 1:] == batch.seg_BL[:, :-1]) & (batch.seg_BL[:, 1:] > 0)


@dataclass(frozen=True)
class MemoryObjective:
    """`coin`: rebuild the text or continue it, from its memory (`data.batches.Batch`).

    The mean over all labels of the batch. Every objective is a subclass; its row in
    `data.objectives` says what its batches hold. Metrics: `loss` as differentiated, and for each
    mode its nats/token and accuracy (NaN where the batch has none of that mode).
    """

    ratio: int
    p_reconstruct: float = 0.5
    remat: str = "none"
    chunk: int = 0
    word_dropout: float = 0.0

    @classmethod
    def of(cls, train: TrainConfig, ratio: int) -> Self:
        """The objective that a config asks for, at a ratio."""
        return cls(ratio, train.p_reconstruct, train.remat, train.loss_chunk, train.word_dropout)

    @property
    def shares(self) -> dict[int, float] | None:
        """What the mean over each mode's labels weighs in the loss; None: one mean over all."""
        return None

    def weights(self, batch: Any) -> jax.Array:
        """Weight of each label of a target row, shape B, O."""
        count_BO = self.labels(batch).astype(jnp.float32)
        if self.shares is None:
            return jnp.ones_like(count_BO) / jnp.maximum(jnp.sum(count_BO), 1.0)
        weight_BO = jnp.zeros_like(count_BO)
        for mode, share in self.shares.items():
            mine_BO = (batch.mode_BO == mode).astype(jnp.float32)
            weight_BO += mine_BO * share / jnp.maximum(jnp.sum(count_BO * mine_BO), 1.0)
        return weight_BO

    def labels(self, batch: Any) -> jax.Array:
        """Labels of each target that the loss is a mean over, shape B, O."""
        return batch.tok_len_BO

    def targets(self, model: AutoEncoder, batch: Any, dropout_key: Any) -> Targets:
        """The decoder's states at every label of the batch."""
        return model.targets(
            batch.ctx_BGT,
            batch.ctx_len_BG,
            batch.tok_BOL,
            batch.tok_len_BO,
            batch.mode_BO,
            ratio=self.ratio,
            remat=self.remat,
            word_dropout=self.word_dropout,
            dropout_key=dropout_key,
        )

    def terms(self, model: AutoEncoder, batch: Any, weights: jax.Array, dropout_key: Any) -> Terms:
        targets = self.targets(model, batch, dropout_key)
        nll_RL, hit_RL = token_nll(
            targets.hidden_RLD, model.decoder.head_VD(), targets.label_RL, chunk=self.chunk
        )
        valid_RL = self.scored(targets, batch).astype(jnp.float32)
        nll_R = jnp.sum(nll_RL * valid_RL, axis=1)
        hit_R, count_R = jnp.sum(hit_RL * valid_RL, axis=1), jnp.sum(valid_RL, axis=1)
        flat = partial(jnp.reshape, shape=nll_R.shape, out_sharding=SPECS["batch"])
        loss = jnp.sum(nll_R * flat(weights))
        mode_R = flat(batch.mode_BO)
        sums = [loss]
        for mode in (0, 1):
            mine_R = (mode_R == mode).astype(jnp.float32)
            sums += [jnp.sum(x_R * mine_R) for x_R in (nll_R, hit_R, count_R)]
        return Terms(loss, jnp.stack([*sums, *self.more(hit_R, count_R, mode_R)]))

    def scored(self, targets: Targets, batch: Any) -> jax.Array:
        """The labels that carry loss (R x L, bool)."""
        return targets.valid_RL

    def more(self, hit_R: jax.Array, count_R: jax.Array, mode_R: jax.Array) -> list[jax.Array]:
        """Further sums, of each target's labels that were the likeliest, its labels and mode."""
        return []

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]:
        loss, nll0, hit0, count0, nll1, hit1, count1 = sums_K
        return {
            "loss": loss,
            "loss_rebuild": nll0 / count0,
            "loss_continue": nll1 / count1,
            "accuracy_rebuild": hit0 / count0,
            "accuracy_continue": hit1 / count1,
        }

    def tokens(self, batch: Any) -> jax.Array:
        return jnp.sum(batch.ctx_len_BG) + jnp.sum(batch.tok_len_BO)

    def by_labels(self) -> MemoryObjective:
        """The objective whose loss is made of the labels' nats alone, with the same weights."""
        return self

    @staticmethod
    def validated(
        cfg: Config, model: AutoEncoder, toks: tuple[Tokenizer, Tokenizer]
    ) -> dict[str, float | int | None]:
        """Further numbers of a trained pair on the validation set, under the active mesh; a run's
        summary holds them as val_<name>."""
        return {}


@dataclass(frozen=True)
class SumObjective(MemoryObjective):
    """`sum`: p_reconstruct * (mean over labels of rebuilding) + (1 - p) * (mean of continuing)."""

    @property
    def shares(self) -> dict[int, float]:
        return {0: self.p_reconstruct, 1: 1.0 - self.p_reconstruct}


def objective_of(train: TrainConfig, ratio: int) -> MemoryObjective:
    """The objective `train.objective` at a ratio."""
    return implementation(OBJECTIVES[train.objective].loss).of(train, ratio)
