"""What a decoder answers to generated questions (question_file.py), by dimension and condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcomp.config import config_hash
from jaxcomp.evals.evaluation import Evaluated
from jaxcomp.evals.qa import ask, squad
from jaxcomp.evals.qa.ask import Task, head, shown
from jaxcomp.evals.qa.conditions import CONDITIONS, Prepared, Reading
from jaxcomp.evals.qa.items import Item
from jaxcomp.evals.qa.question_file import ASKED_ABOUT, UNANSWERABLE, Question
from jaxcomp.evals.qa.resumable import Record, Say
from jaxcomp.evals.qa.scoring import average, proportion
from jaxcomp.inference.pair import Pair

VERSION = 2  # of the definitions below


def run(
    pair: Pair, questions: Sequence[Question], out: Path | None = None, *, say: Say | None = None
) -> Evaluated:
    """What a decoder answers in each of `conditions.CONDITIONS`; see `ask.run`."""
    by_id = {q.id: q for q in questions}

    def item(q: Question) -> Item:
        answers = squad.REFUSALS if q.unanswerable else (q.answer,)
        return Item(q.id, q.question, q.passage, answers, (), q.options)

    def scored(prepared: Prepared, readings: dict[str, Reading]) -> Record:
        question = by_id[prepared.item.id]
        conditions = {c: _scored(question, readings[c]) for c in CONDITIONS}
        return {"dimension": question.dimension, "conditions": conditions}

    def right(condition: str):
        return lambda record: record["conditions"][condition]["holds"]

    def stated(item: Item) -> bool | None:
        unanswerable = by_id[item.id].unanswerable
        return None if unanswerable else squad.holds(item.context, item.answers)

    # Items do not know their dimension, which decides the result too.
    name = f"questions-{config_hash([q.dimension for q in questions])}"
    task = Task(name, VERSION, scored, rates, right("text"), right("nothing"), stated)
    return ask.run(task, pair, list(map(item, questions)), out, say=say)


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`dimensions`: by dimension and condition the shares `exact` and `holds` (unanswerable: of
    refusals) and the mean `f1`; `answerable` is all but the unanswerable ones. `refused`: of those
    the share that was refused all the same. `chosen`: of those with options the share of which the
    right one is the likeliest."""
    groups = {name: [r for r in records if r["dimension"] == name] for name in ASKED_ABOUT}
    groups["answerable"] = [r for r in records if r["dimension"] != UNANSWERABLE]
    return {
        "dimensions": {
            name: {c: _rates(mine, c) for c in CONDITIONS} for name, mine in groups.items()
        }
    }


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    lines = head(result)
    for condition in CONDITIONS:
        lines.append(f"{'from ' + condition:14}{'holds':>26}{'exact match':>26}{'mean F1':>26}")
        for name, found in result["dimensions"].items():
            columns = ["holds"] if name == UNANSWERABLE else ["holds", "exact", "f1"]
            each = "".join(f"{shown(found[condition][c]):>26}" for c in columns)
            lines.append(f"{name:14}{each}")
        found = result["dimensions"]["answerable"][condition]
        lines.append(f"  refused though answerable: {shown(found['refused'])}")
        if found["chosen"]["n"]:
            lines.append(f"  right option the likeliest: {shown(found['chosen'])}")
        lines.append("")
    lines.append("unanswerable: the share that is refused. Definitions: the metrics page")
    return "\n".join(lines)


def _scored(question: Question, reading: Reading) -> Record:
    answer, golds = reading.answer, [] if question.unanswerable else [question.answer]
    refused = squad.refuses(answer)
    nats = [score.nats / score.tokens for score in reading.options]
    return {
        "answer": answer,
        "refused": refused,
        "holds": refused if question.unanswerable else squad.holds(answer, golds),
        "exact": squad.exact(answer, golds),
        "f1": squad.f1(answer, golds),
        "chosen": nats[0] < min(nats[1:]) if nats else None,
    }


def _rates(records: Sequence[Record], condition: str) -> dict[str, Any]:
    each = [r["conditions"][condition] | {"context": r["context"]} for r in records]
    contexts = [one["context"] for one in each]
    chosen = [one for one in each if one["chosen"] is not None]
    return {
        **{
            name: proportion([one[name] for one in each], contexts)
            for name in ("exact", "holds", "refused")
        },
        "f1": average([one["f1"] for one in each], contexts),
        "chosen": proportion([c["chosen"] for c in chosen], [c["context"] for c in chosen]),
    }
