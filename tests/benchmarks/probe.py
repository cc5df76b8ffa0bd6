"""Questions about passages in batches, as `jaxcomp eval --task` asks, beside one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcomp.evals.qa.ask import MAX_NEW
from jaxcomp.evals.qa.conditions import Asked, Reading, batches, prepare
from jaxcomp.evals.qa.conditions import measure as measure_batch
from jaxcomp.evals.qa.items import Item
from jaxcomp.inference import Pair
from tests.benchmarks.fixture import BenchError, Times, interleaved

QUESTION, ANSWERS = "who looked small?", ("Alice", "the goat")
Readings = list[dict[str, Reading]]


def asked_about(pair: Pair, texts: Sequence[str]) -> list[Asked]:
    """The same question about every text, with two options. Raises BenchError where the pair
    cannot be asked about one of them."""
    items = [
        Item(str(number), QUESTION, text, ANSWERS[:1], ANSWERS[1:])
        for number, text in enumerate(texts)
    ]
    asked, left_out = prepare(pair, items, max_new=MAX_NEW)
    if left_out:
        raise BenchError(f"of {len(items)} texts some cannot be asked about: {dict(left_out)}")
    return asked


def measure(pair: Pair, asked: Sequence[Asked], repeats: int) -> tuple[dict[str, Times], int]:
    """Seconds to ask about every text: "batched" and "single"; and for how many texts the greedy
    answers and the likelier options of all conditions are the same. Tokenising is not counted."""
    found: dict[str, Readings] = {}

    def batched() -> None:
        by_id = {}
        for part in batches(asked, pair.batch):
            readings = measure_batch(pair, part, max_new=MAX_NEW)
            by_id |= {a.item.id: r for a, r in zip(part, readings, strict=True)}
        found["batched"] = [by_id[a.item.id] for a in asked]

    def single() -> None:
        found["single"] = [one_at_a_time(pair, a) for a in asked]

    times = interleaved({"batched": batched, "single": single}, repeats)
    both = zip(found["batched"], found["single"], strict=True)
    return times, sum(_outcomes(a) == _outcomes(b) for a, b in both)


def one_at_a_time(pair: Pair, asked: Asked) -> dict[str, Reading]:
    """One item as one would ask it without batches: a call reads one prompt, and scores one option
    after it or continues it. Memory and rebuilt text are made once."""
    memory = pair.compress(asked.item.context)
    text = pair.reconstruct(memory)[0]
    prompts = {
        "nothing": lambda: pair.plain([asked.tail_ids]),
        "text": lambda: pair.plain([asked.text_ids]),
        "memory": lambda: next(iter(pair.asked(memory, [asked.tail])))[1],
        "rebuilt": lambda: pair.plain([pair.dec_tok.encode(text + asked.tail)]),
    }
    out = {}
    for condition, prompt in prompts.items():
        scores = [pair.likelihoods(prompt(), [[ids]])[0][0] for ids in asked.options]
        out[condition] = Reading(tuple(scores), pair.answers(prompt(), max_new=MAX_NEW)[0])
    return out


def _outcomes(readings: dict[str, Reading]) -> dict[str, tuple[bool, str]]:
    return {
        name: (reading.options[0].nats < reading.options[1].nats, reading.answer)
        for name, reading in readings.items()
    }
