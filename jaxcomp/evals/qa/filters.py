"""Which items are counted: rules in a fixed order, with the number that is left after each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxcomp.evals.qa.items import EvalError

Record = dict[str, Any]
Holds = Callable[[Record], bool]


@dataclass(frozen=True)
class Rules:
    """What an item must be to be counted; by default everything that can be asked is.

    The first two are known before anything is asked, and what they leave out is not asked.
    """

    max_tokens: int = 0  # of the decoder in the passage; 0: any number
    stated: bool = False  # an answer stands in the passage word for word
    answerable: bool = False  # answered right from the full text
    known: bool = False  # answered with the world's answer closed book


class Step(NamedTuple):
    """`left`: items after `rule`."""

    rule: str
    left: int


def parse(text: str) -> Rules:
    """`answerable,known,max_tokens=512` -> Rules. Raises EvalError that names the part."""
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, mark, value = part.partition("=")
        if name in given:
            raise EvalError(f"--filter={text}: {name} is there twice")
        if name == "max_tokens":
            if not value.isdecimal() or int(value) < 1:
                raise EvalError(f"--filter={text}: {part!r}; expected max_tokens=N, N at least 1")
            given[name] = int(value)
        elif name in {field.name for field in dataclasses.fields(Rules)} and not mark:
            given[name] = True
        else:
            raise EvalError(
                f"--filter={text}: {part!r} is no rule; expected some of max_tokens=N, stated, "
                "answerable, known"
            )
    return Rules(**given)


def before(rules: Rules, records: Sequence[Record]) -> tuple[list[Record], list[Step]]:
    """By what is known before asking: `context_tokens` and `stated` of each record."""
    checks: list[tuple[str, Holds]] = []
    if rules.max_tokens:
        most = rules.max_tokens
        checks.append((f"max_tokens={most}", lambda r: r["context_tokens"] <= most))
    if rules.stated:
        checks.append(("stated", lambda r: r["stated"]))
    return _applied(checks, records)


def after(
    rules: Rules, records: Sequence[Record], answerable: Holds, known: Holds
) -> tuple[list[Record], list[Step]]:
    """By what was answered; what these two mean of a record is the task's to say."""
    checks: list[tuple[str, Holds]] = []
    if rules.answerable:
        checks.append(("answerable", answerable))
    if rules.known:
        checks.append(("known", known))
    return _applied(checks, records)


def _applied(
    checks: Sequence[tuple[str, Holds]], records: Sequence[Record]
) -> tuple[list[Record], list[Step]]:
    left, steps = list(records), []
    for rule, holds in checks:
        left = [record for record in left if holds(record)]
        steps.append(Step(rule, len(left)))
    return left, steps
