"""Overwriting on real text: does an answer from the memory follow the passage or the world?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import config_hash
from jaxcomp.probe.conditions import CONDITIONS, Asked, Reading, batches, measure, prepare
from jaxcomp.probe.items import Item, ProbeError, fingerprint
from jaxcomp.probe.journal import Journal
from jaxcomp.probe.scoring import OUTCOMES, PASSAGE, PRIMARY, SCORINGS, WORLD, free, likelier, share
from jaxcomp.train.metrics import duration
from jaxcomp.use.pair import QUESTION, Pair

VERSION = 1  # of the definitions: results of another one are not taken over
MAX_NEW = 24
Say = Callable[[str], None]


class Probed(NamedTuple):
    """`result` is what the file holds (see docs/metrics.md); `made` is False where it was there."""

    result: dict[str, Any]
    made: bool


def run(
    pair: Pair,
    items: Sequence[Item],
    out: Path | None = None,
    *,
    max_new: int = MAX_NEW,
    say: Say | None = None,
) -> Probed:
    """Asks every item from nothing, from its text and from its memory, and counts whose answer it
    is. With `out` the result is written there, whole or not at all; stopped, the same call goes
    on after the last batch; finished, it reads the file.

    Raises ProbeError where `out` holds something else, or no item can be asked.
    """
    say = say or (lambda text: None)
    about = _about(pair, items, max_new)
    journal = Journal(out, about)
    if (found := journal.finished()) is not None:
        return Probed(found, False)
    asked, left_out = prepare(pair, items, max_new=max_new)
    reasons = "; ".join(f"{n} with {why}" for why, n in sorted(left_out.items()))
    if not asked:
        raise ProbeError(f"none of the {len(items)} items can be asked: {reasons}")
    if reasons:
        say(f"left out: {reasons}")
    records = {record["id"]: record for record in journal.records()}
    if records:
        say(f"{len(records):,} of {len(asked):,} items were done already")
    progress = _Progress(say, asked, records)
    for part in batches(asked, pair.batch):
        part = [a for a in part if a.item.id not in records]
        if not part:
            continue
        found = measure(pair, part, max_new=max_new)
        made = [_record(a, readings) for a, readings in zip(part, found, strict=True)]
        journal.add(made)
        records |= {record["id"]: record for record in made}
        progress(part)
    result = {
        "about": about,
        "items": {
            "read": len(items),
            "asked": len(asked),
            "left_out": dict(left_out),
            "trained_segments": pair.traits.segments,
            "beyond_training": sum(a.segments > pair.traits.segments for a in asked),
        },
        **rates([records[a.item.id] for a in asked]),
        "records": [records[a.item.id] for a in asked],
    }
    journal.finish(result)
    return Probed(result, True)


def rates(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`conditions`: the share of each outcome by condition and scoring. `overwriting`: by scoring,
    the share with the world's answer from the memory among those with the passage's answer from
    the full text."""
    conditions = {
        condition: {
            scoring: {
                outcome: share(
                    sum(r["conditions"][condition][scoring] == outcome for r in records),
                    len(records),
                )
                for outcome in OUTCOMES
            }
            for scoring in SCORINGS
        }
        for condition in CONDITIONS
    }
    overwriting = {}
    for scoring in SCORINGS:
        known = [r["conditions"] for r in records if r["conditions"]["text"][scoring] == PASSAGE]
        lost = sum(c["memory"][scoring] == WORLD for c in known)
        overwriting[scoring] = share(lost, len(known))
    return {"conditions": conditions, "overwriting": overwriting}


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    items = result["items"]
    lines = [f"{items['asked']:,} of {items['read']:,} items asked"]
    lines += [f"  left out: {n:,} with {why}" for why, n in sorted(items["left_out"].items())]
    lines += [
        f"  {items['beyond_training']:,} have a memory of more than the {items['trained_segments']}"
        " segment(s) this pair was trained with",
        "",
        f"{'answer from':12} {'scored by':10}" + "".join(f"{o:>26}" for o in OUTCOMES),
    ]
    for condition in CONDITIONS:
        for scoring in SCORINGS:
            found = result["conditions"][condition][scoring]
            shown = "".join(f"{_shown(found[outcome]):>26}" for outcome in OUTCOMES)
            lines.append(f"{condition:12} {scoring:10}{shown}")
    lines += ["", "overwriting: the world's answer from the memory, where the text's was right"]
    for scoring in SCORINGS:
        found = result["overwriting"][scoring]
        primary = "  (primary)" if scoring == PRIMARY else ""
        lines.append(
            f"{'':12} {scoring:10}{_shown(found):>26}  {found['count']}/{found['n']}{primary}"
        )
    lines += ["", "Wilson 95% intervals; definitions: docs/metrics.md"]
    return "\n".join(lines)


def _shown(found: dict[str, Any]) -> str:
    if found["rate"] is None:
        return "not measurable"
    rate, low, high = (100 * found[name] for name in ("rate", "low", "high"))
    return f"{rate:.1f}% [{low:.1f}, {high:.1f}]"


def _about(pair: Pair, items: Sequence[Item], max_new: int) -> dict[str, Any]:
    """What decides the result."""
    about = {
        "probe": "conflicts",
        "version": VERSION,
        "items": fingerprint(items),
        "compressor": pair.traits.compressor,
        "decoder": pair.traits.decoder,
        "ratio": pair.traits.ratio,
        "template": QUESTION,
        "max_new": max_new,
    }
    return about | {"hash": config_hash(about)}


def _record(asked: Asked, readings: dict[str, Reading]) -> dict[str, Any]:
    item = asked.item
    conditions = {}
    for name in CONDITIONS:
        passage, world = readings[name].options
        conditions[name] = {
            "nats": {PASSAGE: passage.nats, WORLD: world.nats},
            "answer": readings[name].answer,
            "mean": likelier((passage, world), "mean"),
            "sum": likelier((passage, world), "sum"),
            "free": free(readings[name].answer, item.context_answer, item.prior_answer),
        }
    tokens = {PASSAGE: len(asked.options[0]), WORLD: len(asked.options[1])}
    return {
        "id": item.id,
        "segments": asked.segments,
        "tokens": tokens,
        "conditions": conditions,
    }


class _Progress:
    """Says what, how far, how fast and how much longer, every few seconds and at the end."""

    def __init__(self, say: Say, asked: Sequence[Asked], before: dict[str, Any]):
        todo = [a for a in asked if a.item.id not in before]
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
            self.say(f"{self.done:,} items probed in {duration(spent)}, {rate}")
            return
        left = spent * self.left / (self.tokens - self.left)
        self.say(f"{self.done:,} of {self.every:,} items probed, {rate}, {duration(left)} left")
