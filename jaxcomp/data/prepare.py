"""Blocks of tokenised examples and of documents for language modelling (kept by `blocks.py`).

Making a passage takes a fraction of a millisecond, and a small training step takes little more, so
nothing is made or tokenised while training: it only reads integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.config import Config, config_hash
from jaxcomp.data.blocks import Blocks
from jaxcomp.data.corpus import Corpus
from jaxcomp.data.draw import context_words
from jaxcomp.data.examples import Counts, Example
from jaxcomp.data.qa import QUESTION
from jaxcomp.data.tokenizer import Tokenizer

# Of prepared sets: another number after a change of what a block holds, or of how text becomes
# examples.
_LAYOUT = 2


class Block(NamedTuple):
    """N contexts, padded, their texts as targets, and W second targets: what follows a context, or
    a question about it with its answer. Slots beyond the lengths hold 0."""

    ctx_NGT: np.ndarray
    ctx_len_NG: np.ndarray
    rebuild_NL: np.ndarray
    rebuild_len_N: np.ndarray
    of_W: np.ndarray  # which context
    next_WL: np.ndarray
    next_len_W: np.ndarray
    asked_W: np.ndarray  # the first tokens, which are a question and only read
    counts: np.ndarray  # of `examples.Counts`


class LmBlock(NamedTuple):
    """Documents for language modelling, end to end: `head` (repeated in copies) and `tail`."""

    head: np.ndarray
    head_end_N: np.ndarray
    tail: np.ndarray
    tail_end_N: np.ndarray


class Said(NamedTuple):
    """A target after the context `of`, in decoder tokens; the first `asked` are a question."""

    of: int
    ids: list[int]
    asked: int = 0


def padded(
    rows: Sequence[Sequence[int]], count: int, width: int, dtype: type[np.integer] = np.int32
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids as `count` rows, those after the given ones empty, and their lengths."""
    out, length = np.zeros((count, width), dtype), np.zeros(count, np.int32)
    for n, ids in enumerate(rows):
        out[n, : len(ids)], length[n] = ids, len(ids)
    return out, length


def padded_contexts(
    examples: Sequence[Example], count: int, cfg: Config, dtype: type[np.integer] = np.int32
) -> tuple[np.ndarray, np.ndarray]:
    """ctx_NGT and ctx_len_NG of `count` rows."""
    T, G = cfg.data.segment, cfg.data.segments
    rows = [ids for e in examples for ids in [*e.ctx, *[[]] * (G - len(e.ctx))]]
    ctx, length = padded(rows, count * G, T, dtype)
    return ctx.reshape(count, G, T), length.reshape(count, G)


def block_of(
    examples: Sequence[Example],
    said: Sequence[Said],
    counts: Counts,
    cfg: Config,
    dtype: type[np.integer] = np.int32,
) -> Block:
    L = cfg.data.target
    return Block(
        *padded_contexts(examples, len(examples), cfg, dtype),
        *padded([e.target for e in examples], len(examples), L, dtype),
        np.array([s.of for s in said], np.int32),
        *padded([s.ids for s in said], len(said), L, dtype),
        np.array([s.asked for s in said], np.int32),
        np.array(counts, np.int64),
    )


def example_blocks(
    cfg: Config, comp: Tokenizer, dec: Tokenizer, text: Corpus, asks: bool = False
) -> Blocks[Block]:
    """Blocks of training examples; `asks`: of questions about their contexts."""
    dtype = _dtype_of(comp, dec)

    def make(number: int) -> Block:
        examples, counts = text.examples(number, comp, dec)
        said = [Said(n, e.continuation) for n, e in enumerate(examples)]
        if asks:
            said, more = questions(examples, cfg, dec, text)
            counts += more
        return block_of(examples, said, counts, cfg, dtype)

    shape = [cfg.data.segment, cfg.data.segments, cfg.data.target, comp.name, dec.name]
    name = f"answers {QUESTION}" if asks else "examples"
    key = config_hash(name, cfg.data.source, text.content, shape, _LAYOUT)
    return Blocks(Block, key, text.blocks, make)


def questions(
    examples: Sequence[Example], cfg: Config, dec: Tokenizer, text: Corpus
) -> tuple[list[Said], Counts]:
    """The questions about some contexts that fit, each with its answer and the end token.

    The answer's tokens are those that " " and the answer add to the question's, as the tasks score
    them (`evals/qa/conditions.py`).
    """
    asked = [(n, q) for n, every in enumerate(text.questions(examples)) for q in every]
    tails = [QUESTION.format(question=q.question) for _, q in asked]
    more = [f" {q.answer}" for _, q in asked]
    wholes = dec.encode_batch([tail + add for tail, add in zip(tails, more, strict=True)])
    found, empty = [], 0
    rows = zip(asked, dec.encode_batch(tails), wholes, dec.encode_batch(more), strict=True)
    for (n, _), head, whole, alone in rows:
        answer = whole[len(head) :] if whole[: len(head)] == head else alone
        empty += not answer  # it would teach to say nothing
        if answer:
            found.append(Said(n, [*head, *answer, dec.eos_id], len(head)))
    fitting = [s for s in found if len(s.ids) <= cfg.data.target]
    return fitting, Counts(
        longest=max((len(s.ids) for s in found), default=0),
        questions=len(fitting),
        long_questions=len(found) - len(fitting),
        empty_answers=empty,
    )


def lm_blocks(cfg: Config, tok: Tokenizer, text: Corpus, longest_copy: int) -> Blocks[LmBlock]:
    """Blocks of documents for language modelling. A world document's head is a passage of at most
    `longest_copy` words and its tail the continuation; a text document has no tail."""
    dtype = _dtype_of(tok)
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


def _dtype_of(*toks: Tokenizer) -> type[np.integer]:
    """The smallest kind of integer that a block's ids fit."""
    return np.uint16 if max(t.vocab_size for t in toks) <= 1 << 16 else np.int32
