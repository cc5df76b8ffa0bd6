"""The training objectives by name (`train.objective`), and the data that each needs.

A row names the class that computes the loss, a subclass of `training.loss.MemoryObjective`; those
of this package by text, so that nothing here imports JAX. How to add one:
docs/how-to/extend.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxcomp.config import DataConfig
from jaxcomp.runtime.registry import Registry


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective.

    Attributes:
        name: value of `train.objective`.
        loss: the class, or "module:Class".
        targets: of an example. "one": its text or what follows, by `train.p_reconstruct` (O = 1);
            "both": first the text, then what follows (O = 2); "question": a question about it, or
            its text (O = 1, `AnswerBatch`). The last needs a source with questions.
        adapts_decoder: `decoder.adapt.objective` may be it.
        previewed: `jaxcomp check` may examine it: its loss is the nats of labels times `weights`.
        own_weights: its `weights` are not those of means over labels.
        teacher_tokens: tokens of an example that the decoder reads once more, forward only.
    """

    name: str
    loss: Any
    targets: Literal["one", "both", "question"] = "one"
    adapts_decoder: bool = False
    previewed: bool = True
    own_weights: bool = False
    teacher_tokens: Callable[[DataConfig], int] = lambda data: 0

    @property
    def per_example(self) -> int:
        """O, targets of an example."""
        return 2 if self.targets == "both" else 1


OBJECTIVES: Registry[ObjectiveRow] = Registry("train.objective")


def objective(name: str, **declared: Any) -> Callable[[type], type]:
    """Register the decorated subclass of `training.loss.MemoryObjective` as an objective.

    Args:
        name: value of `train.objective`.
        **declared: further fields of `ObjectiveRow`, such as `targets`.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> from jaxcomp.training.loss import MemoryObjective
        >>> Mine = jaxcomp.objective("mine", targets="one")(MemoryObjective)
    """
    return OBJECTIVES.declare(name, lambda loss: ObjectiveRow(name, loss, **declared))


for _row in (
    # each example is rebuilt or continued
    ObjectiveRow("coin", "jaxcomp.training.loss:MemoryObjective", adapts_decoder=True),
    # each is rebuilt and continued
    ObjectiveRow("sum", "jaxcomp.training.loss:SumObjective", "both", adapts_decoder=True),
    # rebuilt, and continued as the decoder does that reads the whole text (KL)
    ObjectiveRow(
        "distil",
        "jaxcomp.training.distill:DistilObjective",
        "both",
        teacher_tokens=lambda data: 2 * data.target - 1,  # the text, then what follows
    ),
    # a question about it is answered, or it is rebuilt
    ObjectiveRow("answer", "jaxcomp.training.answer:AnswerObjective", "question", previewed=False),
):
    OBJECTIVES.add(_row.name, _row)
