"""Rules that select the items to count, in a fixed order, with counts after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.resumable import Record

Holds = Callable[[Record], bool]
Step = dict[str, Any]  # {"rule": its name, "left": items after it}


@dataclass(frozen=True)
class Rules:
    """What an item must be to be counted; by default everything that can be asked is.

    The first two are known before anything is asked, and what they leave out is not asked.
    """

    max_tokens: int = 0  # of the decoder in the passage; 0: any number
    stated: bool = False  # an answer stands in the passage word for word
    answerable: bool = False  # answered right from the full text
    known: bool = False  # answered with the world's answer closed book

    def before(self) -> dict[str, Holds]:
        """Those that are known before asking."""
        named: dict[str, Holds] = {}
        if self.max_tokens:
            named[f"max_tokens={self.max_tokens}"] = lambda r: (
                r["context_tokens"] <= self.max_tokens
            )
        return named | ({"stated": lambda r: r["stated"]} if self.stated else {})

    def after(self, answerable: Holds, known: Holds) -> dict[str, Holds]:
        """Those of what was answered; what they mean of a record is the task's to say."""
        named = {"answerable": answerable} if self.answerable else {}
        return named | ({"known": known} if self.known else {})


def parse(text: str) -> Rules:
    """`answerable,known,max_tokens=512` -> Rules. Raises EvalError that names the part."""
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, mark, value = part.partition("=")
        if name in given:
            raise EvalError(f"--filter={text}: {name} is there twice")
        if name == "max_tokens" and value.isdecimal() and int(value) > 0:
            given[name] = int(value)
        elif name in ("stated", "answerable", "known") and not mark:
            given[name] = True
        else:
            raise EvalError(
                f"--filter={text}: {part!r} is no rule; expected some of max_tokens=N (N at least "
                "1), stated, answerable, known"
            )
    return Rules(**given)


def applied(rules: dict[str, Holds], records: Sequence[Record]) -> tuple[list[Record], list[Step]]:
    """The records for which all rules hold, and how many are left after each."""
    left, steps = list(records), []
    for rule, holds in rules.items():
        left = [record for record in left if holds(record)]
        steps.append({"rule": rule, "left": len(left)})
    return left, steps
