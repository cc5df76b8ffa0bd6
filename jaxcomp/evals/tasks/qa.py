"""Questions with gold answers: `jaxcomp eval --task=qa`.

Rows with gold answers (SQuAD's), from the four conditions of `overwriting`: `exact` and F1 against
the best gold answer, as evaluate-v1.1.py sums them (over all questions counted; here in shares,
there times 100), and `holds`. There are no options and no likelihoods; `answerable` and `known` are
`holds` from `text` and from `nothing`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jaxcomp.evals.evaluation import Report, Request, evaluation
from jaxcomp.evals.qa import ask, squad
from jaxcomp.evals.qa.ask import Task, head, shown
from jaxcomp.evals.qa.conditions import Prepared, Reading, in_order
from jaxcomp.evals.qa.filters import Record
from jaxcomp.evals.qa.scoring import average, proportion

SHARES = ("exact", "holds")


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`conditions`: by condition the share `exact` and `holds`, and the mean `f1`."""
    contexts = [record["context"] for record in records]
    conditions = {}
    for condition in in_order(records[0]["conditions"]):
        found = [record["conditions"][condition] for record in records]
        conditions[condition] = {
            **{name: proportion([one[name] for one in found], contexts) for name in SHARES},
            "f1": average([one["f1"] for one in found], contexts),
        }
    return {"conditions": conditions}


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    columns = {"exact": "exact match", "f1": "mean F1", "holds": "holds an answer"}
    lines, width = head(result), max(12, *map(len, result["conditions"]))
    lines.append(f"{'answer from':{width}}" + "".join(f"{title:>26}" for title in columns.values()))
    for condition in in_order(result["conditions"]):
        found = result["conditions"][condition]
        lines.append(f"{condition:{width}}" + "".join(f"{shown(found[c]):>26}" for c in columns))
    lines += ["", "95% intervals: Wilson's; of F1 bootstrap. Definitions: the metrics page"]
    return "\n".join(lines)


def _scored(prepared: Prepared, readings: dict[str, Reading]) -> Record:
    golds = prepared.item.answers
    conditions = {
        name: {
            "answer": readings[name].answer,
            "exact": squad.exact(readings[name].answer, golds),
            "holds": squad.holds(readings[name].answer, golds),
            "f1": squad.f1(readings[name].answer, golds),
        }
        for name in in_order(readings)
    }
    return {"conditions": conditions}


def _answerable(record: Record) -> bool:
    return record["conditions"]["text"]["holds"]


def _known(record: Record) -> bool:
    return record["conditions"]["nothing"]["holds"]


TASK = Task("qa", 1, _scored, rates, _answerable, _known)
run = functools.partial(ask.run, TASK)


@evaluation(
    "qa",
    about="SQuAD's exact match and F1",
    options=ask.OPTIONS,
    needs=("data",),
)
def qa(request: Request) -> Report:
    return ask.asked_of_file(TASK, request, table)
