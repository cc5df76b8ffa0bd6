"""Blocks of tokenised examples and of documents for language modelling (kept by `blocks.py`).

Making a passage takes a fraction of a millisecond, and a small training step takes little more, so
nothing is made or tokenised while training: it only reads integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxcomp.config import Config, config_hash
from jaxcomp.data.blocks import AnyBlock, Blocks
from jaxcomp.data.corpus import Corpus
from jaxcomp.data.examples import Counts, Piece, context_words
from jaxcomp.data.tokenizer import Tokenizer

# Of prepared sets: another number after a change of what a block holds, or of how text becomes
# examples.
_LAYOUT = 1


class Block(NamedTuple):
    """Padded examples of one block. Slots beyond the lengths hold 0."""

    ctx_NGT: np.ndarray
    ctx_len_NG: np.ndarray
    rebuild_NL: np.ndarray
    rebuild_len_N: np.ndarray
    follow_NL: np.ndarray
    follow_len_N: np.ndarray
    counts: np.ndarray


class LmBlock(NamedTuple):
    """Documents for language modelling, end to end: `head` (repeated in copies) and `tail`."""

    head: np.ndarray
    head_end_N: np.ndarray
    tail: np.ndarray
    tail_end_N: np.ndarray


def pad_pieces(
    pieces: list[Piece], counts: Counts, cfg: Config, dtype: type[np.integer] = np.int32
) -> Block:
    """The pieces as arrays of N rows."""
    T, G, L, N = cfg.data.segment, cfg.data.segments, cfg.data.target, len(pieces)
    ctx_NGT = np.zeros((N, G, T), dtype)
    ctx_len_NG = np.zeros((N, G), np.int32)
    rebuild_NL, follow_NL = np.zeros((N, L), dtype), np.zeros((N, L), dtype)
    for n, piece in enumerate(pieces):
        for g, ids in enumerate(piece.ctx):
            ctx_NGT[n, g, : len(ids)] = ids
            ctx_len_NG[n, g] = len(ids)
        rebuild_NL[n, : len(piece.rebuild)] = piece.rebuild
        follow_NL[n, : len(piece.follow)] = piece.follow
    return Block(
        ctx_NGT,
        ctx_len_NG,
        rebuild_NL,
        np.array([len(p.rebuild) for p in pieces], np.int32),
        follow_NL,
        np.array([len(p.follow) for p in pieces], np.int32),
        np.array(counts, np.int64),
    )


def example_blocks(cfg: Config, comp: Tokenizer, dec: Tokenizer, text: Corpus) -> Blocks[Block]:
    """Blocks of training examples."""
    dtype = dtype_of(comp, dec)

    def make(number: int) -> Block:
        return pad_pieces(*text.pieces(number, comp, dec), cfg, dtype)

    return made_blocks(Block, "examples", cfg, comp, dec, text, make)


def made_blocks(
    kind: type[AnyBlock],
    name: str,
    cfg: Config,
    comp: Tokenizer,
    dec: Tokenizer,
    text: Corpus,
    make: Callable[[int], AnyBlock],
) -> Blocks[AnyBlock]:
    """Blocks that `make` makes of `text.pieces`; `name` says what of."""
    shape = [cfg.data.segment, cfg.data.segments, cfg.data.target, comp.name, dec.name]
    key = config_hash(name, cfg.data.source, text.content, shape, _LAYOUT)
    return Blocks(kind, key, text.blocks, make)


def lm_blocks(cfg: Config, tok: Tokenizer, text: Corpus, longest_copy: int) -> Blocks[LmBlock]:
    """Blocks of documents for language modelling. A world document's head is a passage of at most
    `longest_copy` words and its tail the continuation; a text document has no tail."""
    dtype = dtype_of(tok)
    words = min(context_words(cfg), longest_copy)

    def make(number: int) -> LmBlock:
        heads, tails = map(tok.encode_batch, text.texts(number, words, tok))
        return LmBlock(*_ragged(heads, dtype), *_ragged(tails, dtype))

    drawn = 0 if text.fingerprint else words
    key = config_hash("lm", cfg.data.source, text.lm_content, tok.name, drawn, _LAYOUT)
    return Blocks(LmBlock, key, text.blocks, make)


def _ragged(rows: list[list[int]], dtype) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(r) for r in rows], np.int64)
    return np.array([i for r in rows for i in r], dtype), np.cumsum(lengths)


def dtype_of(*toks: Tokenizer) -> type[np.integer]:
    """The smallest kind of integer that a block's ids fit."""
    return np.uint16 if max(t.vocab_size for t in toks) <= 1 << 16 else np.int32
