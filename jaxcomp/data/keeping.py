"""Blocks by number: made when they are wanted, or found in the cache on disk."""

from __future__ import annotations

import io
import itertools
import os
import random
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from jaxcomp.data import phases
from jaxcomp.runtime.cache import cache_dir, damaged, keep_small, write_atomically

_HELD = 4  # blocks kept in memory
# What NumPy and zipfile raise of a damaged file: NotImplementedError where the damage reads as a
# method of compression that zipfile does not know.
_DAMAGE = (OSError, ValueError, TypeError, EOFError, LookupError, NotImplementedError)

AnyBlock = TypeVar("AnyBlock", bound=tuple[Any, ...])  # a NamedTuple of arrays


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
            np.savez(packed, **cast(Any, block)._asdict())
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
        """Makes what is not cached yet."""
        if self._thread is not None:
            return
        keep_small(cache_dir() / "blocks", self.key)
        missing = [n for n in numbers if n not in self._memory and not self._file(n).is_file()]
        # Each process in an order of its own: workers that start together share the making.
        random.Random(os.getpid()).shuffle(missing)
        with phases.phase("tokenising examples to train on", len(missing), "blocks") as progress:
            for done, number in enumerate(missing):
                progress.done = done
                _ = self[number]

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def _load(self, number: int) -> AnyBlock | None:
        try:
            # Read whole first: np.load leaves the file open where it finds it damaged.
            with np.load(io.BytesIO(self._file(number).read_bytes())) as arrays:
                return self.kind(**arrays)
        except FileNotFoundError:
            return None
        except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
            damaged(self._file(number), error)
            return None
