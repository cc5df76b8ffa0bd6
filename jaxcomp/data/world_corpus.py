"""The controlled world as a corpus: passages by number, no documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxcomp.config import Config, config_hash
from jaxcomp.data.examples import Counts, Piece, context_words, world_pieces
from jaxcomp.data.qa import of_passage
from jaxcomp.data.sources import Question
from jaxcomp.data.tokenizer import Tokenizer, world_tokenizer
from jaxcomp.data.world import Passage, World, own_world, scrambled

PASSAGES = 1024  # of a block
_DRAWN = {  # set -> (split, counterfactual)
    "train": ("train", False),
    "val": ("val", False),
    "ordinary": ("test", False),
    "counterfactual": ("test", True),
}


class WorldCorpus:
    """Passages of `cfg.world`, `cfg.data.train_passages` of them to train on."""

    permute = False  # passages are independent draws: a short run makes only those that it uses
    fingerprint = ""

    def __init__(self, cfg: Config):
        self.cfg, self.count = cfg, cfg.data.train_passages
        self.blocks = -(-self.count // PASSAGES)
        self.content = [own_world(cfg.world), self.count, PASSAGES]
        self.lm_content = [cfg.world, self.count, PASSAGES]

    def pieces(self, block: int, comp: Tokenizer, dec: Tokenizer) -> tuple[list[Piece], Counts]:
        cfg = dataclasses.replace(self.cfg, world=own_world(self.cfg.world))
        drawn = self._passages(cfg, block, cfg.world.train_prior_strength, context_words(cfg))
        return world_pieces(drawn, cfg, comp, dec)

    def held_out(
        self, which: str, wanted: int, comp: Tokenizer, dec: Tokenizer
    ) -> tuple[list[Piece], Counts]:
        cfg, (split, counterfactual) = self.cfg, _DRAWN[which]
        trained = which in ("train", "val")
        prior = cfg.world.train_prior_strength if trained else cfg.world.prior_strength
        world, pieces, counts = World(cfg.world), [], Counts()
        for start in range(0, 10 * wanted, wanted):
            drawn = [
                world.passage(
                    split,
                    i,
                    prior_strength=prior,
                    counterfactual=counterfactual,
                    max_words=context_words(cfg),
                )
                for i in range(start, start + wanted)
            ]
            more, seen = world_pieces(drawn, cfg, comp, dec)
            pieces, counts = pieces + more, counts + seen
            if len(pieces) >= wanted:
                break
        return pieces, counts

    def texts(self, block: int, words: int, tok: Tokenizer) -> tuple[list[str], list[str]]:
        drawn = self._passages(self.cfg, block, self.cfg.world.prior_strength, words)
        drawn = [_scrambled(p) for p in drawn] if self.cfg.world.base_scrambled else drawn
        # A byte-level token holds the space before its word; the world's implies it.
        space = " " if tok.byte_level else ""
        return [p.text for p in drawn], [space + p.continuation for p in drawn]

    def questions(self, pieces: Sequence[Piece]) -> list[Sequence[Question]]:
        return [of_passage(p.passage) for p in pieces if p.passage is not None]

    @property
    def tokenizer_name(self) -> str:
        return f"world-{config_hash(World(self.cfg.world).words())}"

    def make_tokenizer(self, folder: Path) -> None:
        world_tokenizer(World(self.cfg.world).words(), folder)

    def _passages(self, cfg: Config, number: int, prior: float, words: int) -> list[Passage]:
        world, first = World(cfg.world), number * PASSAGES
        last = min(first + PASSAGES, self.count)
        return [
            world.passage("train", i, prior_strength=prior, max_words=words)
            for i in range(first, last)
        ]


def _scrambled(p: Passage) -> Passage:
    parts = (scrambled(t, f"{p.id}/{i}") for i, t in enumerate((p.text, p.continuation)))
    text, continuation = parts
    return p._replace(text=text, continuation=continuation)
