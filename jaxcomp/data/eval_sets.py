"""Batches and examples as the other packages see them, and the held-out sets.

Training batches come from `batches.py`, which also exports everything public here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config
from jaxcomp.data import phases
from jaxcomp.data.corpus import check_set, corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.examples import Counts, Piece
from jaxcomp.data.sources import source_of, where
from jaxcomp.data.tokenizer import Tokenizer

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


class LmBatch(NamedTuple):
    """Packed documents, int32: seg 0 is padding, pos starts at 0 in every document."""

    tok_BL: Any
    seg_BL: Any
    pos_BL: Any


class Example(NamedTuple):
    """A held-out example. `target` ends with the end token; `ctx` are a list per segment."""

    id: str
    text: str
    ctx: list[list[int]]
    target: list[int]
    continuation: list[int]
    passage: Any  # world.Passage, or None for real text


_KEPT = 6  # held-out sets that stay in memory
_kept: OrderedDict[Any, tuple[list[Piece], Counts]] = OrderedDict()


def eval_examples(
    cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> list[Example]:
    """Held-out examples: `val_passages` of "val", `eval_passages` of any other set.

    World: "val", "ordinary", "counterfactual" ("train" shows what training saw). Text and tfds:
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


class HeldOut(NamedTuple):
    """A held-out set. `left_out`: texts met on the way to it that do not fit data.segment x
    data.segments or data.target, and are left out whole."""

    examples: list[Example]
    left_out: int


def held_out(cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer) -> HeldOut:
    """What `eval_examples` gives, and what it does not; raises as it does."""
    pieces, left_out = _held(cfg, which, comp_tok, dec_tok)
    examples = [Example(p.name, p.text, p.ctx, p.rebuild, p.follow, p.passage) for p in pieces]
    return HeldOut(examples, left_out)


def held_pieces(cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer) -> list[Piece]:
    """What `eval_examples` gives, with its names; raises as it does."""
    return _held(cfg, which, comp_tok, dec_tok)[0]


def _held(
    cfg: Config, which: str, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> tuple[list[Piece], int]:
    check_set(cfg, which)
    wanted = cfg.data.val_passages if which == "val" else cfg.data.eval_passages
    text = corpus(cfg)
    # Looked at before training, read after it, and the same in all jobs of a sweep.
    names = [(tok.name, tok.eos_id) for tok in (comp_tok, dec_tok)]
    key = (which, cfg.data, cfg.world, text.fingerprint, *names)
    if key not in _kept:
        with phases.phase(f"tokenising the examples of the set {which!r}"):
            _kept[key] = text.held_out(which, wanted, comp_tok, dec_tok)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    pieces, counts = _kept[key]
    if not pieces:
        raise DataError(
            f"{where(cfg)}: no example of {which!r} fits data.segment = {cfg.data.segment} x "
            f"data.segments = {cfg.data.segments} and data.target = {cfg.data.target}"
        )
    return pieces[:wanted], counts.too_long


def batch_examples(
    examples: Sequence[Example], batch: int, cfg: Config, modes: tuple[int, ...] = (REBUILD,)
) -> Iterator[tuple[Batch, int]]:
    """Batches of `batch` rows with O = len(modes) targets each, and how many rows are examples.

    Rows beyond that count (last batch only) are empty: every length is 0.
    """
    T, G, L, O = cfg.data.segment, cfg.data.segments, cfg.data.target, len(modes)
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        ctx_BGT = np.zeros((batch, G, T), np.int32)
        ctx_len_BG = np.zeros((batch, G), np.int32)
        tok_BOL = np.zeros((batch, O, L), np.int32)
        tok_len_BO = np.zeros((batch, O), np.int32)
        mode_BO = np.broadcast_to(np.array(modes, np.int32), (batch, O)).copy()
        for b, example in enumerate(chunk):
            for g, ids in enumerate(example.ctx):
                ctx_BGT[b, g, : len(ids)], ctx_len_BG[b, g] = ids, len(ids)
            for o, mode in enumerate(modes):
                ids = example.target if mode == REBUILD else example.continuation
                tok_BOL[b, o, : len(ids)], tok_len_BO[b, o] = ids, len(ids)
        yield Batch(ctx_BGT, ctx_len_BG, tok_BOL, tok_len_BO, mode_BO), len(chunk)
