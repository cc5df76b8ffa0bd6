"""Planted items and a decoder that answers as planned, for the tests of this package."""

import json
from types import SimpleNamespace
from typing import Any

from jaxcomp.evals.qa.conditions import CONDITIONS, Prepared, Reading
from jaxcomp.evals.qa.items import Item
from jaxcomp.inference.pair import Score, Traits


def pair_of(compressor="c") -> Any:
    """What a run of planted answers needs of a pair."""
    return SimpleNamespace(traits=Traits(16, 1, 72, "d" * 12, compressor * 12), batch=2)


def planted(count):
    """Item n's passage says "Oda n", the world "Tilo n"."""
    return [Item(f"n{i}", "who ?", f"Oda {i}", (f"Oda {i}",), (f"Tilo {i}",)) for i in range(count)]


def prepare(pair, items, *, max_new):
    """All can be asked; item 0 has two segments, item n a passage of 100 + n tokens, 7 vectors."""
    return [
        Prepared(item, "t", [1], [1] * 8, 100 + n, [[2, 3], [4]], 1 + (item.id == "n0"), 7)
        for n, item in enumerate(items)
    ], {}


def measure(pair, part, *, max_new, also=(), scorer=None, stop="\n"):
    """From nothing the world's answer, from the text the passage's; from memory that of even
    items; from the rebuilt text, which is cut, and from what is selected (4 + n tokens) always
    the world's."""
    return [{c: said(a.item, c) for c in (*CONDITIONS, *also)} for a in part]


def said(item, condition):
    even = int(item.id[1:]) % 2 == 0
    right = condition == "text" or (condition == "memory" and even)
    options = (Score(1.0, 2), Score(9.0, 1)) if right else (Score(9.0, 2), Score(1.0, 1))
    answer = item.answers[0] if right else item.world[0] if item.world else "nobody"
    kept = 0 if condition in CONDITIONS else 4 + int(item.id[1:])
    return Reading(options, answer, condition == "rebuilt", kept)


def write(file, items):
    """A file of nq_conflicts' schema."""
    rows = [
        {
            "id": item.id, "question": item.question, "context": item.context,
            "context_answer": item.answers[0], "prior_answer": item.world[0],
        }
        for item in items
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
