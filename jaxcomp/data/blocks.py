"""Tokenised blocks: fixed runs of documents or world passages, made once and cached on disk.

Making a passage takes a fraction of a millisecond, and a small training step takes little more, so
nothing is made or tokenised while training: `Blocks.prepare` makes what the run will draw (or finds
it in the cache), and training only reads integers.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import logging
import os
import random
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from jaxcomp.config import Config, DataConfig, config_hash
from jaxcomp.data.cache import cache_dir, keep_small, write_atomically
from jaxcomp.data.large import LargeDocuments
from jaxcomp.data.pieces import Counts, Piece, context_words, text_pieces, world_pieces
from jaxcomp.data.sources import Document, Documents, load_documents
from jaxcomp.data.splits import split_documents
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import Passage, World

PASSAGES = 1024  # world passages of a block
DOCUMENTS = 128  # text documents of a block
FEWER_DOCUMENTS = 32  # of a block of a large set: the first batch waits for one of every lane
PREPARE_AT_MOST = 1 << 18  # examples made before training; beyond it, blocks are made on the way
_HELD = 4  # blocks kept in memory
_CODE = (
    "blocks.py",
    "facts.py",
    "large.py",
    "lexicon.py",
    "parquet.py",
    "pieces.py",
    "segments.py",
    "sources.py",
    "spec.py",
    "splits.py",
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


AnyBlock = TypeVar("AnyBlock", Block, LmBlock)


class Blocks(Generic[AnyBlock]):
    """Blocks by number, made by `make(number)`, kept in a small memory and in the disk cache.

    Those of a large set (`pools` says which of them lie together) are not kept on disk, where they
    would take several times the room of their text: they are made while the run goes, and a few
    are made `ahead` by a thread. `lanes` draw from them side by side.
    """

    def __init__(
        self,
        kind: type[AnyBlock],
        key: str,
        count: int,
        make: Callable[[int], AnyBlock],
        pools: np.ndarray | None = None,
        lanes: int = 1,
    ):
        self.kind, self.key, self.count, self._make = kind, key, count, make
        self.pools, self.lanes = pools, lanes
        self._folder: Path = cache_dir() / "blocks" / key
        self._memory: OrderedDict[int, AnyBlock] = OrderedDict()
        self._keep = _HELD
        self._wanted: dict[int, list[int]] = {}
        self._coming: dict[int, Future[AnyBlock]] = {}
        self._thread = ThreadPoolExecutor(1) if pools is not None else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> AnyBlock:
        if number in self._memory:
            self._memory.move_to_end(number)
            return self._memory[number]
        if self._thread is not None:
            coming = self._coming.pop(number, None)
            block = self._make(number) if coming is None else coming.result()
        else:
            block = self._load(number)
        if block is None:
            block = self._make(number)
            packed = io.BytesIO()
            np.savez(packed, **block._asdict())
            if not write_atomically(self._file(number), packed.getvalue()):
                self._keep = self.count  # without a disk, memory is all there is
        self._memory[number] = block
        while len(self._memory) > self._keep:
            self._memory.popitem(last=False)
        return block

    def ahead(self, lane: int, numbers: Iterable[int]) -> None:
        """Begins to make these blocks, which the lane wants next, if they are of a large set."""
        if self._thread is None:
            return
        self._wanted[lane] = [n for n in dict.fromkeys(numbers) if n not in self._memory]
        for n in self._coming.keys() - set(itertools.chain(*self._wanted.values())):
            self._coming.pop(n).cancel()  # the iterator was set elsewhere
        for n in self._wanted[lane]:
            if n not in self._coming:
                self._coming[n] = self._thread.submit(self._make, n)

    def prepare(self, numbers: Iterable[int]) -> None:
        """Makes what is not cached yet, and says so where it takes long."""
        if self._thread is not None:
            return
        keep_small(cache_dir() / "blocks", self.key)
        missing = [n for n in numbers if n not in self._memory and not self._file(n).is_file()]
        # Each process in an order of its own: workers that start together share the making.
        random.Random(os.getpid()).shuffle(missing)
        start = last = time.monotonic()
        for done, number in enumerate(missing):
            _ = self[number]
            if time.monotonic() - last > 10.0:
                last = time.monotonic()
                logging.getLogger(__name__).info(
                    "data: block %d of %d tokenised, %.0f s", done + 1, len(missing), last - start
                )

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def _load(self, number: int) -> AnyBlock | None:
        try:
            # Read whole first: np.load leaves the file open where it finds it damaged.
            with np.load(io.BytesIO(self._file(number).read_bytes())) as arrays:
                return self.kind(**arrays)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # not there yet, or damaged: it is made (anew)


def example_blocks(
    cfg: Config, comp: Tokenizer, dec: Tokenizer, docs: Documents | LargeDocuments | None
) -> Blocks[Block]:
    """Blocks of training examples; `docs` are the training documents (None: the world's)."""
    dtype = _dtype(comp, dec)
    shape = [cfg.data.segment, cfg.data.segments, cfg.data.target, comp.name, dec.name]

    def pieces(number: int) -> tuple[list[Piece], Counts]:
        if docs is None:
            drawn = _passages(cfg, number, cfg.world.train_prior_strength, context_words(cfg))
            return world_pieces(drawn, cfg, comp, dec)
        return text_pieces(_documents(docs, number), cfg, comp, dec)

    def make(number: int) -> Block:
        return pad_pieces(*pieces(number), cfg, dtype)

    key = _key("examples", cfg, docs, shape)
    pools, lanes = _pools(docs, cfg.train.optim.batch)
    return Blocks(Block, key, _count_of(cfg, docs), make, pools, lanes)


def lm_blocks(
    cfg: Config,
    tok: Tokenizer,
    docs: Documents | LargeDocuments | None,
    longest_copy: int,
    batch: int,
) -> Blocks[LmBlock]:
    """Blocks of documents for language modelling. A world document's head is a passage of at most
    `longest_copy` words and its tail the continuation; a text document has no tail."""
    dtype = _dtype(tok)
    words = min(context_words(cfg), longest_copy)

    def make(number: int) -> LmBlock:
        if docs is None:
            drawn = _passages(cfg, number, cfg.world.prior_strength, words)
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
    return cfg.data.path if cfg.data.source == "text" else f"tfds {cfg.data.tfds_name!r}"


def _passages(cfg: Config, number: int, prior: float, words: int) -> list[Passage]:
    world = World(cfg.world)
    first = number * PASSAGES
    last = min(first + PASSAGES, cfg.data.train_passages)
    return [
        world.passage("train", i, prior_strength=prior, max_words=words) for i in range(first, last)
    ]


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


def _dtype(*toks: Tokenizer) -> type[np.integer]:
    return np.uint16 if max(t.vocab_size for t in toks) <= 1 << 16 else np.int32
