"""Batches of questions: a context, and a target that asks about it and answers.

    <memory> <continue marker> \\nQuestion: ...\\nAnswer: <the answer> <end>

The question is read and carries no loss (`asked_BO` says how long it is), the answer and its end
do. Beside it an example may be rebuilt instead (`train.p_reconstruct`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config, TrainConfig
from jaxcomp.data.blocks import Blocks
from jaxcomp.data.corpus import Corpus, corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.eval_sets import CONTINUE, REBUILD, held_pieces
from jaxcomp.data.examples import Counts, Piece
from jaxcomp.data.prepare import dtype_of, made_blocks, pad_pieces
from jaxcomp.data.qa import QUESTION
from jaxcomp.data.sources import Question, where
from jaxcomp.data.tokenizer import Tokenizer


class AnswerBatch(NamedTuple):
    """`batches.Batch`, with the tokens of each target that are only read; int32."""

    ctx_BGT: Any
    ctx_len_BG: Any
    tok_BOL: Any
    tok_len_BO: Any
    mode_BO: Any  # CONTINUE: a question and its answer; REBUILD: the text
    asked_BO: Any  # the first tokens of a target that carry no loss


class AnswerBlock(NamedTuple):
    """Contexts, padded, and the questions about them: W of all contexts end to end."""

    ctx_NGT: np.ndarray
    ctx_len_NG: np.ndarray
    rebuild_NL: np.ndarray
    rebuild_len_N: np.ndarray
    context_W: np.ndarray  # which of the N
    said_WL: np.ndarray
    said_len_W: np.ndarray
    asked_W: np.ndarray
    counts: np.ndarray  # of `examples.Counts`
    left_out: np.ndarray  # of `Asked`


class Said(NamedTuple):
    """A question and its answer in decoder tokens, with the end token."""

    ids: list[int]
    asked: int  # of them the question's


class Asked(NamedTuple):
    """The questions about some contexts that can be trained on, each with its context's place.
    `left_out`: [questions longer than data.target, tokens of the longest, answers of no token]."""

    said: list[tuple[int, Said]]
    left_out: np.ndarray


def answer_blocks(
    cfg: Config, comp: Tokenizer, dec: Tokenizer, text: Corpus
) -> Blocks[AnswerBlock]:
    """Blocks of training questions."""
    dtype, L = dtype_of(comp, dec), cfg.data.target

    def make(number: int) -> AnswerBlock:
        pieces, counts = text.pieces(number, comp, dec)
        fitting, left_out = _asked(pieces, cfg, dec, text)
        said_WL = np.zeros((len(fitting), L), dtype)
        for w, (_, s) in enumerate(fitting):
            said_WL[w, : len(s.ids)] = s.ids
        block = pad_pieces(pieces, counts, cfg, dtype)
        return AnswerBlock(
            *block[:4],
            np.array([n for n, _ in fitting], np.int32),
            said_WL,
            np.array([len(s.ids) for _, s in fitting], np.int32),
            np.array([s.asked for _, s in fitting], np.int32),
            block.counts,
            left_out,
        )

    return made_blocks(AnswerBlock, f"answers {QUESTION}", cfg, comp, dec, text, make)


def _asked(pieces: Sequence[Piece], cfg: Config, dec: Tokenizer, text: Corpus) -> Asked:
    every = [(n, s) for n, said in enumerate(about(pieces, dec, text)) for s in said]
    # An answer that becomes no token would teach to say nothing.
    found = [(n, s) for n, s in every if len(s.ids) > s.asked + 1]
    fitting = [(n, s) for n, s in found if len(s.ids) <= cfg.data.target]
    longest = max((len(s.ids) for _, s in found), default=0)
    left_out = [len(found) - len(fitting), longest, len(every) - len(found)]
    return Asked(fitting, np.array(left_out, np.int64))


def about(pieces: Sequence[Piece], dec: Tokenizer, text: Corpus) -> list[list[Said]]:
    """The questions about each context, in tokens."""
    return [[] if not every else _said(every, dec) for every in text.questions(pieces)]


def _said(every: Sequence[Question], dec: Tokenizer) -> list[Said]:
    """The answer's tokens are those that " " and the answer add to the question's, as the tasks
    score them (`evals/qa/conditions.py`)."""
    tails = [QUESTION.format(question=q.question) for q in every]
    more = [f" {q.answer}" for q in every]
    heads = dec.encode_batch(tails)
    wholes = dec.encode_batch([tail + add for tail, add in zip(tails, more, strict=True)])
    alone = dec.encode_batch(more)
    found = []
    for head, whole, answer in zip(heads, wholes, alone, strict=True):
        answer = whole[len(head) :] if whole[: len(head)] == head else answer
        found.append(Said([*head, *answer, dec.eos_id], len(head)))
    return found


class AnswerWindow:
    """A block's questions in random order; of each, whether its context is rebuilt instead."""

    def __init__(self, block: AnswerBlock, rng: np.random.Generator, train: TrainConfig):
        self.block, self.rows = block, len(block.context_W)
        self.order = rng.permutation(self.rows)
        self.rebuilt = rng.random(self.rows) < train.p_reconstruct
        self.blank = rng.random(self.rows) < train.p_blank

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]:
        b, w = self.block, self.order[lo:hi]
        n, again = b.context_W[w], self.rebuilt[w]
        tok = np.where(again[:, None], b.rebuild_NL[n], b.said_WL[w])[:, None]
        length = np.where(again, b.rebuild_len_N[n], b.said_len_W[w])[:, None]
        mode = np.where(again, REBUILD, CONTINUE)[:, None]
        asked = np.where(again, 0, b.asked_W[w])[:, None]
        ctx_len = np.where(self.blank[w][:, None], 0, b.ctx_len_NG[n])
        return tuple(a.astype(np.int32) for a in (b.ctx_NGT[n], ctx_len, tok, length, mode, asked))


