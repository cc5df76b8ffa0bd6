"""Training batches: seeded, the same on any number of hosts, resumable at exactly the next one.

Examples and their targets are drawn here, from the blocks that `stream.py` puts in order.
"""

from __future__ import annotations

import logging
import shutil
from typing import NamedTuple

import numpy as np

from jaxcomp.config import Config, PretrainConfig, TrainConfig
from jaxcomp.data.blocks import Blocks, Order
from jaxcomp.data.corpus import Corpus, corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.eval_sets import (
    CONTINUE,
    REBUILD,
    AnswerBatch,
    Batch,
    Example,
    LmBatch,
    batch_examples,
    drawn,
    eval_examples,
)
from jaxcomp.data.examples import Counts
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.data.packing import pack_documents
from jaxcomp.data.prepare import Block, example_blocks, lm_blocks
from jaxcomp.data.sources import source_of, title_of
from jaxcomp.data.stream import WindowIterator
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from jaxcomp.runtime.cache import cache_dir, damaged

__all__ = [
    "CONTINUE", "REBUILD", "AnswerBatch", "Batch", "DataStats", "Example", "LmBatch",
    "batch_examples", "batch_shapes", "data_stats", "data_tokenizer", "eval_examples",
    "lm_batches", "tokenizer_folder", "train_batches",
]  # fmt: skip

_READ = 1.5  # bytes a token: fewer, and the tokenizer spells a script that it has never seen


class DataStats(NamedTuple):
    """What the first block of training examples is like."""

    counts: Counts
    tokens_per_vector: float  # decoder tokens of the rebuilt text / valid memory vectors
    bytes_per_vector: float  # UTF-8 bytes of the text / valid memory vectors

    def __str__(self) -> str:
        c = self.counts
        form = f"{c.respelled} documents in NFC, " if c.respelled else ""
        return (
            f"{c.examples} examples of {c.documents} documents (the first block): "
            f"{c.short_segments} of {c.segments} segments padded, {c.too_short} documents too "
            f"short, {form}{c.too_long} examples too long, {c.unfollowed} without continuation; "
            f"{self.tokens_per_vector:.2f} decoder tokens and "
            f"{self.bytes_per_vector:.1f} bytes of text per memory vector"
        )


class _ExampleWindow:
    def __init__(self, block: Block, rng: np.random.Generator, train: TrainConfig):
        self.block, self.rows = block, len(block.of_W)
        targets = OBJECTIVES[train.objective].targets
        self.both, kind = targets == "both", AnswerBatch if targets == "question" else Batch
        self.fields = len(kind._fields)
        self.order = rng.permutation(self.rows)
        self.second = (rng.random(self.rows) >= train.p_reconstruct) & (block.next_len_W > 0)
        self.blank = rng.random(self.rows) < train.p_blank

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]:
        w = self.order[lo:hi]
        second_WO = np.tile([False, True], (len(w), 1)) if self.both else self.second[w][:, None]
        return drawn(self.block, w, second_WO, self.blank[w])[: self.fields]


class _LmWindow:
    def __init__(self, arrays: tuple[np.ndarray, ...]):
        self.arrays, self.rows = arrays, len(arrays[0])

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]:
        return tuple(a[lo:hi] for a in self.arrays)


def batch_shapes(cfg: Config) -> Batch | AnswerBatch:
    """The shape of each array of `train_batches`."""
    row, data, B = OBJECTIVES[cfg.train.objective], cfg.data, cfg.train.optim.batch
    ctx, targets = (B, data.segments), (B, row.per_example)
    made = (*ctx, data.segment), ctx, (*targets, data.target), targets, targets
    return AnswerBatch(*made, asked_BO=targets) if row.targets == "question" else Batch(*made)


def train_batches(cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer) -> WindowIterator:
    """Endless batches of `cfg.train.optim.batch` examples (those of this process's devices).

    The objective says which targets an example has (`objectives.ObjectiveRow.targets`). "one": it
    is rebuilt with probability `p_reconstruct`, else continued; without a continuation it is always
    rebuilt. "both": the second has length 0 where there is no continuation. "question":
    `AnswerBatch`, a question or (with probability `p_reconstruct`) the text. Tokenises what the run
    will draw before returning, but of a large set only the first block.

    Raises:
      DataError: unusable data, or more than half of the examples or questions do not fit.
    """
    text, optim = corpus(cfg), cfg.train.optim
    asks = OBJECTIVES[cfg.train.objective].targets == "question"
    order = _order(cfg, text, example_blocks(cfg, comp_tok, dec_tok, text, asks), cfg.seed)
    first = _first_counts(cfg, order, asks)
    order.prepare(optim.steps * optim.batch, first.questions if asks else first.examples)

    def window(w: int) -> _ExampleWindow:
        return _ExampleWindow(order.block(w), order.rng(w), cfg.train)

    return WindowIterator(window, AnswerBatch if asks else Batch, optim.batch, text.blocks)


