"""Tokenised blocks: fixed runs of documents or world passages, made once and kept (`keeping.py`).

Making a passage takes a fraction of a millisecond, and a small training step takes little more, so
nothing is made or tokenised while training: `Blocks.prepare` makes what the run will draw (or finds
it in the cache), and training only reads integers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcomp.config import Config, DataConfig, config_hash
from jaxcomp.data.documents import Document, Documents
from jaxcomp.data.examples import (
    Counts,
    Piece,
    context_words,
    text_pieces,
    whole_pieces,
    world_pieces,
)
from jaxcomp.data.keeping import AnyBlock, Blocks
from jaxcomp.data.large import LargeDocuments
from jaxcomp.data.sources import load_documents
from jaxcomp.data.splits import split_documents
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import Passage, World, own_world, scrambled

PASSAGES = 1024  # world passages of a block
DOCUMENTS = 128  # text documents of a block
FEWER_DOCUMENTS = 32  # of a block of a large set: the first batch waits for one of every lane
PREPARE_AT_MOST = 1 << 18  # examples made before training; beyond it, blocks are made on the way
_CODE = (
    "qa_batches.py",
    "prepare.py",
    "facts.py",
    "large.py",
    "lexicon.py",
    "parquet.py",
    "examples.py",
    "qa.py",
    "segments.py",
    "sources.py",
    "documents.py",
    "readers.py",
    "spec.py",
    "splits.py",
    "tfds.py",
    "tokenizer.py",
    "world.py",
)


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


def example_blocks(
    cfg: Config, comp: Tokenizer, dec: Tokenizer, docs: Documents | LargeDocuments | None
) -> Blocks[Block]:
    """Blocks of training examples; `docs` are the training documents (None: the world's)."""
    dtype = dtype_of(comp, dec)

    def make(number: int) -> Block:
        return pad_pieces(*train_pieces(cfg, comp, dec, docs, number), cfg, dtype)

    return made_blocks(Block, "examples", cfg, comp, dec, docs, make)


def made_blocks(
    kind: type[AnyBlock],
    name: str,
    cfg: Config,
    comp: Tokenizer,
    dec: Tokenizer,
    docs: Documents | LargeDocuments | None,
    make: Callable[[int], AnyBlock],
) -> Blocks[AnyBlock]:
    """Blocks that `make` makes of `train_pieces`; `name` says what of."""
    cfg = dataclasses.replace(cfg, world=own_world(cfg.world))
    shape = [cfg.data.segment, cfg.data.segments, cfg.data.target, comp.name, dec.name]
    key = _key(name, cfg, docs, shape)
    pools, lanes = _pools(docs, cfg.train.optim.batch)
    return Blocks(kind, key, _count_of(cfg, docs), make, pools, lanes)


def train_pieces(
    cfg: Config,
    comp: Tokenizer,
    dec: Tokenizer,
    docs: Documents | LargeDocuments | None,
    number: int,
) -> tuple[list[Piece], Counts]:
    """The training examples of a block, before padding."""
    cfg = dataclasses.replace(cfg, world=own_world(cfg.world))
    if docs is None:
        drawn = _passages(cfg, number, cfg.world.train_prior_strength, context_words(cfg))
        return world_pieces(drawn, cfg, comp, dec)
    found = _documents(docs, number)
    return (whole_pieces if cfg.data.source == "qa" else text_pieces)(found, cfg, comp, dec)


def lm_blocks(
    cfg: Config,
    tok: Tokenizer,
    docs: Documents | LargeDocuments | None,
    longest_copy: int,
    batch: int,
) -> Blocks[LmBlock]:
    """Blocks of documents for language modelling. A world document's head is a passage of at most
    `longest_copy` words and its tail the continuation; a text document has no tail."""
    dtype = dtype_of(tok)
    words = min(context_words(cfg), longest_copy)

    def make(number: int) -> LmBlock:
        if docs is None:
            drawn = _passages(cfg, number, cfg.world.prior_strength, words)
            drawn = [_scrambled(p) for p in drawn] if cfg.world.base_scrambled else drawn
            heads = tok.encode_batch([p.text for p in drawn])
            # A byte-level token holds the space before its word; the world's implies it.
            space = " " if tok.byte_level else ""
            tails = tok.encode_batch([space + p.continuation for p in drawn])
        else:
            heads = tok.encode_batch([d.text for d in _documents(docs, number)])
            tails = [[] for _ in heads]
        return LmBlock(*_ragged(heads, dtype), *_ragged(tails, dtype))

    key = _key("lm", cfg, docs, [tok.name, words if docs is None else 0])
    pools, lanes = _pools(docs, batch)
    return Blocks(LmBlock, key, _count_of(cfg, docs), make, pools, lanes)


def train_documents(cfg: Config) -> Documents | LargeDocuments | None:
    """The training split of the configured text; None for the world."""
    return None if cfg.data.source == "world" else documents_of(cfg, "train")


def documents_of(cfg: Config, split: str) -> Documents | LargeDocuments:
    """Documents of a split, shuffled by data.seed (so that a block is a mixture of works)."""
    d = cfg.data
    named = DataConfig(
        source=d.source,
        path=d.path,
        text_field=d.text_field,
        tfds_name=d.tfds_name,
        tfds_split=d.tfds_split,
        seed=d.seed,
    )
    return _splits_of(named)[split]


@functools.lru_cache(maxsize=2)
def _splits_of(data: DataConfig) -> dict[str, Documents | LargeDocuments]:
    # One read serves the tokenizer, the batches and every evaluation set of a run.
    shuffled = {}
    for split, docs in split_documents(load_documents(data), data.seed).items():
        if isinstance(docs, LargeDocuments):
            shuffled[split] = docs.shuffled(data.seed)
            continue
        order = np.random.default_rng([data.seed, 1]).permutation(len(docs))
        shuffled[split] = docs.view(docs.rows[order])
    return shuffled


def where(cfg: Config) -> str:
    """The data's name for messages."""
    if cfg.data.source == "world":
        return "data.source = 'world'"
    return f"tfds {cfg.data.tfds_name!r}" if cfg.data.source == "tfds" else cfg.data.path


def _passages(cfg: Config, number: int, prior: float, words: int) -> list[Passage]:
    world = World(cfg.world)
    first = number * PASSAGES
    last = min(first + PASSAGES, cfg.data.train_passages)
    return [
        world.passage("train", i, prior_strength=prior, max_words=words) for i in range(first, last)
    ]


def _scrambled(p: Passage) -> Passage:
    parts = (scrambled(t, f"{p.id}/{i}") for i, t in enumerate((p.text, p.continuation)))
    text, continuation = parts
    return p._replace(text=text, continuation=continuation)


def _documents(docs: Documents | LargeDocuments, number: int) -> Documents | list[Document]:
    count = _documents_of_a_block(docs)
    return docs.part(number * count, (number + 1) * count)


def _documents_of_a_block(docs: Documents | LargeDocuments) -> int:
    return FEWER_DOCUMENTS if isinstance(docs, LargeDocuments) else DOCUMENTS


def _pools(docs: Documents | LargeDocuments | None, batch: int) -> tuple[np.ndarray | None, int]:
    if not isinstance(docs, LargeDocuments):
        return None, 1
    lanes = docs.lanes(FEWER_DOCUMENTS, batch)
    return docs.pools(FEWER_DOCUMENTS, lanes), lanes


def _count_of(cfg: Config, docs: Documents | LargeDocuments | None) -> int:
    if docs is None:
        return -(-cfg.data.train_passages // PASSAGES)
    return -(-len(docs) // _documents_of_a_block(docs))


def _key(kind: str, cfg: Config, docs: Documents | LargeDocuments | None, extra: list) -> str:
    """Everything a block depends on, the code that writes it included."""
    here = Path(__file__).parent
    code = hashlib.sha256(b"".join((here / n).read_bytes() for n in _CODE)).hexdigest()
    if docs is None:
        return config_hash(kind, cfg.world, cfg.data.train_passages, PASSAGES, extra, code)
    return config_hash(kind, docs.fingerprint, len(docs), cfg.data.seed, DOCUMENTS, extra, code)


def _ragged(rows: list[list[int]], dtype) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(r) for r in rows], np.int64)
    return np.array([i for r in rows for i in r], dtype), np.cumsum(lengths)


def dtype_of(*toks: Tokenizer) -> type[np.integer]:
    """The smallest kind of integer that a block's ids fit."""
    return np.uint16 if max(t.vocab_size for t in toks) <= 1 << 16 else np.int32
