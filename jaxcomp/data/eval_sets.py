"""Held-out sets, and batches of their examples.

Training batches come from `batches.py`, which also exports what is public here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config, ConfigError
from jaxcomp.data.corpus import corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.examples import Counts, Example, Found
from jaxcomp.data.prepare import Block, block_of, padded, padded_contexts, questions
from jaxcomp.data.sources import source_of, title_of
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.runtime import live

REBUILD, CONTINUE = 0, 1  # values of Batch.mode_BO


class Batch(NamedTuple):
    """One batch of compression examples, int32. Slots beyond a length hold 0 and mean nothing.

    A length of 0 is an absent segment, target or (in the last evaluation batch) row.
    """

    ctx_BGT: Any
    ctx_len_BG: Any
    tok_BOL: Any  # each target with its end token
    tok_len_BO: Any
    mode_BO: Any  # REBUILD or CONTINUE


class AnswerBatch(NamedTuple):
    """`Batch` of questions about the contexts, with the tokens of each target that are only read.

        <memory> <continue marker> \\nQuestion: ...\\nAnswer: <the answer> <end>

    The question carries no loss, the answer and its end do. In place of a question a context may be
    rebuilt (`train.p_reconstruct`).
    """

    ctx_BGT: Any
    ctx_len_BG: Any
    tok_BOL: Any
    tok_len_BO: Any
    mode_BO: Any  # CONTINUE: a question and its answer; REBUILD: the text
    asked_BO: Any  # the first tokens of a target that carry no loss


class LmBatch(NamedTuple):
    """Packed documents, int32: seg 0 is padding, pos starts at 0 in every document."""

    tok_BL: Any
    seg_BL: Any
    pos_BL: Any


class HeldOut(NamedTuple):
    """A held-out set. `left_out`: texts met on the way to it that do not fit data.segment x
    data.segments or data.target, and are left out whole."""

    examples: list[Example]
    left_out: int


_KEPT = 6  # held-out sets that stay in memory
_kept: dict[Any, Found] = {}


def eval_examples(
    cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> list[Example]:
    """Held-out examples: `val_passages` of "val", `eval_passages` of any other set.

    World: "val", "ordinary", "counterfactual" ("train" shows what training saw); people: "erased"
    too, of which one fact's value is left out. Text and tfds:
    "val", "test", "train": full contexts with a continuation, one a document before any document
    gives a second; fewer where the split is small. qa: the same sets, of whole contexts.

    Raises:
      ConfigError: no such set for this source. DataError: no example fits.
    """
    return held_out(cfg, which, comp_tok, dec_tok).examples


def check_held_out(cfg: Config, comp_tok: Tokenizer, dec_tok: Tokenizer) -> None:
    """Raises what `eval_examples` does for the sets of validation and evaluation: before training,
    because after it would be too late."""
    for which in ("val", *source_of(cfg).measured):
        eval_examples(cfg, which, comp_tok, dec_tok)


def held_out(cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer) -> HeldOut:
    """What `eval_examples` gives, and what it does not; raises as it does."""
    sets = source_of(cfg).sets
    if which not in sets:
        raise ConfigError(
            f"evaluation set {which!r} does not exist for data.source = {cfg.data.source!r}; "
            f"expected one of {', '.join(sets)}"
        )
    wanted = cfg.data.val_passages if which == "val" else cfg.data.eval_passages
    text = corpus(cfg)
    # Looked at before training, read after it, and the same in all jobs of a sweep.
    names = [(tok.name, tok.eos_id) for tok in (comp_tok, dec_tok)]
    key = (which, cfg.data, cfg.world, cfg.people, text.fingerprint, *names)
    if key not in _kept:
        with live.phase(f"tokenising the examples of the set {which!r}"):
            _kept[key] = text.held_out(which, wanted, comp_tok, dec_tok)
        if len(_kept) > _KEPT:
            del _kept[next(iter(_kept))]
    examples, counts = _kept[key]
    if not examples:
        raise DataError(
            f"{title_of(cfg.data)}: no example of {which!r} fits data.segment = "
            f"{cfg.data.segment} x data.segments = {cfg.data.segments} and data.target = "
            f"{cfg.data.target}"
        )
    return HeldOut(examples[:wanted], counts.too_long)


def batch_examples(
    examples: Sequence[Example], batch: int, cfg: Config, modes: tuple[int, ...] = (REBUILD,)
) -> Iterator[tuple[Batch, int]]:
    """Batches of `batch` rows with O = len(modes) targets each, and how many rows are examples.

    Rows beyond that count (last batch only) are empty: every length is 0.
    """
    L, O = cfg.data.target, len(modes)
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        targets = [e.target if m == REBUILD else e.continuation for e in chunk for m in modes]
        tok, length = padded(targets, batch * O, L)
        mode_BO = np.broadcast_to(np.array(modes, np.int32), (batch, O)).copy()
        tok_BOL, tok_len_BO = tok.reshape(batch, O, L), length.reshape(batch, O)
        ctx_BGT, ctx_len_BG = padded_contexts(chunk, batch, cfg)
        yield Batch(ctx_BGT, ctx_len_BG, tok_BOL, tok_len_BO, mode_BO), len(chunk)


def answer_batches(
    cfg: Config, which: str, batch: int, comp: Tokenizer, dec: Tokenizer
) -> Iterator[tuple[AnswerBatch, int]]:
    """Every question that fits about the contexts of a held-out set (`eval_examples`), in batches
    of `batch` rows with how many of them are questions; the others are empty."""
    examples = eval_examples(cfg, which, comp, dec)
    said, _ = questions(examples, cfg, dec, corpus(cfg))
    block = block_of(examples, said, Counts(), cfg)
    for start in range(0, len(said), batch):
        w = np.arange(start, min(start + batch, len(said)))
        rows = drawn(block, w, np.ones((len(w), 1), bool), np.zeros(len(w), bool))
        more = batch - len(w)
        filled = (np.pad(a, [(0, more)] + [(0, 0)] * (a.ndim - 1)) for a in rows)
        mode_BO = np.full((batch, 1), CONTINUE, np.int32)
        yield AnswerBatch(*filled)._replace(mode_BO=mode_BO), len(w)


def drawn(
    block: Block, w: np.ndarray, second_WO: np.ndarray, blank_W: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The fields of an `AnswerBatch` for rows `w` of a block: of each target the block's second one
    or the text itself; the contexts of `blank_W` are absent."""
    n = block.of_W[w]
    tok = np.where(second_WO[:, :, None], block.next_WL[w][:, None], block.rebuild_NL[n][:, None])
    length = np.where(second_WO, block.next_len_W[w][:, None], block.rebuild_len_N[n][:, None])
    asked = np.where(second_WO, block.asked_W[w][:, None], 0)
    ctx_len = np.where(blank_W[:, None], 0, block.ctx_len_NG[n])
    mode = np.where(second_WO, CONTINUE, REBUILD)
    arrays = (block.ctx_NGT[n], ctx_len, tok, length, mode, asked)
    return tuple(a.astype(np.int32) for a in arrays)
