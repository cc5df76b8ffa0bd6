"""More documents than fit into memory: read by row group, known by the files' footers alone.

A unit is a run of consecutive rows of one row group, the smallest thing that is held out. Nothing
here grows with the text; with the number of documents grows only, where the data names works or
sources, one byte a row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcomp.data.documents import DataError, Document

UNIT = 1024  # rows of a unit at most
_UNITS = 400  # that there should be at least
LANES = 32  # that draw from the data side by side, at most (`stream.WindowIterator`)
POOL = 1 << 27  # bytes of text whose blocks are mixed with each other, shared among the lanes
WIDE = 1 << 30  # bytes of the row groups that the lanes may be in, together


class Group(NamedTuple):
    """A row group: rows of one file that are read together."""

    file: str
    number: int
    rows: int
    size: int  # bytes of its text, not compressed
    first: int  # number of its first row in the file


class Keys(NamedTuple):
    """Which work (or source) each row of a row group is of."""

    names: list[str]
    of_row: np.ndarray
    least: int  # different names of the whole data that make a split by them possible


class Reader(Protocol):
    """How one kind of file gives texts."""

    def texts(self, group: Group) -> Sequence[Any]:
        """The texts of a row group, str or None each. Raises DataError."""
        ...

    def keys(self, group: Group) -> Keys | None:
        """Read without the text; None: the data names neither works nor sources."""
        ...


class Held:
    """The row groups read last: as many as all lanes may be in, and those that they want next."""

    def __init__(self, reader: Reader, groups: Sequence[Group]):
        self.reader = reader
        widest = max(g.size for g in groups)
        self.room = POOL + 2 * max(widest, min(WIDE, LANES * widest))  # bytes of text
        self._groups: OrderedDict[Group, Sequence[Any]] = OrderedDict()
        self._one = threading.Lock()  # blocks are read ahead in a thread

    def __getitem__(self, group: Group) -> Sequence[Any]:
        with self._one:
            if group not in self._groups:
                while self._groups and sum(g.size for g in self._groups) + group.size > self.room:
                    self._groups.popitem(last=False)
                self._groups[group] = self.reader.texts(group)
            self._groups.move_to_end(group)
            return self._groups[group]


class LargeDocuments:
    """Documents by number, as `documents.Documents`, in the order of `units`.

    Rows without text are documents too (they give no example).
    """

    in_memory = False

    def __init__(
        self,
        groups: Sequence[Group],
        held: Held,
        fingerprint: str,
        units: np.ndarray | None = None,
        only: tuple[np.ndarray, int] | None = None,
    ):
        self.groups, self.held, self.fingerprint = groups, held, fingerprint
        self.before = np.concatenate([[0], np.cumsum([g.rows for g in groups], dtype=np.int64)])
        # Columns: group, first row within the group, rows.
        self.units = self._cut() if units is None else units
        self.only = only  # a code of every row of the data, and that of the rows in this view
        sizes = self.units[:, 2] if only is None else self._counts(*only)
        self.ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __iter__(self) -> Iterator[Document]:
        for u in range(len(self.units)):
            yield from self._documents(u)

    def part(self, start: int, stop: int) -> list[Document]:
        """Documents start:stop."""
        out, stop = [], min(stop, len(self))
        u = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            first = int(self.ends[u - 1]) if u else 0
            last = min(stop, int(self.ends[u]))
            out += self._documents(u, start - first, last - first)
            start, u = last, u + 1
        return out

    def shuffled(self, seed: int) -> LargeDocuments:
        """Row groups in another order, the rows of each as they are: a block is read in one go."""
        rank = np.random.default_rng([seed, 1]).permutation(len(self.groups))
        order = np.argsort(rank[self.units[:, 0]], kind="stable")
        return self._view(self.units[order])

    def lanes(self, block: int, batch: int) -> int:
        """How many lanes may share batches of `batch` rows drawn from blocks of `block` documents.

        A function of the data and the batch alone, so the same on any number of hosts.
        """
        widest, lanes = max(g.size for g in self.groups), LANES
        while lanes > 1 and (
            batch % lanes or lanes * widest > WIDE or len(self) < 4 * lanes * block
        ):
            lanes //= 2
        return lanes

    def pools(self, block: int, lanes: int = 1) -> np.ndarray:
        """First number of each pool of blocks of `block` documents, and the number of all blocks.

        A pool's blocks come from row groups of about POOL / `lanes` bytes, so that they can be read
        in any order.
        """
        starts, size, last = [0], 0, -1
        for u, g in enumerate(self.units[:, 0]):
            if g == last:
                continue
            if size and size + self.groups[g].size > POOL // lanes:
                starts.append(-(-int(self.ends[u - 1]) // block))
                size = 0
            size, last = size + self.groups[g].size, g
        return np.unique([*starts, -(-len(self) // block)])

    def split(
        self, place: Callable[..., float], share: float, border: int
    ) -> dict[str, LargeDocuments]:
        """{"train", "val", "test"}: whole works or sources where the data names them, else units.

        `place` hashes names to [0, 1). A held-out unit loses `border` documents at either end,
        which may belong to a work that straddles it.
        """
        names = ("test", "val", "train")
        codes = self._codes(place, share)
        if codes is not None:
            return {n: self._view(self.units, (codes, i)) for i, n in enumerate(names)}
        at = np.array(
            [place(_name(self.groups[g]), int(first)) for g, first, _ in self.units.tolist()]
        )
        which = _codes_of(at, share)
        out = {"train": self._view(self.units[which == 2])}
        for i, name in enumerate(names[:2]):
            units = self.units[which == i]
            cut = np.minimum(border, units[:, 2] // 8)
            units = np.stack([units[:, 0], units[:, 1] + cut, units[:, 2] - 2 * cut], 1)
            out[name] = self._view(units)
        return out

    def _codes(self, place: Callable[..., float], share: float) -> np.ndarray | None:
        """Of every row: 0 test, 1 validation, 2 training; None where no works are named."""
        rows: list[np.ndarray] = []  # of each group, where its rows' works are hashed to
        least = 0
        for group in self.groups:
            found = self.held.reader.keys(group)
            if found is None:
                return None
            least = found.least
            rows.append(np.array([place(name) for name in found.names])[found.of_row])
        at_R = np.concatenate(rows)
        if len(np.unique(at_R)) < least:
            return None
        return _codes_of(at_R, share)

    def _cut(self) -> np.ndarray:
        rows = max(1, min(UNIT, int(self.before[-1]) // _UNITS))
        units = [
            (g, first, min(rows, group.rows - first))
            for g, group in enumerate(self.groups)
            for first in range(0, group.rows, rows)
        ]
        return np.array(units, np.int64).reshape(-1, 3)

    def _view(
        self, units: np.ndarray, only: tuple[np.ndarray, int] | None = None
    ) -> LargeDocuments:
        return LargeDocuments(
            self.groups, self.held, self.fingerprint, units, only if only else self.only
        )

    def _counts(self, codes: np.ndarray, wanted: int) -> np.ndarray:
        starts = self.before[self.units[:, 0]] + self.units[:, 1]
        total = np.concatenate([[0], np.cumsum(codes == wanted, dtype=np.int64)])
        return total[starts + self.units[:, 2]] - total[starts]

    def _documents(self, u: int, start: int = 0, stop: int | None = None) -> list[Document]:
        g, first, count = self.units[u].tolist()
        group = self.groups[g]
        rows = np.arange(first, first + count)
        if self.only is not None:
            codes, wanted = self.only
            begin = int(self.before[g])
            rows = rows[codes[begin + first : begin + first + count] == wanted]
        rows = rows[start:stop].tolist()
        if not rows:
            return []
        texts, stem = self.held[group], _name(group).rsplit(".", 1)[0]
        out = []
        for row in rows:
            text = texts[row]
            text = text if isinstance(text, str) or text is None else text.as_py()
            out.append(Document(f"{stem}-{group.first + row}", "", "", text or ""))
        return out


def _name(group: Group) -> str:
    return group.file.rsplit("/", 1)[-1]


def _codes_of(at_N: np.ndarray, share: float) -> np.ndarray:
    """0 (test) below `share`, 1 (validation) below twice that, else 2 (training)."""
    low, high, different = share, 2 * share, np.unique(at_N)
    if len(different) >= 3 and len(np.unique(np.digitize(different, [low, high]))) < 3:
        # So few that chance may leave a split without any: the lowest by hash instead.
        low, high = different[1:3]
    return np.digitize(at_N, [low, high]).astype(np.uint8)


def too_few(documents: LargeDocuments, found: dict[str, LargeDocuments]) -> DataError:
    counts = ", ".join(f"{name} {len(part)}" for name, part in found.items())
    return DataError(
        f"{len(documents)} document(s) cannot be split into unseen works ({counts}); expected "
        "more documents, or a 'work' or 'source' column with several values"
    )
