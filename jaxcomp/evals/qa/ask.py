"""A task from its items to its result: asked in batches, kept on the way, filtered, counted."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import config_hash
from jaxcomp.evals.evaluation import (
    BATCH,
    DATA,
    FILTER,
    LIMIT,
    OUT,
    RATIO,
    SELECT,
    Evaluated,
    Report,
    Request,
)
from jaxcomp.evals.qa import selection
from jaxcomp.evals.qa.conditions import Asked, Reading, batches, fills_up, measure, prepare
from jaxcomp.evals.qa.filters import Holds, Record, Rules, Step, after, before, parse
from jaxcomp.evals.qa.items import EvalError, Item, fingerprint
from jaxcomp.evals.qa.readers import read
from jaxcomp.evals.qa.resumable import Journal, intact
from jaxcomp.evals.qa.squad import holds
from jaxcomp.inference.pair import QUESTION, Pair
from jaxcomp.training.metrics import duration

MAX_NEW = 24
OPTIONS = (DATA, LIMIT, OUT, FILTER, SELECT, RATIO, BATCH)  # of tasks that read a file of items
Say = Callable[[str], None]


class Task(NamedTuple):
    """What one task makes of what the decoder said.

    `version` is that of its definitions: results of another one are not taken over. `scored` is
    what a record keeps of an item's readings; `rates` what is counted over records. `stated`: does
    an answer stand in the item's context; None where there is none to stand there.
    """

    name: str
    version: int
    scored: Callable[[Asked, dict[str, Reading]], Record]
    rates: Callable[[Sequence[Record]], dict[str, Any]]
    answerable: Holds
    known: Holds
    stated: Callable[[Item], bool | None] = lambda item: holds(item.context, item.answers)


def run(
    task: Task,
    pair: Pair,
    items: Sequence[Item],
    out: Path | None = None,
    *,
    rules: Rules | None = None,
    also: Sequence[str] = (),
    max_new: int = MAX_NEW,
    say: Say | None = None,
) -> Evaluated:
    """Asks every item that `rules` may count in every condition, and counts. `also`: further
    conditions, of `selection.SELECTIONS`.

    With `out` the result is written there, whole or not at all; stopped, the same call goes on
    after the last batch; finished, it reads the file. Under other rules it counts again, and asks
    only what was not asked before.

    Raises EvalError where an id stands twice, `out` holds something else, or no item can be asked
    or is counted.
    """
    say, rules = say or (lambda text: None), rules or Rules()
    if twice := [name for name, n in Counter(item.id for item in items).items() if n > 1]:
        raise EvalError(
            f"{len(twice)} ids stand twice, such as {twice[0]!r}; expected every item once, with "
            "an id of its own"
        )
    about = _about(task, pair, items, max_new, also)
    journal = Journal(out, about)
    found = journal.finished()
    # A result of before passages were counted is counted again, from its own records.
    with intact(journal.read):
        if (
            found is not None
            and found["filter"]["rules"] == dataclasses.asdict(rules)
            and "contexts" in found["items"]
        ):
            return Evaluated(found, False)
    asked, left_out = prepare(pair, items, max_new=max_new)
    if left_out:
        say(f"left out: {_reasons(left_out)}")
    if not asked:
        raise EvalError(f"none of the {len(items)} items can be asked: {_reasons(left_out)}")
    texts = _texts(items)
    described = {a.item.id: _described(task, a) | texts[a.item.id] for a in asked}
    chosen, steps = before(rules, list(described.values()))
    steps = [Step("read", len(items)), Step("can be asked", len(asked)), *steps]
    _some_left(chosen, steps)
    with intact(journal.read):
        records = {r["id"]: r | texts[r["id"]] for r in (found["records"] if found else [])}
    later = journal.records()
    with intact(journal.read):
        records |= {r["id"]: r | texts[r["id"]] for r in later}
    wanted = {record["id"] for record in chosen}
    if done := len(wanted & records.keys()):
        say(f"{done:,} of {len(wanted):,} items were done already")
    todo = [a for a in asked if a.item.id in wanted - records.keys()]
    records |= _measured(task, pair, todo, journal, described, max_new, also, say)
    every = [records[r["id"]] for r in chosen]
    with intact(journal.read):
        counted, more = after(rules, every, task.answerable, task.known)
        steps += more
        _some_left(counted, steps)
        result = {
            "about": about,
            "filter": {"rules": dataclasses.asdict(rules), "steps": [s._asdict() for s in steps]},
            "items": _counts(pair, counted, left_out),
            **({"selection": _selection(counted, also)} if also else {}),
            **task.rates(counted),
            "records": [records[a.item.id] for a in asked if a.item.id in records],
        }
    journal.finish(result)
    return Evaluated(result, True)


def asked_of_file(task: Task, asked: Request, table: Callable[[dict[str, Any]], str]) -> Report:
    """`run` of the items in a file, as the command line asks for it."""
    rules, also = parse(asked.filter or ""), selection.parse(asked.select)
    out = asked.out("-".join([asked.stem, *also]))
    assert asked.data is not None  # it is in `needs`
    items = read(asked.data, asked.limit, task=task.name)
    found = run(task, asked.pair, items, out, rules=rules, also=also, say=asked.say)
    return asked.report(found, table, out)


def head(result: dict[str, Any]) -> list[str]:
    """The first lines of a result as text: which items were counted."""
    items, steps = result["items"], result["filter"]["steps"]
    lines = ["items: " + ", ".join(f"{s['left']:,} {_step(s['rule'])}" for s in steps)]
    lines += [f"  left out: {n:,} with {why}" for why, n in sorted(items["left_out"].items())]
    lines += [
        f"  of the {items['counted']:,} counted, {n:,} {what}"
        for n, what in (
            (items["not_stated"], "have no answer that stands in the passage word for word"),
            (
                items.get("world_in_question"),
                "have the world's answer in the question, and were asked all the same",
            ),
            (
                items["beyond_training"],
                f"have a memory of more than the {items['trained_segments']} segment(s) this pair "
                "was trained with",
            ),
            (items["rebuilt_cut"], "have a rebuilt text that was cut to fit the decoder"),
        )
        if n
    ]
    if items.get("contexts", items["counted"]) < items["counted"]:
        lines.append(
            f"  they are about {items['contexts']:,} passages: the intervals take the questions "
            "about one together"
        )
    lines += [
        f"  {name}: {s['tokens']:.1f} of the text's {s['text']:.1f} tokens kept (means); budget "
        f"{s['budget']:.1f}, as many as vectors; {s['over']:,} above it, of one longer sentence"
        for name, s in result.get("selection", {}).items()
    ]
    return [*lines, ""]


def shown(found: dict[str, Any]) -> str:
    """A share or a mean in percent with its interval."""
    middle = found.get("rate", found.get("mean"))
    if middle is None:
        return "not measurable"
    if found["low"] is None:
        return f"{100 * middle:.1f}%"
    return f"{100 * middle:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _measured(
    task: Task,
    pair: Pair,
    todo: Sequence[Asked],
    journal: Journal,
    described: dict[str, Record],
    max_new: int,
    also: Sequence[str],
    say: Say,
) -> dict[str, Record]:
    progress, records = _Progress(say, todo), {}
    for part in batches(todo, pair.batch):
        found = measure(pair, part, max_new=max_new, also=also)
        made = [
            described[a.item.id]
            | {"rebuilt_cut": any(reading.cut for reading in readings.values())}
            | ({"kept": {name: readings[name].kept for name in also}} if also else {})
            | task.scored(a, readings)
            for a, readings in zip(part, found, strict=True)
        ]
        journal.add(made)
        records |= {record["id"]: record for record in made}
        progress(part)
    return records


def _texts(items: Sequence[Item]) -> dict[str, Record]:
    """Of each item which context it is about, numbered as they come, and whether the question
    itself holds an answer of the world's."""
    numbers: dict[str, int] = {}
    return {
        item.id: {
            "context": numbers.setdefault(item.context, len(numbers)),
            "world_in_question": holds(item.question, item.world),
        }
        for item in items
    }


