"""Overwriting on real text: does an answer from the memory follow the passage or the world?"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jaxcomp.evals.qa import ask, squad
from jaxcomp.evals.qa.ask import Task, head, shown
from jaxcomp.evals.qa.conditions import Asked, Reading, in_order
from jaxcomp.evals.qa.filters import Record
from jaxcomp.evals.qa.scoring import (
    OUTCOMES,
    PASSAGE,
    PRIMARY,
    SCORINGS,
    WORLD,
    average,
    likelier,
    proportion,
    said,
)

SIDES = (PASSAGE, WORLD)
FROM_MEMORY = ("memory", "rebuilt")


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`conditions`: by condition the share of each outcome by scoring, and the mean `f1` with
    either side's answers. `overwriting`: from the memory and from the rebuilt text, by scoring,
    the share with the world's answer among those with the passage's answer from the full text."""
    contexts = [r["context"] for r in records]
    conditions = {
        condition: {
            scoring: {
                outcome: proportion(
                    [r["conditions"][condition][scoring] == outcome for r in records], contexts
                )
                for outcome in OUTCOMES
            }
            for scoring in SCORINGS
        }
        | {
            "f1": {
                side: average([r["conditions"][condition]["f1"][side] for r in records], contexts)
                for side in SIDES
            }
        }
        for condition in in_order(records[0]["conditions"])
    }
    overwriting = {condition: {} for condition in FROM_MEMORY}
    for scoring in SCORINGS:
        right = [r for r in records if r["conditions"]["text"][scoring] == PASSAGE]
        about = [r["context"] for r in right]
        for condition in FROM_MEMORY:
            lost = [r["conditions"][condition][scoring] == WORLD for r in right]
            overwriting[condition][scoring] = proportion(lost, about)
    return {"conditions": conditions, "overwriting": overwriting}


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    lines = head(result)
    lines.append(f"{'answer from':12} {'scored by':10}" + "".join(f"{o:>26}" for o in OUTCOMES))
    for condition in in_order(result["conditions"]):
        found = result["conditions"][condition]
        for scoring in SCORINGS:
            each = "".join(f"{shown(found[scoring][outcome]):>26}" for outcome in OUTCOMES)
            lines.append(f"{condition:12} {scoring:10}{each}")
        each = "".join(f"{shown(found['f1'][side]):>26}" for side in SIDES)
        lines.append(f"{condition:12} {'mean F1':10}{each}")
    lines += ["", "overwriting: the world's answer, where the full text's was the passage's"]
    for condition in FROM_MEMORY:
        for scoring in SCORINGS:
            found = result["overwriting"][condition][scoring]
            count = f"{found['count']}/{found['n']}"
            primary = "  (primary)" if (condition, scoring) == ("memory", PRIMARY) else ""
            lines.append(f"{condition:12} {scoring:10}{shown(found):>26}  {count}{primary}")
    lines += ["", "95% intervals: Wilson's; of F1 bootstrap. Definitions: docs/metrics.md"]
    return "\n".join(lines)


def _scored(asked: Asked, readings: dict[str, Reading]) -> Record:
    """One world's answer in every condition: the file's, else the rival that the decoder finds
    the likeliest from nothing."""
    item, world = asked.item, 1
    if not item.world:
        means = [score.nats / score.tokens for score in readings["nothing"].options]
        world = min(range(1, len(means)), key=means.__getitem__)
    sides = item.answers, item.world or (item.options[world],)
    conditions = {}
    for name in in_order(readings):
        options, answer = readings[name].options, readings[name].answer
        conditions[name] = {
            "nats": [score.nats for score in options],
            "answer": answer,
            **{scoring: likelier(options, world, scoring) for scoring in ("mean", "sum")},
            **{how: said(answer, *sides, how) for how in ("exact", "holds")},
            "f1": dict(zip(SIDES, (squad.f1(answer, golds) for golds in sides), strict=True)),
        }
    return {"world": world, "conditions": conditions}


def _answerable(record: Record) -> bool:
    return record["conditions"]["text"][PRIMARY] == PASSAGE


def _known(record: Record) -> bool:
    return record["conditions"]["nothing"][PRIMARY] == WORLD


TASK = Task("overwriting", 2, _scored, rates, _answerable, _known)
run = functools.partial(ask.run, TASK)
