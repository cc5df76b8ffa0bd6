"""A held-out set with its rebuilt texts: the input of every metric."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxcomp.data.draw import FactWorld, Passage
from jaxcomp.data.sources import world_of

if TYPE_CHECKING:
    from jaxcomp.config import Config
    from jaxcomp.data.eval_sets import Example
    from jaxcomp.data.tokenizer import Tokenizer


class Row(NamedTuple):
    """One passage, rebuilt. Token lists are the decoder's and without the end token; `nll` (nats),
    `correct` and `targets` are sums over the target tokens, the end token included. `favourites`,
    in a world with groups of facts: the teacher-forced probability of each fact's favourite at the
    place of its value (None: metrics/favourites.py)."""

    source: str
    rebuilt: str
    source_ids: list[int]
    rebuilt_ids: list[int]
    nll: float
    correct: int
    targets: int
    favourites: Sequence[float | None] = ()


class Sureness(NamedTuple):
    """Sums over one passage's tokens, end tokens included; entropies in nats."""

    entropy_source: float
    top1_source: float
    tokens_source: int
    entropy_own: float
    top1_own: float
    tokens_own: int


class Rebuilt(NamedTuple):
    """What one passage became, with its memory and without any (`no_memory`)."""

    row: Row
    no_memory: Row
    sure: Sureness
    vec_MD: np.ndarray  # the valid memory vectors, after the connector
    top1_L: np.ndarray  # teacher-forced, of every target token
    correct_L: np.ndarray


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A held-out set, and what a trained pair made of each of its passages."""

    name: str
    cfg: Config
    examples: Sequence[Example]
    rebuilt: Sequence[Rebuilt]
    left_out: int  # passages that do not fit, looked at for the set
    vector_bytes: int  # of one memory vector, in the dtype that the decoder computes in
    dec_tok: Tokenizer
    # Token lists of sampled rebuilds of the first passages, by passage; computed when called.
    samples: Callable[[], list[list[list[int]]]] = list

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in self.rebuilt]

    @property
    def vectors(self) -> int:
        return sum(len(one.vec_MD) for one in self.rebuilt)

    @functools.cached_property
    def world(self) -> FactWorld:
        """What knows the facts of the passages. Raises ValueError for a real text."""
        world = world_of(self.cfg)
        if world is None:
            raise ValueError(f"data.source = {self.cfg.data.source!r}: no fact is known")
        return world

    @property
    def passages(self) -> list[Passage]:
        """What the world knows of each passage; empty for a real text."""
        return [e.passage for e in self.examples if e.passage is not None]

    def without_memory(self) -> EvalSet:
        """The same set as the decoder rebuilds it without memory."""
        rebuilt = [one._replace(row=one.no_memory) for one in self.rebuilt]
        return dataclasses.replace(self, rebuilt=rebuilt)
