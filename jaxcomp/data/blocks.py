"""Prepared sets: blocks of tokenised examples, stored as ArrayRecord files.

A block is a NamedTuple of arrays; as a record it is an .npz. A shard is a file of consecutive
blocks, written whole or not at all, so that any number of processes can make a set together, and
one that was killed goes on with the next shard.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from filelock import FileLock

from jaxcomp.data.npz import packed, unpacked
from jaxcomp.runtime import live
from jaxcomp.runtime.cache import cache_dir, damaged, unwritable

SHARDS = 256  # of a set, about: one that has fewer blocks has a block a shard
AnyBlock = TypeVar("AnyBlock", bound=tuple[Any, ...])  # a NamedTuple of arrays


class Blocks(Generic[AnyBlock]):
    """`count` blocks by number, made by `make(number)` where the set `key` does not hold them."""

    def __init__(self, kind: type[AnyBlock], key: str, count: int, make: Callable[[int], AnyBlock]):
        self.kind, self.count, self._make = kind, count, make
        self.folder: Path = cache_dir() / "prepared" / key
        self.per_shard = max(1, -(-count // SHARDS))
        self._held = functools.lru_cache(maxsize=4)(self._found)
        self._open = functools.lru_cache(maxsize=8)(
            lambda shard: ArrayRecordReader(str(self._file(shard)))
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> AnyBlock:
        return self._held(number)

    def _found(self, number: int) -> AnyBlock:
        shard, at = divmod(number, self.per_shard)
        block = self._read(shard, at)
        if block is None and self.make_shard(shard):
            block = self._read(shard, at)
        # Without a disk it is made each time that it is wanted.
        return self._make(number) if block is None else block

    def missing(self, numbers: Iterable[int] | None = None) -> list[int]:
        """The shards of these blocks (None: of all) that are not made."""
        numbers = range(self.count) if numbers is None else numbers
        wanted = dict.fromkeys(number // self.per_shard for number in numbers)
        return [shard for shard in wanted if not self._file(shard).is_file()]

    def prepare(self, numbers: Iterable[int]) -> None:
        """Make what is not there."""
        missing = self.missing(numbers)
        # Each process in an order of its own: workers that start together share the making.
        random.Random(os.getpid()).shuffle(missing)
        with live.phase("tokenising examples to train on", len(missing), "shards") as progress:
            for shard in missing:
                if not self.make_shard(shard):
                    return
                progress.done += 1

    def make_shard(self, shard: int) -> bool:
        """Make a shard unless it is there; False (and a warning) where it cannot be written."""
        file = self._file(shard)
        making = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if file.is_file():
                    return True
                making.unlink(missing_ok=True)
                making.touch()  # the writer's own errors do not say what the matter is
                writer = ArrayRecordWriter(str(making), "group_size:1")
                for number in self.numbers(shard):
                    writer.write(packed(cast(Any, self._make(number))._asdict()))
                writer.close()
                making.replace(file)
            return True
        except (OSError, RuntimeError) as error:  # RuntimeError of a full disk, by ArrayRecord
            unwritable(self.folder, str(error))
            return False

    def numbers(self, shard: int) -> range:
        """The blocks of a shard."""
        return range(shard * self.per_shard, min(self.count, (shard + 1) * self.per_shard))

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.array_record"

    def _read(self, shard: int, at: int) -> AnyBlock | None:
        """A block of a shard; None where there is none, or where it is damaged."""
        if not self._file(shard).is_file():
            return None
        try:
            reader = self._open(shard)
            if reader.num_records() != len(self.numbers(shard)):
                raise ValueError(f"{reader.num_records()} records")
            return self.kind(**unpacked(reader.read([at])[0]))
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            damaged(self._file(shard), error)
            self._open.cache_clear()
            self._file(shard).unlink(missing_ok=True)
            return None


class Order:
    """Which block is window w, and its random generator: an epoch visits every block.

    Blocks of the world are independent draws and come in order, so that a short run makes only what
    it uses. Those of text are permuted in every epoch: shards, and the blocks of each.
    """

    def __init__(self, blocks: Blocks[Any], seed: Sequence[int], permute: bool):
        self.blocks, self.seed, self.permute = blocks, seed, permute
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        rng, size = np.random.default_rng([*self.seed, epoch]), self.blocks.per_shard
        starts = rng.permutation(np.arange(0, len(self.blocks), size))
        ends = np.minimum(starts + size, len(self.blocks))
        shards = zip(starts, ends, strict=True)
        return np.concatenate([rng.permutation(np.arange(a, b)) for a, b in shards])

    def number(self, w: int) -> int:
        epoch, k = divmod(w, len(self.blocks))
        return int(self._epoch(epoch)[k]) if self.permute else k

    def block(self, w: int) -> Any:
        return self.blocks[self.number(w)]

    def rng(self, w: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, 7, w])

    def epoch(self) -> Iterator[int]:
        """Numbers of all blocks, in the order of the first epoch."""
        return map(self.number, range(len(self.blocks)))

    def prepare(self, rows: int, rows_of_a_block: int) -> None:
        """Make the blocks of the first `rows` rows, about."""
        windows = -(-rows // max(1, rows_of_a_block)) + 1
        self.blocks.prepare(itertools.islice(self.epoch(), windows))
