"""Batches: seeded, the same on any number of hosts, resumable at exactly the next one.

Examples and their targets are drawn here, from the blocks that `stream.py` puts in order.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcomp.config import Config, PretrainConfig, TrainConfig
from jaxcomp.data.blocks import Blocks, Order
from jaxcomp.data.corpus import Corpus, corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.eval_sets import (
    CONTINUE,
    REBUILD,
    Batch,
    Example,
    LmBatch,
    batch_examples,
    eval_examples,
)
from jaxcomp.data.examples import Counts
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.data.packing import pack_documents
from jaxcomp.data.prepare import Block, example_blocks, lm_blocks
from jaxcomp.data.qa_batches import AnswerBatch, AnswerWindow, answer_blocks, first_count
from jaxcomp.data.sources import source_of, where
from jaxcomp.data.stream import WindowIterator
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from jaxcomp.runtime.cache import cache_dir, damaged

__all__ = [
    "CONTINUE",
    "REBUILD",
    "Batch",
    "DataStats",
    "Example",
    "LmBatch",
    "batch_examples",
    "batch_shapes",
    "data_stats",
    "data_tokenizer",
    "eval_examples",
    "lm_batches",
    "tokenizer_folder",
    "train_batches",
]


class DataStats(NamedTuple):
    """What the first block of training examples is like (`data_stats`)."""

    documents: int
    documents_too_short: int
    examples: int
    examples_too_long: int
    examples_without_continuation: int
    segments: int
    segments_padded: int
    tokens_per_vector: float  # decoder tokens of the rebuilt text / valid memory vectors
    bytes_per_vector: float  # UTF-8 bytes of the text / valid memory vectors
    documents_respelled: int  # taken in NFC, because the decoder's tokens say no other form

    def __str__(self) -> str:
        form = f"{self.documents_respelled} documents in NFC, " if self.documents_respelled else ""
        return (
            f"{self.examples} examples of {self.documents} documents (the first block): "
            f"{self.segments_padded} of {self.segments} segments padded, "
            f"{self.documents_too_short} documents too short, {form}"
            f"{self.examples_too_long} examples too long, "
            f"{self.examples_without_continuation} without continuation; "
            f"{self.tokens_per_vector:.2f} decoder tokens and "
            f"{self.bytes_per_vector:.1f} bytes of text per memory vector"
        )


# Windows


class _ExampleWindow:
    def __init__(self, block: Block, rng: np.random.Generator, train: TrainConfig):
        self.block, self.both = block, OBJECTIVES[train.objective].targets == "both"
        self.rows = len(block.ctx_NGT)
        self.order = rng.permutation(self.rows)
        followed = block.follow_len_N > 0
        self.continues = followed & (rng.random(self.rows) >= train.p_reconstruct)
        self.blank = rng.random(self.rows) < train.p_blank

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]:
        b, n = self.block, self.order[lo:hi]
        if self.both:
            tok = np.stack([b.rebuild_NL[n], b.follow_NL[n]], 1)
            length = np.stack([b.rebuild_len_N[n], b.follow_len_N[n]], 1)
            mode = np.broadcast_to(np.array([REBUILD, CONTINUE]), length.shape)
        else:
            m = self.continues[n]
            tok = np.where(m[:, None], b.follow_NL[n], b.rebuild_NL[n])[:, None]
            length = np.where(m, b.follow_len_N[n], b.rebuild_len_N[n])[:, None]
            mode = m[:, None]
        ctx_len = np.where(self.blank[n][:, None], 0, b.ctx_len_NG[n])
        arrays = (b.ctx_NGT[n], ctx_len, tok, length, mode)
        return tuple(a.astype(np.int32) for a in arrays)


class _LmWindow:
    def __init__(self, arrays: tuple[np.ndarray, ...]):
        self.arrays, self.rows = arrays, len(arrays[0])

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]:
        return tuple(a[lo:hi] for a in self.arrays)


# Training


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
      DataError: unusable data, or more than half of the examples do not fit.
    """
    if OBJECTIVES[cfg.train.objective].targets == "question":
        return _answer_batches(cfg, comp_tok, dec_tok)
    text = corpus(cfg)
    order = _order(cfg, example_blocks(cfg, comp_tok, dec_tok, text), text, cfg.seed)
    order.prepare(_wanted(cfg), _first_counts(cfg, order).examples)

    def window(w: int) -> _ExampleWindow:
        return _ExampleWindow(order.block(w), order.rng(w), cfg.train)

    return WindowIterator(window, Batch, cfg.train.optim.batch, text.blocks)