def first_count(cfg: Config, blocks: Blocks[AnswerBlock], numbers: Iterator[int]) -> int:
    """Questions of the first block that has any; says what was left out of it. Raises DataError
    where most do not fit, or there is none."""
    total, left, longest, count, empty = Counts(), 0, 0, 0, 0
    for number in numbers:
        block = blocks[number]
        total += Counts(*map(int, block.counts))
        left, empty = left + int(block.left_out[0]), empty + int(block.left_out[2])
        longest = max(longest, int(block.left_out[1]))
        count = len(block.context_W)
        if count:
            break
    if left > count or total.too_long > total.examples:
        raise DataError(
            f"{where(cfg)}: {total.too_long} of {total.too_long + total.examples} contexts and "
            f"{left} of {left + count} questions do not fit: the longest needs "
            f"{max(longest, total.longest)} decoder tokens, data.target = {cfg.data.target}, "
            f"data.segment x data.segments = {cfg.data.segment} x {cfg.data.segments}; set "
            f"--data.target={max(longest, total.longest)}, or a larger --data.segment"
        )
    if not count:
        raise DataError(
            f"{where(cfg)}: no question to train on in {total.documents} contexts ({empty} answers "
            "become no token)"
        )
    logging.getLogger(__name__).info(
        "%d questions about %d contexts in the first block; %d contexts and %d questions too long, "
        "%d answers of no token: left out", count, total.examples, total.too_long, left, empty,
    )  # fmt: skip
    return count


def answer_batches(
    cfg: Config, which: str, batch: int, comp: Tokenizer, dec: Tokenizer
) -> Iterator[tuple[AnswerBatch, int]]:
    """Every question that fits about the contexts of a held-out set (`eval_examples`), in batches
    of `batch` rows with how many of them are questions; the others are empty."""
    L = cfg.data.target
    pieces = held_pieces(cfg, which, comp, dec)
    block = pad_pieces(pieces, Counts(), cfg)
    found, _ = _asked(pieces, cfg, dec, corpus(cfg))
    for start in range(0, len(found), batch):
        rows = found[start : start + batch]
        n = np.array([at for at, _ in rows])
        ctx_BGT, ctx_len_BG = (np.zeros((batch, *a.shape[1:]), np.int32) for a in block[:2])
        tok_BOL, none_BO = np.zeros((batch, 1, L), np.int32), np.zeros((batch, 1), np.int32)
        mode_BO = np.full_like(none_BO, CONTINUE)
        made = AnswerBatch(ctx_BGT, ctx_len_BG, tok_BOL, none_BO.copy(), mode_BO, none_BO)
        made.ctx_BGT[: len(rows)] = block.ctx_NGT[n]
        made.ctx_len_BG[: len(rows)] = block.ctx_len_NG[n]
        for b, (_, said) in enumerate(rows):
            made.tok_BOL[b, 0, : len(said.ids)] = said.ids
            made.tok_len_BO[b], made.asked_BO[b] = len(said.ids), said.asked
        yield made, len(rows)
