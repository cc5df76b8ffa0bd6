"""A source's text: training blocks, held-out sets, language-modelling text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxcomp.config import Config, DataConfig
from jaxcomp.data.documents import DataError, Documents, collected
from jaxcomp.data.examples import Counts, Example, Found, text_examples
from jaxcomp.data.sources import Question, documents_by, questions_by, source_of, title_of
from jaxcomp.data.splits import split_documents
from jaxcomp.data.tokenizer import Tokenizer, train_tokenizer
from jaxcomp.runtime.registry import implementation

DOCUMENTS = 128  # of a block
_TOKENIZER_CHARS = 8_000_000  # a tokenizer is trained on about this much text


class Corpus(Protocol):
    """The text of a config.

    `content` is what blocks of examples depend on, apart from tokenizers and lengths, `lm_content`
    the same of language modelling; `fingerprint` names the training documents, "" where they are a
    function of the config. `permute`: blocks come in another order in each epoch.
    """

    tokenizer_name: str
    blocks: int
    permute: bool
    content: list
    lm_content: list
    fingerprint: str

    def examples(self, block: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        """The training examples of a block."""
        ...

    def held_out(self, which: str, wanted: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        """At least `wanted` examples of a set where there are so many that fit."""
        ...

    def texts(self, block: int, words: int, tok: Tokenizer) -> tuple[list[str], list[str]]:
        """What a language model reads: heads, which copies repeat, and tails ("": none). A head
        that is drawn has at most `words` words."""
        ...

    def questions(self, examples: Sequence[Example]) -> list[Sequence[Question]]:
        """Those about each example."""
        ...

    def make_tokenizer(self, folder: Path) -> None:
        """Makes the text's own tokenizer, called `tokenizer_name`, unless it is there."""
        ...


def corpus(cfg: Config) -> Corpus:
    """Raises DataError, ConfigError for text that cannot be used."""
    return implementation(source_of(cfg).corpus)(cfg)


class DocumentCorpus:
    """Documents, split and shuffled, cut into examples."""

    permute = True

    def __init__(self, cfg: Config):
        self.cfg, self.source = cfg, source_of(cfg)
        self.train = documents_of(cfg, "train")
        self.blocks = -(-len(self.train) // DOCUMENTS)
        self.content = [self.train.fingerprint, len(self.train), cfg.data.seed, DOCUMENTS]
        self.content += [self.source.whole]
        self.lm_content = self.content
        self.fingerprint = f"{self.train.fingerprint}-{len(self.train)}"
        self.tokenizer_name = f"bpe-{self.fingerprint}-{cfg.data.seed}-{cfg.data.vocab_size}"

    def examples(self, block: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        return text_examples(self._block(block), self.cfg, comp, dec, whole=self.source.whole)

    def held_out(self, which: str, wanted: int, comp: Tokenizer, dec: Tokenizer) -> Found:
        docs = documents_of(self.cfg, which)
        if self.source.whole:  # twice as many, because some may not fit
            return text_examples(docs.part(0, 2 * wanted), self.cfg, comp, dec, whole=True)
        found: dict[str, list[Example]] = {}
        counts = Counts()
        most = 2 + wanted // len(docs)  # the last example of a document has no continuation
        for start in range(0, len(docs), 64):
            if len(found) >= wanted:
                break
            some = docs.part(start, start + 64)
            examples, seen = text_examples(some, self.cfg, comp, dec, most=most)
            counts += seen
            for e in examples:
                if len(e.ctx) == self.cfg.data.segments and e.continuation:
                    found.setdefault(e.id.rsplit(":", 1)[0], []).append(e)
        rounds = itertools.zip_longest(*found.values())
        return [e for one_of_each in rounds for e in one_of_each if e is not None], counts

    def texts(self, block: int, words: int, tok: Tokenizer) -> tuple[list[str], list[str]]:
        heads = [d.text for d in self._block(block)]
        return heads, [""] * len(heads)

    def questions(self, examples: Sequence[Example]) -> list[Sequence[Question]]:
        about = questions_by(self.cfg.data)
        return [about.get(e.id, ()) for e in examples]

    def make_tokenizer(self, folder: Path) -> None:
        train_tokenizer(_some_text(self.train), self.cfg.data.vocab_size, folder)

    def _block(self, number: int) -> Documents:
        return self.train.part(number * DOCUMENTS, (number + 1) * DOCUMENTS)


def documents_of(cfg: Config, split: str) -> Documents:
    """Documents of a split, shuffled by data.seed (so that a block is a mixture of works)."""
    d = cfg.data
    names = ("source", "path", "text_field", "tfds_name", "tfds_split", "options", "seed")
    return _splits_of(DataConfig(**{name: getattr(d, name) for name in names}))[split]


@functools.lru_cache(maxsize=2)
def _splits_of(data: DataConfig) -> dict[str, Documents]:
    # One read serves the tokenizer, the batches and every evaluation set of a run.
    docs = documents_by(data)
    docs = docs if isinstance(docs, Documents) else collected(docs, title_of(data))
    if not len(docs):
        raise DataError(f"{title_of(data)}: no document with a text")
    shuffled = {}
    for split, part in split_documents(docs, data.seed).items():
        order = np.random.default_rng([data.seed, 1]).permutation(len(part))
        shuffled[split] = part.view(part.rows[order])
    return shuffled


def _some_text(docs: Documents):
    seen = 0
    for doc in docs:
        yield doc.text
        seen += len(doc.text)
        if seen > _TOKENIZER_CHARS:
            return
