"""Facts of the controlled world, and the parser that reads any text back into facts.

Kinds of facts: colour, material, size, profession, home (entity-attribute); relation (who did it to
whom); modifier (which of two animals has which mood); polarity; quantity; order (in time); topic.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxcomp.data import lexicon as lx

OUTCOMES = ("preserved", "overwritten", "swapped", "substituted", "omitted")

Key = tuple[str, ...]


class Fact(NamedTuple):
    """One fact of a passage.

    `start:end` are the characters of the fact's value in the text (for relation and order, of the
    clause). `swap` is the value this fact would have had its two arguments been exchanged ("" where
    the kind has no arguments to exchange).
    """

    kind: str
    key: Key
    value: str
    favourite: str
    swap: str
    options: tuple[str, ...]
    start: int = 0
    end: int = 0
    group: str = ""  # facts that metrics also count together, such as those of one exposure

    @property
    def is_favourite(self) -> bool:
        return self.value == self.favourite


def outcome(fact: Fact, values: Mapping[Key, str]) -> str:
    """The one name of what became of `fact` in a text that reads as `values`.

    preserved: the same value. swapped: the two arguments exchanged. overwritten: the prior's
    favourite instead. substituted: another value. omitted: no such fact. An exchange that is also
    the favourite counts as swapped, so relation, modifier and order report drift and never
    overwriting for it.
    """
    value = values.get(fact.key)
    if value is None:
        return "omitted" if fact.value else "preserved"  # a source that leaves the value out
    if value == fact.value:
        return "preserved"
    if fact.swap and value == fact.swap:
        return "swapped"
    return "overwritten" if value == fact.favourite else "substituted"


class Prompt(NamedTuple):
    """The words of a text that stand before a fact's value: what is expected to follow?"""

    text: str
    options: tuple[str, ...]
    favourite: str
    group: str = "all"


class Mention(NamedTuple):
    """A fact's value in a text, at the characters [start, end) (relation and order: the clause)."""

    value: str
    start: int
    end: int


def read(text: str) -> dict[Key, str]:
    """Facts of any text of the world, however damaged; the first mention of a fact counts."""
    return {key: found.value for key, found in mentions(text).items()}


def mentions(text: str) -> dict[Key, Mention]:
    """`read` with places."""
    found: dict[Key, Mention] = {}
    for sentence in re.finditer(r"[^.]+", text):
        for reader in _readers():
            for key, value, (start, end) in reader(sentence[0]):
                at = sentence.start()
                found.setdefault(key, Mention(value, at + start, at + end))
    return found


VALUES: dict[str, tuple[str, ...]] = {
    "colour": lx.COLOURS,
    "material": lx.MATERIALS,
    "size": lx.SIZES,
    "profession": lx.PROFESSIONS,
    "home": lx.HOMES,
    "modifier": lx.MOODS,
    "polarity": lx.POLARITIES,
    "quantity": lx.NUMBERS,
    "topic": lx.TOPICS,
}

_OF_PERSONS = [{p: v[i] for p, v in lx.PERSONS.items()} for i in range(2)]
# kind -> (entity -> natural favourite, values, clause)
ATTRIBUTES: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "topic": (lx.TOPIC_AT, lx.TOPICS, "at the {entity} they talked about {value}"),
    "colour": (lx.COLOUR_OF, lx.COLOURS, "the {entity} was {value}"),
    "material": (lx.MATERIAL_OF, lx.MATERIALS, "the {entity} was made of {value}"),
    "size": (lx.SIZE_OF, lx.SIZES, "the {entity} looked {value}"),
    "profession": (_OF_PERSONS[0], lx.PROFESSIONS, "{entity} worked as a {value}"),
    "home": (_OF_PERSONS[1], lx.HOMES, "{entity} lived in {value}"),
    "quantity": (lx.NUMBER_OF, lx.NUMBERS, "{who} bought {value} {entity}"),
}

KINDS = (*ATTRIBUTES, "relation", "modifier", "polarity", "order")

_Found = tuple[Key, str, tuple[int, int]]
_Reader = Callable[[str], list[_Found]]


@functools.cache
def _readers() -> list[_Reader]:
    person, animal = "|".join(lx.PERSONS), "|".join(lx.SIZE_OF)
    event, deed = "|".join(lx.EVENTS), "|".join(lx.DEEDS)
    action, mood = "|".join(lx.ACTION_IS), "|".join(lx.MOODS)

    def scan(pattern: str, fact: Callable[[re.Match], _Found]) -> _Reader:
        regex = re.compile(rf"\b{pattern}\b", re.IGNORECASE)
        return lambda sentence: [fact(m) for m in regex.finditer(sentence)]

    def attribute(kind: str) -> _Reader:
        table, _, form = ATTRIBUTES[kind]
        form = form.replace("{who} ", "")
        value = r"(?P<v>(?!made of)[A-Za-z]+)" if kind == "colour" else r"(?P<v>[A-Za-z]+)"
        pattern = form.format(entity=f"(?P<e>{'|'.join(table)})", value=value)
        return scan(pattern, lambda m: ((kind, _name(m["e"], table)), m["v"], m.span("v")))

    def when(m: re.Match) -> _Found:
        first, second = m["a"].lower(), m["b"].lower()
        if m["w"].lower() == "after":
            first, second = second, first
        return ("order", *sorted((first, second))), first, m.span()

    return [
        *(attribute(kind) for kind in ATTRIBUTES),
        scan(
            rf"(?P<a>{person}) (?P<d>{deed}) (?P<p>{person})",
            lambda m: (
                ("relation", *sorted((m["a"], m["p"]))),
                f"{m['a']} {m['d']} {m['p']}",
                m.span(),
            ),
        ),
        scan(
            rf"(?P<m>{mood}) (?P<e>{animal})",
            lambda m: (("modifier", m["e"].lower()), m["m"].lower(), m.span("m")),
        ),
        scan(
            rf"(?P<e>{person}) (?P<v>did (?P<n>not )?)(?P<x>{action})",
            lambda m: (
                ("polarity", m["e"], m["x"].lower()),
                "no" if m["n"] else "yes",
                (m.start("v"), m.end("v") - 1),
            ),
        ),
        scan(rf"(?P<a>{event}) (?P<w>before|after) (?P<b>{event})", when),
    ]


def _name(found: str, table: Mapping[str, str]) -> str:
    return found if found in table else found.lower()
