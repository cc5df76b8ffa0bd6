"""Minimal pairs: a text and its foil, which differs in one place and states something else.

Of a passage of the controlled world the foil follows from its facts and is exactly false; of real
text rules make it (edit_rules.py). A passage gives at most one pair of a dimension.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxcomp.data import lexicon as lx
from jaxcomp.data import world
from jaxcomp.data.facts import Fact
from jaxcomp.data.segments import cut_encoded
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.pairs.changes import Change, Spot, changed
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS, TwinRules


class Passage(NamedTuple):
    """`source`: the set it is of. `world`: the passage of the controlled world, for its facts."""

    id: str
    text: str
    source: str
    world: world.Passage | None = None


class MinimalPair(NamedTuple):
    """`text` is what is compressed, a passage or one window of it; `foil` is the same with the
    `changes` made, by one rule."""

    id: str  # <passage>/<dimension>
    source: str
    dimension: str
    rule: str
    text: str
    foil: str
    changes: tuple[Change, ...]


def windows(text: str, tok: Tokenizer, segment: int, segments: int) -> list[str]:
    """The text in windows of what one example of the training holds, `segments` of `segment`
    compressor tokens, less an eighth of a segment: a foil may take a few tokens more. What is left
    of a text that is longer counts where it fills half a segment."""
    ids, offsets = tok.encode_with_offsets(text)
    most = segments * segment - segment // 8
    parts = cut_encoded(text, ids, offsets, most)
    return [p.text for p in parts if p is parts[0] or 2 * len(p.ids) >= segment]


def make(
    passages: Sequence[Passage], cut: Callable[[str], list[str]], seed: int = 0
) -> list[MinimalPair]:
    """The pairs of all passages in their order, by dimension within; pure in its arguments.
    `cut` gives the windows of a real text; a passage of the world is taken whole."""
    cuts = {p.id: [] if p.world else cut(p.text) for p in passages}
    rules = TwinRules([window for found in cuts.values() for window in found], seed)
    first = 0
    pairs: list[MinimalPair] = []
    for passage in passages:
        places = range(first, first + len(cuts[passage.id]))
        first = places.stop
        for dimension in DIMENSIONS:
            rng = random.Random(f"{seed}/{passage.id}/{dimension}")
            if passage.world is not None:
                of_text = [(passage.text, _facts(passage.world, dimension, rng))]
            else:
                order = list(places)
                rng.shuffle(order)
                of_text = ((rules.texts[i], rules.spots(i, dimension, rng)) for i in order)
            pairs += _first(passage, dimension, of_text, rng)
    return pairs


def _first(
    passage: Passage,
    dimension: str,
    of_text: Iterable[tuple[str, list[Spot]]],
    rng: random.Random,
) -> list[MinimalPair]:
    """The pair of the first text that has a spot, if any; a rule is drawn before its spot, so
    that frequent ones do not drown the others."""
    for text, spots in of_text:
        if spots:
            rule = rng.choice(sorted({spot.rule for spot in spots}))
            spot = rng.choice([spot for spot in spots if spot.rule == rule])
            name, foil = f"{passage.id}/{dimension}", changed(text, spot.changes)
            source, changes = passage.source, spot.changes
            return [MinimalPair(name, source, dimension, rule, text, foil, changes)]
    return []


# --- the controlled world: from its facts ---------------------------------------------------------

_DIMENSION = {
    "topic": "topic", "profession": "relation", "home": "relation", "colour": "modifier",
    "material": "modifier", "size": "modifier", "quantity": "quantity",
}  # fmt: skip


def _facts(passage: world.Passage, dimension: str, rng: random.Random) -> list[Spot]:
    """Every way to falsify a fact of that dimension; what it says is then in no fact."""
    return [s for d, s in _all_facts(passage, rng) if d == dimension]


def _all_facts(passage: world.Passage, rng: random.Random) -> Iterator[tuple[str, Spot]]:
    moods = [fact for fact in passage.facts if fact.kind == "modifier"]
    for one, two in zip(moods[::2], moods[1::2], strict=True):  # of one clause
        yield "modifier", Spot("exchanged", (_to(one, one.swap), _to(two, two.swap)))
    for fact in passage.facts:
        text = passage.text[fact.start : fact.end]
        if fact.kind in _DIMENSION:
            value = rng.choice([o for o in fact.options if o != fact.value])
            yield _DIMENSION[fact.kind], Spot(fact.kind, (_to(fact, value),))
        elif fact.kind == "relation":
            yield "role", Spot("exchanged", (_to(fact, fact.swap),))
            agent, deed, patient = text.split()
            other = rng.choice([d for d in lx.DEEDS if d != deed])
            yield "relation", Spot("deed", (_to(fact, f"{agent} {other} {patient}"),))
        elif fact.kind == "polarity":
            rule, new = ("affirmed", "did") if fact.value == "no" else ("negated", "did not")
            yield "polarity", Spot(rule, (_to(fact, new),))
        elif fact.kind == "order":
            old, new = ("before", "after") if " before " in text else ("after", "before")
            at = fact.start + text.index(f" {old} ") + 1
            yield "order", Spot("turned", (Change(at, at + len(old), new),))


def _to(fact: Fact, new: str) -> Change:
    return Change(fact.start, fact.end, new)
