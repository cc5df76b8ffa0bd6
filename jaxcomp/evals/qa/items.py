"""Items of a task: a passage, a question about it, what the passage answers, and what else could
be answered. They are for evaluation only; nothing here keeps their texts."""

from __future__ import annotations

from typing import NamedTuple

from jaxcomp.data.qa import QUESTION


class EvalError(ValueError):
    """A task cannot be run; the message names file and place, what was expected and the fix."""


class NothingToAsk(EvalError):
    """The texts hold nothing that the task asks about."""


class Item(NamedTuple):
    """`context` says one of `answers` where the world says one of `world`.

    Of both, the first is the option whose likelihood is taken, the others are further ways to say
    the same. `others` are options that compete with them; without `world` the world's answer is
    one of those. An item without rivals has gold answers only.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    world: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    answer_prefix: str = ""

    @property
    def tail(self) -> str:
        """What the decoder reads after the context."""
        begun = f" {self.answer_prefix}" if self.answer_prefix else ""
        return QUESTION.format(question=self.question) + begun

    @property
    def options(self) -> tuple[str, ...]:
        """What likelihood chooses among; the passage's answer is the first."""
        return *self.answers[:1], *self.world[:1], *self.others
