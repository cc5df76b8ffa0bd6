"""Run a question task: ask in batches, store records, filter, count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import config_hash
from jaxcomp.evals.evaluation import (
    BATCH,
    BUDGETS,
    DATA,
    FILTER,
    LIMIT,
    OUT,
    RATIO,
    SCORER,
    SELECT,
    Evaluated,
    Report,
    Request,
)
from jaxcomp.evals.qa import selection
from jaxcomp.evals.qa.conditions import Prepared, Reading, batches, measure, prepare
from jaxcomp.evals.qa.filters import Holds, Rules, Step, applied, parse
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.readers import read
from jaxcomp.evals.qa.resumable import Journal, Record, Say, check_ids, intact, reasons
from jaxcomp.evals.qa.squad import holds
from jaxcomp.inference import selecting
from jaxcomp.inference.pair import QUESTION, Pair
from jaxcomp.inference.sage import Scorer, load_scorer

MAX_NEW = 24
OPTIONS = (
    DATA,
    LIMIT,
    OUT,
    FILTER,
    SELECT,
    BUDGETS,
    SCORER,
    RATIO,
    BATCH,
)  # of tasks that read a file of items


class Task(NamedTuple):
    """What one task makes of what the decoder said.

    `version` is that of its definitions: results of another one are not taken over. `scored` is
    what a record keeps of an item's readings; `rates` what is counted over records. `stated`: does
    an answer stand in the item's context; None where there is none to stand there. A greedy answer
    has at most `max_new` tokens and ends before `stop` ("": at the end token only).
    """

    name: str
    version: int
    scored: Callable[[Prepared, dict[str, Reading]], Record]
    rates: Callable[[Sequence[Record]], dict[str, Any]]
    answerable: Holds
    known: Holds
    stated: Callable[[Item], bool | None] = lambda item: holds(item.context, item.answers)
    max_new: int = MAX_NEW
    stop: str = "\n"


def run(
    task: Task,
    pair: Pair,
    items: Sequence[Item],
    out: Path | None = None,
    *,
    rules: Rules | None = None,
    also: Sequence[str] = (),
    scorer: Scorer | None = None,
    max_new: int = 0,
    say: Say | None = None,
) -> Evaluated:
    """Asks every item that `rules` may count in every condition, and counts. `also`: further
    conditions, of `selection.parse`; `scorer`: SAGE's (None: the pair's decoder); `max_new`: most
    tokens of an answer (0: the task's).

    With `out` the result is written there, whole or not at all; stopped, the same call goes on
    after the last batch; finished, it reads the file. Under other rules it counts again, and asks
    only what was not asked before.

    Raises EvalError where an id stands twice, `out` holds something else, or no item can be asked
    or is counted.
    """
    rules, max_new = rules or Rules(), max_new or task.max_new
    check_ids(item.id for item in items)
    # A field of Item that was added later is left out where it is empty: old results stay valid.
    every = [list(item[:-1]) + [item[-1]] * bool(item[-1]) for item in items]
    about = about_of(pair, task.name, task.version, items=config_hash(every))
    about |= {"template": QUESTION, "max_new": max_new, "select": list(also) or None}
    if also:
        about["selection"] = {"version": selection.VERSION, "scorer": scorer and scorer.identity}
    journal = Journal(out, about, say)
    with intact(journal.read):
        if journal.found and journal.found["filter"]["rules"] == dataclasses.asdict(rules):
            return Evaluated(journal.found, False)
    prepared, left_out = prepare(pair, items, max_new=max_new)
    if any(selection.name_of(name) in selection.SAGE for name in also):
        prepared = _for_sage(prepared, items, left_out, scorer)
    if not prepared:
        raise EvalError(f"none of the {len(items)} items can be asked: {reasons(left_out)}")
    if left_out:
        journal.say(f"left out: {reasons(left_out)}")
    contexts = {c: n for n, c in enumerate(dict.fromkeys(item.context for item in items))}
    described = {a.item.id: _described(task, a, contexts) for a in prepared}
    chosen, steps = applied(rules.before(), list(described.values()))
    read_and_asked = {"read": len(items), "can be asked": len(prepared)}
    steps = [*({"rule": r, "left": n} for r, n in read_and_asked.items()), *steps]
    _some_left(chosen, steps)

    def made(part: Sequence[Prepared]) -> list[Record]:
        options = {"max_new": max_new, "also": also, "scorer": scorer}
        found = measure(pair, part, **options, stop=task.stop)
        return [
            described[a.item.id]
            | {"rebuilt_cut": any(reading.cut for reading in readings.values())}
            | ({"kept": {name: readings[name].kept for name in also}} if also else {})
            | task.scored(a, readings)
            for a, readings in zip(part, found, strict=True)
        ]

    todo = [a for a in prepared if a.item.id in {r["id"] for r in chosen} - journal.records.keys()]
    journal.measure(batches(todo, pair.batch), len(todo), made, "items")
    records = journal.records
    with intact(journal.read):
        after = rules.after(task.answerable, task.known)
        counted, more = applied(after, [records[r["id"]] for r in chosen])
        _some_left(counted, [*steps, *more])
        result = {
            "about": about,
            "filter": {"rules": dataclasses.asdict(rules), "steps": [*steps, *more]},
            "items": _counts(pair, counted, left_out),
            **({"selection": _selection(counted, also)} if also else {}),
            **task.rates(counted),
            "records": [records[a.item.id] for a in prepared if a.item.id in records],
        }
    return Evaluated(journal.finish(result), True)


def about_of(pair: Pair, task: str, version: int, **more: Any) -> dict[str, Any]:
    """What decides the records of a task."""
    return {
        "task": task,
        "version": version,
        "compressor": pair.traits.compressor,
        "decoder": pair.traits.decoder,
        "ratio": pair.traits.ratio,
        **more,
    }


def _for_sage(
    prepared: Sequence[Prepared],
    items: Sequence[Item],
    left_out: dict[str, int],
    scorer: Scorer | None,
) -> list[Prepared]:
    """The items that the scorer can read, each with the question that is subtracted."""
    asked = [selection.Question(item.id, item.context, item.question) for item in items]
    others, out = selection.least_similar(asked), []
    for a in prepared:
        request = selecting.Request(a.item.context, [(a.item.id, a.item.question)])
        if scorer is not None and (why := selecting.refused(request, scorer)):
            left_out[why] = left_out.get(why, 0) + 1
        else:
            out.append(a._replace(other=others[a.item.id]))
    return out


def asked_of_file(task: Task, request: Request, table: Callable[[dict[str, Any]], str]) -> Report:
    """`run` of the items in a file, as the command line asks for it."""

    def items() -> list[Item]:
        assert request.data is not None  # it is in `needs`
        return read(request.data, request.limit, task=task.name)

    return asked(task, request, table, items, request.stem)


def asked(
    task: Task,
    request: Request,
    table: Callable[[dict[str, Any]], str],
    items: Callable[[], Sequence[Item]],
    stem: str,
) -> Report:
    """`run` of what `items` makes, as the command line asks for it; `stem`: what they are called in
    the result's name."""
    rules = parse(request.filter or "")
    also = selection.parse(request.select, request.budgets)
    if request.scorer and not any(selection.name_of(c) in selection.SAGE for c in also):
        raise EvalError("--scorer goes with --select=sage, sage-raw or sage-baseline")
    out = request.out("-".join([stem, *dict.fromkeys(map(selection.name_of, also))]))
    every = items()
    scorer = load_scorer(request.scorer) if request.scorer else None
    chosen = {"rules": rules, "also": also, "scorer": scorer}
    found = run(task, request.pair, every, out, **chosen, say=request.say)
    return request.report(found, table, out)


def head(result: dict[str, Any]) -> list[str]:
    """The first lines of a result as text: which items were counted."""
    items = result["items"]
    lines = [f"items: {_steps(result['filter']['steps'])}"]
    lines += [f"  left out: {n:,} with {why}" for why, n in sorted(items["left_out"].items())]
    told = {
        "not_stated": "have no answer that stands in the passage word for word",
        "world_in_question": "have the world's answer in the question, and were asked all the same",
        "beyond_training": f"have a memory of more than the {items['trained_segments']} segment(s) "
        "this pair was trained with",
        "rebuilt_cut": "have a rebuilt text that was cut to fit the decoder",
    }
    counted = items["counted"]
    lines += [
        f"  of the {counted:,} counted, {items[k]:,} {t}" for k, t in told.items() if items[k]
    ]
    if items["contexts"] < counted:
        lines.append(
            f"  they are about {items['contexts']:,} passages: the intervals take the questions "
            "about one together"
        )
    selected = result.get("selection", {})
    lines += [
        f"  {name}: {s['tokens']:.1f} of {s['text']:.1f} tokens kept, budget {s['budget']:.1f} "
        f"({s['over']:,} items above it)"
        for name, s in selected.items()
    ]
    if selected:
        lines.append(
            "  kept: means over items; a selection exceeds its budget where one sentence is longer "
            "than it, or where joining spans adds tokens"
        )
    return [*lines, ""]


def shown(found: dict[str, Any]) -> str:
    """A share or a mean in percent with its interval."""
    middle = found.get("rate", found.get("mean"))
    if middle is None:
        return "not measurable"
    if found["low"] is None:
        return f"{100 * middle:.1f}%"
    return f"{100 * middle:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _described(task: Task, prepared: Prepared, contexts: dict[str, int]) -> Record:
    """What is known of an item before it is prepared. `context`: the number of its passage;
    `world_in_question`: the question itself holds an answer of the world's."""
    return {
        "id": prepared.item.id,
        "context": contexts[prepared.item.context],
        "world_in_question": holds(prepared.item.question, prepared.item.world),
        "segments": prepared.segments,
        "context_tokens": prepared.context_tokens,
        "vectors": prepared.vectors,
        "stated": task.stated(prepared.item),
        "tokens": [len(ids) for ids in prepared.options],
    }


def _counts(pair: Pair, counted: Sequence[Record], left_out: Mapping[str, int]) -> dict[str, Any]:
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


def _selection(counted: Sequence[Record], also: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each selection the tokens it kept, a mean over items, beside the budget and the text."""
    n = len(counted)

    def budget(name: str, r: Record) -> int:
        return selection.budget_of(name, r["vectors"], r["context_tokens"])

    return {
        name: {
            "tokens": sum(r["kept"][name] for r in counted) / n,
            "budget": sum(budget(name, r) for r in counted) / n,
            "text": sum(r["context_tokens"] for r in counted) / n,
            "vectors": sum(r["vectors"] for r in counted) / n,
            "over": sum(r["kept"][name] > budget(name, r) for r in counted),
        }
        for name in also
    }


def _some_left(records: Sequence[Record], steps: Sequence[Step]) -> None:
    if not records:
        raise EvalError(
            f"no item is left to count: {_steps(steps)}; expected at least one, relax --filter"
        )


def _steps(steps: Sequence[Step]) -> str:
    each = [(s["left"], s["rule"]) for s in steps]
    known = "read", "can be asked"
    return ", ".join(f"{n:,} {rule if rule in known else f'after {rule}'}" for n, rule in each)