def _answer_batches(cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer) -> WindowIterator:
    text = corpus(cfg)
    blocks = answer_blocks(cfg, comp_tok, dec_tok, text)
    order = _order(cfg, blocks, text, cfg.seed)
    order.prepare(_wanted(cfg), first_count(cfg, blocks, order.epoch()))

    def window(w: int) -> AnswerWindow:
        return AnswerWindow(order.block(w), order.rng(w), cfg.train)

    fix = "no context fits and has a question; set a larger --data.segment and --data.target"
    return WindowIterator(window, AnswerBatch, cfg.train.optim.batch, text.blocks, fix)


def _order(cfg: Config, blocks: Blocks, text: Corpus, seed: int) -> Order:
    return Order(blocks, (cfg.data.seed, seed), text.permute)


def _wanted(cfg: Config) -> int:
    return cfg.train.optim.steps * cfg.train.optim.batch


def lm_batches(cfg: Config, pretrain: PretrainConfig, tok: Tokenizer) -> WindowIterator:
    """Endless batches of `pretrain.optim.batch` rows of `pretrain.seq_len` tokens, for pretraining.

    A document is a passage and its continuation and the end token, or (a share `copy_fraction`)
    "passage <eos> passage <eos>" as one segment: so a language model learns to copy. Documents are
    packed, never cut across rows unless longer than a row.

    Raises:
      DataError: unusable data.
    """
    text, rows = corpus(cfg), pretrain.optim.batch
    blocks = lm_blocks(cfg, tok, text, (pretrain.seq_len - 2) // 2)
    order = _order(cfg, blocks, text, pretrain.seed)

    def window(w: int) -> _LmWindow:
        block, rng = order.block(w), order.rng(w)
        return _LmWindow(
            pack_documents(block, rng, pretrain.seq_len, pretrain.copy_fraction, tok.eos_id)
        )

    first = window(0)
    if not first.rows:
        raise DataError(f"{where(cfg)}: no token to pretrain on")
    order.prepare(pretrain.optim.steps * rows, first.rows)
    return WindowIterator(window, LmBatch, rows, text.blocks)


def data_stats(cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer) -> DataStats:
    """What training will see: counted over the first block that holds examples."""
    text = corpus(cfg)
    blocks = example_blocks(cfg, comp_tok, dec_tok, text)
    order = _order(cfg, blocks, text, cfg.seed)
    c = _first_counts(cfg, order)
    block = next(b for b in map(blocks.__getitem__, order.epoch()) if len(b.ctx_NGT))
    vectors = int((-(-block.ctx_len_NG // cfg.memory.ratio)).sum())
    return DataStats(
        documents=c.documents,
        documents_too_short=c.too_short,
        examples=c.examples,
        examples_too_long=c.too_long,
        examples_without_continuation=c.unfollowed,
        segments=c.segments,
        segments_padded=c.short_segments,
        tokens_per_vector=float((block.rebuild_len_N - 1).sum()) / vectors,
        bytes_per_vector=c.text_bytes / vectors,
        documents_respelled=c.respelled,
    )


def _first_counts(cfg: Config, order: Order) -> Counts:
    """Counts up to the first block with examples; raises where training would make no sense."""
    total = Counts()
    for number in order.epoch():
        total += Counts(*map(int, order.blocks[number].counts))
        if total.examples:
            break
    if total.too_long > total.examples:
        raise DataError(
            f"{where(cfg)}: {total.too_long} of {total.too_long + total.examples} examples do not "
            f"fit: the longest needs {total.longest} decoder tokens, data.target = "
            f"{cfg.data.target}, data.segment x data.segments = "
            f"{cfg.data.segment} x {cfg.data.segments}; set --data.target={total.longest}"
            f"{' and a larger --data.segment' if source_of(cfg).facts else ''}"
        )
    if not total.examples:
        raise DataError(
            f"{where(cfg)}: no document long enough to train on: none of {total.documents} has "
            f"{-(-cfg.data.segment // 2)} tokens (half of data.segment = {cfg.data.segment}); "
            "use longer documents or a smaller --data.segment"
        )
    return total


# Tokenizers


def data_tokenizer(cfg: Config) -> Tokenizer:
    """The tokenizer `cfg.data` asks for: a named folder's, the world's, or one trained on the
    training documents (cached by the hash of the data and of the vocabulary size)."""
    return load_tokenizer(tokenizer_folder(cfg))


def tokenizer_folder(cfg: Config) -> str:
    """The folder of `data_tokenizer`, made if need be."""
    if cfg.data.tokenizer:
        return cfg.data.tokenizer
    text = corpus(cfg)
    folder = cache_dir() / "tokenizers" / text.tokenizer_name
    _remove_damaged(folder)
    text.make_tokenizer(folder)
    return str(folder)


def _remove_damaged(folder: Path) -> None:
    """Makes room for a tokenizer where the cached one cannot be read."""
    if not (folder / "tokenizer.json").is_file():
        return
    try:
        load_tokenizer(folder)
    except TokenizerError as error:
        damaged(folder, error)
        shutil.rmtree(folder, ignore_errors=True)
