"""The controlled world as a corpus: passages by number, no documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxcomp.config import Config, config_hash
from jaxcomp.data.examples import Counts, Example, Found, context_words, world_examples
from jaxcomp.data.qa import of_passage
from jaxcomp.data.sources import Question
from jaxcomp.data.tokenizer import Tokenizer, world_tokenizer
from jaxcomp.data.world import Passage, World, own_world, scrambled

PASSAGES = 1024  # of a block
_TEST = ("ordinary", "counterfactual")  # sets of the split "test"; others are named as theirs


class WorldCorpus:
    """Passages of `cfg.world`, `cfg.data.train_passages` of them to train on."""

    permute = False  # passages are independent draws: a short run makes only those that it uses
    fingerprint = ""

    def __init__(self, cfg: Config):
        self.cfg, self.count = cfg, cfg.data.train_passages
        self.blocks = -(-self.count // PASSAGES)
        self.content = [own_world(cfg.world), self.count, PASSAGES]
        self.lm_content = [cfg.world, self.count, PASSAGES]
        self.words = World(cfg.world).words()
        self.tokenizer_name = f"world-{config_hash(self.words)}"

    def examples(self, block: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        cfg = dataclasses.replace(self.cfg, world=own_world(self.cfg.world))
        prior = cfg.world.train_prior_strength
        drawn = _drawn(cfg, "train", self._numbers(block), prior, context_words(cfg))
        return world_examples(drawn, cfg, comp, dec)

    def held_out(self, which: str, wanted: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        cfg, words = self.cfg, context_words(self.cfg)
        split, prior = which, cfg.world.train_prior_strength
        if which in _TEST:
            split, prior = "test", cfg.world.prior_strength
        examples, counts = [], Counts()
        for start in range(0, 10 * wanted, wanted):
            numbers = range(start, start + wanted)
            drawn = _drawn(cfg, split, numbers, prior, words, which == "counterfactual")
            more, seen = world_examples(drawn, cfg, comp, dec)
            examples, counts = examples + more, counts + seen
            if len(examples) >= wanted:
                break
        return examples, counts

    def texts(self, block: int, words: int, tok: Tokenizer) -> tuple[list[str], list[str]]:
        prior = self.cfg.world.prior_strength
        heads, tails = [], []
        for p in _drawn(self.cfg, "train", self._numbers(block), prior, words):
            both = p.text, p.continuation
            if self.cfg.world.base_scrambled:
                both = (scrambled(text, f"{p.id}/{i}") for i, text in enumerate(both))
            head, tail = both
            heads.append(head)
            # A byte-level token holds the space before its word; the world's implies it.
            tails.append(f" {tail}" if tok.byte_level else tail)
        return heads, tails

    def questions(self, examples: Sequence[Example]) -> list[Sequence[Question]]:
        return [of_passage(e.passage) for e in examples]

    def make_tokenizer(self, folder: Path) -> None:
        world_tokenizer(self.words, folder)

    def _numbers(self, block: int) -> range:
        return range(block * PASSAGES, min((block + 1) * PASSAGES, self.count))


def _drawn(
    cfg: Config,
    split: str,
    numbers: Iterable[int],
    prior: float,
    words: int,
    counterfactual: bool = False,
) -> list[Passage]:
    draw = World(cfg.world).passage
    return [
        draw(split, i, prior_strength=prior, counterfactual=counterfactual, max_words=words)
        for i in numbers
    ]
