"""Batches and examples as the other packages see them, and the held-out sets.

Training batches come from `batches.py`, which also exports everything public here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import Config, ConfigError
from jaxcomp.data import phases
from jaxcomp.data.documents import DataError, Documents
from jaxcomp.data.examples import (
    Counts,
    Piece,
    context_words,
    text_pieces,
    whole_pieces,
    world_pieces,
)
from jaxcomp.data.large import LargeDocuments
from jaxcomp.data.prepare import documents_of, where
from jaxcomp.data.set_names import TEXT_SET, WORLD_SETS
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import World

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


_DRAWN = {  # of the world: name -> (split, counterfactual)
    "train": ("train", False),
    "val": ("val", False),
    "ordinary": ("test", False),
    "counterfactual": ("test", True),
}
_TEXT_SETS = ("train", "val", "test")
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
    for which in ("val", *(WORLD_SETS if cfg.data.source == "world" else (TEXT_SET,))):
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
    sets = tuple(_DRAWN) if cfg.data.source == "world" else _TEXT_SETS
    if which not in sets:
        raise ConfigError(
            f"evaluation set {which!r} does not exist for data.source = {cfg.data.source!r}; "
            f"expected one of {', '.join(sets)}"
        )
    wanted = cfg.data.val_passages if which == "val" else cfg.data.eval_passages
    docs = None if cfg.data.source == "world" else documents_of(cfg, which)
    # Looked at before training, read after it, and the same in all jobs of a sweep.
    names = [(tok.name, tok.eos_id) for tok in (comp_tok, dec_tok)]
    key = (which, cfg.data, cfg.world, docs, *names)
    if key not in _kept:
        with phases.phase(f"tokenising the examples of the set {which!r}"):
            _kept[key] = _drawn(cfg, which, docs, wanted, comp_tok, dec_tok)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    pieces, counts = _kept[key]
    if not pieces:
        raise DataError(
            f"{where(cfg)}: no example of {which!r} fits data.segment = {cfg.data.segment} x "
            f"data.segments = {cfg.data.segments} and data.target = {cfg.data.target}"
        )
    return pieces[:wanted], counts.too_long


def _drawn(
    cfg: Config,
    which: str,
    docs: Documents | LargeDocuments | None,
    wanted: int,
    comp_tok: Tokenizer,
    dec_tok: Tokenizer,
) -> tuple[list[Piece], Counts]:
    if docs is None:
        return _world_set(cfg, which, wanted, comp_tok, dec_tok)
    if cfg.data.source == "qa":
        # Twice as many, because some may not fit.
        return whole_pieces(docs.part(0, 2 * wanted), cfg, comp_tok, dec_tok)
    return _text_set(cfg, docs, wanted, comp_tok, dec_tok)


def _world_set(cfg: Config, which: str, wanted: int, comp, dec) -> tuple[list[Piece], Counts]:
    split, counterfactual = _DRAWN[which]
    trained = which in ("train", "val")
    prior = cfg.world.train_prior_strength if trained else cfg.world.prior_strength
    world, pieces, counts = World(cfg.world), [], Counts()
    for start in range(0, 10 * wanted, wanted):
        drawn = [
            world.passage(
                split,
                i,
                prior_strength=prior,
                counterfactual=counterfactual,
                max_words=context_words(cfg),
            )
            for i in range(start, start + wanted)
        ]
        more, seen = world_pieces(drawn, cfg, comp, dec)
        pieces, counts = pieces + more, counts + seen
        if len(pieces) >= wanted:
            break
    return pieces, counts


def _text_set(
    cfg: Config, docs: Documents | LargeDocuments, wanted: int, comp, dec
) -> tuple[list[Piece], Counts]:
    found: dict[str, list[Piece]] = {}
    counts = Counts()
    most = 2 + wanted // len(docs)  # the last piece of a document has no continuation
    for start in range(0, len(docs), 64):
        if len(found) >= wanted:
            break
        pieces, seen = text_pieces(docs.part(start, start + 64), cfg, comp, dec, most)
        counts += seen
        for p in pieces:
            if len(p.ctx) == cfg.data.segments and p.follow:
                found.setdefault(p.name.rsplit(":", 1)[0], []).append(p)
    rounds = max(map(len, found.values()), default=0)
    return [p[r] for r in range(rounds) for p in found.values() if r < len(p)], counts


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
