"""The objective of a training config."""

from __future__ import annotations

from jaxcomp.config import TrainConfig
from jaxcomp.training.answer import AnswerObjective
from jaxcomp.training.distill import DistilObjective
from jaxcomp.training.loss import MemoryObjective


def objective_of(train: TrainConfig, ratio: int) -> MemoryObjective:
    """The objective that a config asks for, at a ratio."""
    kinds = {"distil": DistilObjective, "answer": AnswerObjective}
    return kinds.get(train.objective, MemoryObjective)(
        ratio,
        train.objective,
        train.p_reconstruct,
        train.remat,
        train.loss_chunk,
        train.word_dropout,
    )
