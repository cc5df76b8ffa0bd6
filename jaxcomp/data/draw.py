"""Passages of worlds whose facts are known: what they are, and how they are drawn with the exact
probability of their text."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from jaxcomp.config import Config
from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import Fact, Key, Mention, Prompt

SPLITS = {"train": range(14), "val": range(14, 15), "test": range(15, 16)}
BUCKETS = 16  # a text's hash decides its split, so splits are disjoint by construction
COUNTERFACTUAL_RATE = 0.5  # P(a fact of a counterfactual passage is not the favourite)


def generator(name: str) -> random.Random:
    """A generator that is a function of a name, the same in every process."""
    return random.Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))


def in_split(text: str, split: str) -> bool:
    """Is the text of that split, by its hash?"""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % BUCKETS in SPLITS[split]


def context_words(cfg: Config) -> int:
    """Longest world passage, in words (tokens of the world's tokenizer)."""
    return min(cfg.data.segment * cfg.data.segments, cfg.data.target - 1)


class Passage(NamedTuple):
    """`bits` is -log2 p(text) under the world's own prior_strength, whatever drew the passage.

    p is that of writing the text before it is known to which split it belongs: who knows that it is
    of "test" or "val" needs 4 bits (log2 of 16 buckets) less.
    """

    id: int
    text: str
    facts: tuple[Fact, ...]
    continuation: str
    bits: float


class FactWorld(Protocol):
    """What knows the facts of passages. `section`: its part of Config."""

    section: str

    # Of a config: what the text of the compressor's training is of; the others stand in
    # training.identity.
    @staticmethod
    def training_text(config: Any) -> Any: ...
    def words(self) -> list[str]: ...
    @property
    def passage(self) -> Callable[..., Passage]: ...
    def read(self, text: str) -> dict[Key, str]: ...
    def mentions(self, text: str) -> dict[Key, Mention]: ...
    def facts(self, text: str) -> list[Fact]: ...
    def prompts(self) -> list[Prompt]: ...


class Draw:
    """One passage in the making: choices, and their exact probability under the world's prior."""

    def __init__(self, rng: random.Random, favoured: float, prior: float):
        self.rng, self.favoured, self.prior = rng, favoured, prior
        self.bits = 0.0
        self.used: dict[str, set] = {}

    def pick(self, items: Sequence):
        self.bits += math.log2(len(items))
        return items[int(self.rng.random() * len(items))]

    def fresh(self, kind: str, items: Sequence):
        """A uniform choice among what this passage has not yet used under `kind`."""
        used = self.used.setdefault(kind, set())
        item = self.pick([i for i in items if i not in used])
        used.add(item)
        return item

    def opening(self) -> str:
        """Half of the sentences stand alone, the others begin with one of the openings."""
        return self.pick(lx.OPENINGS) if self.pick((True, False)) else ""

    def happens(self, p: float) -> bool:
        """True with probability `p`."""
        yes = self.rng.random() < p
        self.bits -= math.log2(p if yes else 1.0 - p)
        return yes

    def value(self, favourite: str, options: Sequence[str]) -> str:
        """The favourite with probability `favoured`, else uniform among the others."""
        others = [o for o in options if o != favourite]
        if self.rng.random() < self.favoured:
            self.bits -= math.log2(self.prior)
            return favourite
        self.bits -= math.log2((1.0 - self.prior) / len(others))
        return others[int(self.rng.random() * len(others))]
