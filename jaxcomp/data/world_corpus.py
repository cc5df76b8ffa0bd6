"""A world whose facts are known as a corpus: passages by number, no documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, config_hash
from jaxcomp.data.draw import FactWorld, Passage, context_words
from jaxcomp.data.examples import Counts, Example, Found, world_examples
from jaxcomp.data.qa import of_passage
from jaxcomp.data.sources import Question, world_config, world_of
from jaxcomp.data.tokenizer import Tokenizer, world_tokenizer
from jaxcomp.data.world import scrambled

PASSAGES = 1024  # of a block
# Sets of the split "test" and how their passages are drawn; others are named as their split.
_TEST: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "counterfactual": {"counterfactual": True},
    "erased": {"erased": True},
}


class WorldCorpus:
    """Passages of the source's world, `cfg.data.train_passages` of them to train on."""

    permute = False  # passages are independent draws: a short run makes only those that it uses
    fingerprint = ""

    def __init__(self, cfg: Config):
        world = world_of(cfg)
        if world is None:
            raise ValueError(f"data.source = {cfg.data.source!r} has no facts")
        self.world: FactWorld = world
        self.cfg, self.count, self.config = cfg, cfg.data.train_passages, world_config(cfg)
        self.blocks = -(-self.count // PASSAGES)
        self.content = [world.training_text(self.config), self.count, PASSAGES]
        self.lm_content = [self.config, self.count, PASSAGES]
        self.words = world.words()
        self.tokenizer_name = f"world-{config_hash(self.words)}"

    def examples(self, block: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        prior = self.config.train_prior_strength
        drawn = self._drawn("train", self._numbers(block), prior, context_words(self.cfg))
        return world_examples(drawn, self.cfg, comp, dec)

    def held_out(self, which: str, wanted: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        words, how = context_words(self.cfg), _TEST.get(which, {})
        split, prior = which, self.config.train_prior_strength
        if which in _TEST:
            split, prior = "test", self.config.prior_strength
        examples, counts = [], Counts()
        for start in range(0, 10 * wanted, wanted):
            drawn = self._drawn(split, range(start, start + wanted), prior, words, **how)
            more, seen = world_examples(drawn, self.cfg, comp, dec)
            examples, counts = examples + more, counts + seen
            if len(examples) >= wanted:
                break
        return examples, counts

    def texts(self, block: int, words: int, tok: Tokenizer) -> tuple[list[str], list[str]]:
        heads, tails = [], []
        for p in self._drawn("train", self._numbers(block), self.config.prior_strength, words):
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
        self, split: str, numbers: Iterable[int], prior: float, words: int, **how: bool
    ) -> list[Passage]:
        draw = self.world.passage
        return [draw(split, i, prior_strength=prior, max_words=words, **how) for i in numbers]