def _described(task: Task, asked: Asked) -> Record:
    """What is known of an item before it is asked."""
    return {
        "id": asked.item.id,
        "segments": asked.segments,
        "context_tokens": asked.context_tokens,
        "vectors": asked.vectors,
        "stated": task.stated(asked.item),
        "tokens": [len(ids) for ids in asked.options],
    }


def _counts(
    pair: Pair, counted: Sequence[Record], left_out: dict[str, int]
) -> dict[str, int | dict[str, int]]:
    trained = pair.traits.segments
    return {
        "counted": len(counted),
        "left_out": dict(left_out),
        "contexts": len({r["context"] for r in counted}),
        "not_stated": sum(r["stated"] is False for r in counted),
        "world_in_question": sum(r["world_in_question"] for r in counted),
        "rebuilt_cut": sum(r["rebuilt_cut"] for r in counted),
        "trained_segments": trained,
        "beyond_training": sum(r["segments"] > trained for r in counted),
    }


def _about(
    task: Task, pair: Pair, items: Sequence[Item], max_new: int, also: Sequence[str]
) -> dict[str, Any]:
    """What decides the records."""
    about = {
        "task": task.name,
        "version": task.version,
        "items": fingerprint(items),
        "compressor": pair.traits.compressor,
        "decoder": pair.traits.decoder,
        "ratio": pair.traits.ratio,
        "template": QUESTION,
        "max_new": max_new,
    }
    if fills_up(pair):  # results of before a short memory did are not taken over
        about["places"] = "trained"
    select = {"version": selection.VERSION, "names": list(also)} if also else None
    # Not of the hash where none is asked for, so that results of before there was a choice keep
    # theirs; but named, so that a result with selections is not taken for one without.
    named = about | ({"select": select} if also else {})
    return about | {"select": select, "hash": config_hash(named)}


