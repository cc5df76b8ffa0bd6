"""Changes of a text, made by rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """`new` takes the place of the characters `start:end`."""

    start: int
    end: int
    new: str


class Spot(NamedTuple):
    """One way to make a text false, by one rule; `changes` are in order and do not overlap."""

    rule: str
    changes: tuple[Change, ...]


def changed(text: str, changes: Sequence[Change]) -> str:
    """The text with every change made."""
    out, done = [], 0
    for start, end, new in changes:
        out += [text[done:start], new]
        done = end
    return "".join([*out, text[done:]])


def change(m: re.Match, group: str | int, new: str) -> Change:
    return Change(m.start(group), m.end(group), new)


def exchange(rule: str, m: re.Match) -> Spot:
    """The groups `a` and `b` in each other's place."""
    return Spot(rule, (change(m, "a", m["b"]), change(m, "b", m["a"])))


def any_of(words: Iterable[str]) -> str:
    """A pattern of any of these words."""
    return "|".join(sorted(sorted(words), key=len, reverse=True))
