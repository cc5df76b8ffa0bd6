"""Objective `answer`: fine-tuning on questions, after reconstruction.

The decoder reads the memory, the marker of continuing and the question; the loss is on the answer
and its end token alone (as ICAE, 500xCompressor and PCC's second stage tune theirs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder, Targets
from jaxcomp.config import Config
from jaxcomp.data.eval_sets import answer_batches
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.runtime.sharding import SPECS, whole_batch
from jaxcomp.training.loss import MemoryObjective
from jaxcomp.training.optim import summed


@dataclass(frozen=True)
class AnswerObjective(MemoryObjective):
    """Mean nats of an answer's labels, and of a rebuilt text's where the batch has any
    (`data.eval_sets.AnswerBatch`), each weighing as much as its share of the targets.

    So a long text beside a short answer counts as one example, not as its number of tokens, and in
    the mean the loss is p_reconstruct * rebuilding + (1 - p_reconstruct) * answering.
    Metrics: `loss` as differentiated; of answers `loss_answer`, `accuracy_answer` (labels that were
    the likeliest) and `exact_answer` (answers all of whose labels were: what greedy decoding says
    exactly); `loss_rebuild`, `accuracy_rebuild`. NaN where the batch has none of that kind.
    """

    def weights(self, batch: Any) -> jax.Array:
        count_BO = (batch.tok_len_BO - batch.asked_BO).astype(jnp.float32)
        there_BO = (count_BO > 0).astype(jnp.float32)
        targets, weight_BO = jnp.maximum(jnp.sum(there_BO), 1.0), jnp.zeros_like(count_BO)
        for mode in (0, 1):
            mine_BO = there_BO * (batch.mode_BO == mode)
            share = jnp.sum(mine_BO) / targets
            weight_BO += mine_BO * share / jnp.maximum(jnp.sum(count_BO * mine_BO), 1.0)
        return weight_BO

    def scored(self, targets: Targets, batch: Any) -> jax.Array:
        rows, L = targets.valid_RL.shape
        asked_R = jnp.reshape(batch.asked_BO, (rows,), out_sharding=SPECS["batch"])
        return targets.valid_RL & (jnp.arange(L, dtype=jnp.int32) >= asked_R[:, None])

    def more(self, hit_R: jax.Array, count_R: jax.Array, mode_R: jax.Array) -> list[jax.Array]:
        answer_R = (mode_R == 1) & (count_R > 0)
        exact_R = answer_R & (hit_R >= count_R)
        return [jnp.sum(x_R.astype(jnp.float32)) for x_R in (exact_R, answer_R)]

    def metrics(self, sums_K: jax.Array) -> dict[str, jax.Array]:
        found = super().metrics(sums_K[:7])
        renamed = {name.replace("continue", "answer"): value for name, value in found.items()}
        return renamed | {"exact_answer": sums_K[7] / sums_K[8]}

    @staticmethod
    def validated(
        cfg: Config, model: AutoEncoder, toks: tuple[Tokenizer, Tokenizer]
    ) -> dict[str, float | int | None]:
        """Teacher-forced, of every question about the validation set's contexts: `answers`, their
        number; `loss_answer` (nats a label), `accuracy_answer` and `exact_answer` as above;
        `no_memory_loss_answer` and `no_memory_exact_answer` without memory. None without one."""
        size = whole_batch(cfg.eval.batch, jax.sharding.get_mesh())
        batches = [batch for batch, _ in answer_batches(cfg, "val", size, *toks)]
        if not batches:
            return {"answers": 0} | dict.fromkeys(NAMES)
        blank = [b._replace(ctx_len_BG=np.zeros_like(b.ctx_len_BG)) for b in batches]
        objective = AnswerObjective(cfg.memory.ratio, chunk=cfg.train.loss_chunk)
        total, no_memory = (summed(model, objective, each) for each in (batches, blank))
        count, labels = int(total[8]), total[6]
        values = (total[4] / labels, total[5] / labels, total[7] / count)
        baselines = (no_memory[4] / labels, no_memory[7] / count)
        return {"answers": count, **dict(zip(NAMES, map(float, values + baselines), strict=True))}


NAMES = (
    "loss_answer", "accuracy_answer", "exact_answer", "no_memory_loss_answer",
    "no_memory_exact_answer",
)  # fmt: skip