def _selection(counted: Sequence[Record], also: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each selection the tokens it kept, a mean over items, beside the budget and the text."""
    budget, text = (
        sum(r[key] for r in counted) / len(counted) for key in ("vectors", "context_tokens")
    )
    return {
        name: {
            "tokens": sum(r["kept"][name] for r in counted) / len(counted),
            "budget": budget,
            "text": text,
            "over": sum(r["kept"][name] > r["vectors"] for r in counted),
        }
        for name in also
    }


def _reasons(left_out: dict[str, int]) -> str:
    return "; ".join(f"{n} with {why}" for why, n in sorted(left_out.items()))


def _some_left(records: Sequence[Record], steps: Sequence[Step]) -> None:
    if not records:
        found = ", ".join(f"{step.left} {_step(step.rule)}" for step in steps)
        raise EvalError(f"no item is left to count: {found}; expected at least one, relax --filter")


def _step(rule: str) -> str:
    return rule if rule in ("read", "can be asked") else f"after {rule}"


class _Progress:
    """Says what, how far, how fast and how much longer, every few seconds and at the end."""

    def __init__(self, say: Say, todo: Sequence[Asked]):
        self.say, self.every = say, len(todo)
        # By tokens: the first batches are of the longest texts.
        self.left = self.tokens = sum(len(a.text_ids) for a in todo)
        self.done = 0
        self.began = self.shown = time.perf_counter()

    def __call__(self, part: Sequence[Asked]) -> None:
        self.done += len(part)
        self.left -= sum(len(a.text_ids) for a in part)
        now = time.perf_counter()
        spent, last = now - self.began, self.done == self.every
        if now - self.shown <= 5 and not last:
            return
        self.shown = now
        rate = f"{self.done / spent:.2f} items/s"
        if last:
            cost = f"{spent / self.done:.3g} s an item, compiling included"
            self.say(f"{self.done:,} items measured in {duration(spent)}, {rate}: {cost}")
            return
        left = spent * self.left / (self.tokens - self.left)
        self.say(f"{self.done:,} of {self.every:,} items measured, {rate}, {duration(left)} left")