def lm_batches(cfg: Config, pretrain: PretrainConfig, tok: Tokenizer) -> WindowIterator:
    """Endless batches of `pretrain.optim.batch` rows of `pretrain.seq_len` tokens, for pretraining.

    A document is a passage and its continuation and the end token, or (a share `copy_fraction`)
    "passage <eos> passage <eos>" as one segment: so a language model learns to copy. Documents are
    packed, never cut across rows unless longer than a row.

    Raises:
      DataError: unusable data.
    """
    text, optim, L = corpus(cfg), pretrain.optim, pretrain.seq_len
    order = _order(cfg, text, lm_blocks(cfg, tok, text, (L - 2) // 2), pretrain.seed)

    def window(w: int) -> _LmWindow:
        packed = pack_documents(order.block(w), order.rng(w), L, pretrain.copy_fraction, tok.eos_id)
        return _LmWindow(packed)

    first = window(0)
    if not first.rows:
        raise DataError(f"{title_of(cfg.data)}: no token to pretrain on")
    order.prepare(optim.steps * optim.batch, first.rows)
    return WindowIterator(window, LmBatch, optim.batch, text.blocks)


def data_stats(cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer) -> DataStats:
    """What training will see: counted over the first block that holds examples."""
    text = corpus(cfg)
    order = _order(cfg, text, example_blocks(cfg, comp_tok, dec_tok, text), cfg.seed)
    c = _first_counts(cfg, order)
    block = next(b for b in map(order.blocks.__getitem__, order.epoch()) if len(b.ctx_NGT))
    vectors = int((-(-block.ctx_len_NG // cfg.memory.ratio)).sum())
    tokens = float((block.rebuild_len_N - 1).sum())
    return DataStats(c, tokens / vectors, c.text_bytes / vectors)


def _order(cfg: Config, text: Corpus, blocks: Blocks, seed: int) -> Order:
    return Order(blocks, (cfg.data.seed, seed), text.permute)


def _first_counts(cfg: Config, order: Order, asks: bool = False) -> Counts:
    """Counts up to the first block with examples (`asks`: with questions). Raises DataError where
    training would make no sense."""
    total, tokens, d, where = Counts(), 0, cfg.data, title_of(cfg.data)
    for number in order.epoch():
        block = order.blocks[number]
        total += Counts(*map(int, block.counts))
        tokens += int(block.ctx_len_NG.sum())
        if total.questions if asks else total.examples:
            break
    long, asked = total.too_long, total.questions + total.long_questions
    wider = " and a larger --data.segment" if asks or source_of(cfg).facts else ""
    if long > total.examples or total.long_questions > total.questions:
        raise DataError(
            f"{where}: {long} of {long + total.examples} examples"
            f"{f' and {total.long_questions} of {asked} questions' if asks else ''} do not fit: "
            f"the longest needs {total.longest} decoder tokens, data.target = {d.target}, "
            f"data.segment x data.segments = {d.segment} x {d.segments}; set --data.target="
            f"{total.longest}{wider}"
        )
    if not total.examples:
        raise DataError(
            f"{where}: no document long enough to train on: none of {total.documents} has "
            f"{-(-d.segment // 2)} tokens (half of data.segment = {d.segment}); "
            "use longer documents or a smaller --data.segment"
        )
    per_token = total.text_bytes / max(1, tokens)
    if cfg.pretrain.text and per_token < _READ:
        raise DataError(
            f"{where}: {per_token:.1f} bytes a token with the tokenizer of the shipped models; "
            f"expected at least {_READ}, for it spells a script that it has not seen byte by byte; "
            "make models of this text with --config=configs/text.py:path=FILE,models=own"
        )
    if asks and not total.questions:
        raise DataError(
            f"{where}: no question to train on in {total.documents} contexts "
            f"({total.empty_answers} answers become no token)"
        )
    if asks:
        logging.getLogger(__name__).info(
            "%d questions about %d contexts in the first block; %d contexts and %d questions too "
            "long, %d answers of no token: left out", total.questions, total.examples, long,
            total.long_questions, total.empty_answers,
        )  # fmt: skip
    return total


# Tokenizers


def data_tokenizer(cfg: Config) -> Tokenizer:
    """The tokenizer `cfg.data` asks for: a named folder's, the world's, or one trained on the
    training documents (cached by the hash of the data and of the vocabulary size)."""
    return load_tokenizer(tokenizer_folder(cfg))


def tokenizer_folder(cfg: Config) -> str:
    """The folder of `data_tokenizer`, made if need be, or anew where it is damaged."""
    if cfg.data.tokenizer:
        return cfg.data.tokenizer
    text = corpus(cfg)
    folder = cache_dir() / "tokenizers" / text.tokenizer_name
    if (folder / "tokenizer.json").is_file():
        try:
            load_tokenizer(folder)
        except TokenizerError as error:
            damaged(folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    text.make_tokenizer(folder)
    return str(folder)
