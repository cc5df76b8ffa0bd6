"""Replay: the tower goes on reading the text of its base model while it learns to compress.

`train.replay` weighs the language-modelling loss of the compressor's tower alone, on the text that
base models read (`identity.base_text`), and is added to the loss of any objective. What the base
model knows is then not forgotten (rehearsal: Robins 1995, doi:10.1080/09540099550039318).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.config import Config, TrainConfig
from jaxcomp.data import batches as data
from jaxcomp.data.stream import WindowIterator
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.training.identity import base_text
from jaxcomp.training.loss import LmObjective, Objective, Terms

_SEED = 3_000_000  # far from the pretraining seeds


class Replayed(NamedTuple):
    """A batch of the objective, and as many rows of the base models' text."""

    examples: Any
    text: Any  # data.eval_sets.LmBatch


@dataclass(frozen=True)
class ReplayObjective:
    """inner + weight * (mean nats of the tower's next token), of `Replayed` batches.

    Metrics: those of `inner`, `loss` as differentiated, and `loss_replay` in nats a token.
    """

    inner: Objective
    weight: float
    lm: LmObjective

    def weights(self, batch: Replayed) -> tuple[Any, Any]:
        return self.inner.weights(batch.examples), self.lm.weights(batch.text)

    def terms(
        self, model: AutoEncoder, batch: Replayed, weights: tuple[Any, Any], dropout_key: Any
    ) -> Terms:
        # A stream of its own: the objective splits the key itself.
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, 2)
        own = self.inner.terms(model, batch.examples, weights[0], dropout_key)
        with jax.named_scope("replay"):
            text = self.lm.terms(model.compressor.llm, batch.text, weights[1], key)
        loss = own.loss + self.weight * text.loss
        return Terms(loss, jnp.concatenate([own.sums_K, text.sums_K]))

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]:
        found, loss = self.inner.metrics(sums_K[:-3]), self.lm.metrics(sums_K[-3:])["loss"]
        return found | {"loss": found["loss"] + self.weight * loss, "loss_replay": loss}

    def tokens(self, batch: Replayed) -> jax.Array:
        return self.inner.tokens(batch.examples) + self.lm.tokens(batch.text)


class ReplayIterator(grain.DatasetIterator):
    """`Replayed` batches of two iterators; its state is that of both."""

    def __init__(self, examples: Any, text: Any):
        super().__init__()
        self.both = Replayed(examples, text)

    def __next__(self) -> Replayed:
        return Replayed(*map(next, self.both))

    def get_state(self) -> dict[str, Any]:
        return {name: each.get_state() for name, each in self.both._asdict().items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, each in self.both._asdict().items():
            each.set_state(state[name])


def with_replay(objective: Objective, train: TrainConfig) -> Objective:
    """`objective`, with replay where `train` asks for it."""
    if not train.replay:
        return objective
    return ReplayObjective(objective, train.replay, LmObjective(train.remat, train.loss_chunk))


def train_batches(
    cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> WindowIterator | ReplayIterator:
    """`data.batches.train_batches`, as `Replayed` where the config asks for it.

    Raises DataError as that and `lm_batches` do.
    """
    examples = data.train_batches(cfg, comp_tok, dec_tok)
    if not cfg.train.replay:
        return examples
    seed = _SEED + cfg.pretrain.seed + cfg.seed  # no order that a base model was pretrained in
    drawn = dataclasses.replace(cfg.pretrain, optim=cfg.train.optim, seed=seed)
    return ReplayIterator(examples, data.lm_batches(base_text(cfg), drawn, comp_tok))


def batch_shapes(cfg: Config) -> Any:
    """The shape of each array of `train_batches`."""
    examples = data.batch_shapes(cfg)
    if not cfg.train.replay:
        return examples
    rows = cfg.train.optim.batch, cfg.pretrain.seq_len
    return Replayed(examples, data.LmBatch(rows, rows, rows))
