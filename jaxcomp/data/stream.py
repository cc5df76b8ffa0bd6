"""An endless stream of rows: the same batches on any number of hosts, resumable at the next one.

The rows of each global batch are shared out evenly among lanes; a lane draws its share from windows
of its own (a shuffled block of examples, or a packed block of documents). The whole state is each
lane's place, a window and a row in it. A host makes the windows of those lanes whose rows lie on
its devices. Only large sets have several lanes; the blocks of a small one are made once, by every
host, and kept.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np

from jaxcomp.data.documents import DataError
from jaxcomp.data.keeping import Blocks
from jaxcomp.runtime.sharding import everywhere, rows_here

_AHEAD = 4  # blocks of a large set that are made before they are wanted, shared among the lanes


class Window(Protocol):
    rows: int

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]: ...


class WindowIterator(grain.DatasetIterator):
    """Batches of `batch` rows: of each global batch those rows that lie on this process's devices
    in the active mesh (`rows_here`); all, where none is.

    Args:
        window: of a lane and a number, the lane's window of that number.
        kind: the NamedTuple that a batch is.
        lanes: how many windows an epoch of each lane has. Their number divides `batch`.
        mend: what to do where there are none to draw.

    Raises (on drawing) DataError where a whole epoch of a lane gives no row.
    """

    def __init__(
        self,
        window: Callable[[int, int], Window],
        kind: type,
        batch: int,
        lanes: Sequence[int] = (1 << 31,),
        mend: str = "use longer documents or a smaller --data.segment",
    ):
        super().__init__()
        mesh = jax.sharding.get_mesh()
        self._several = not mesh.empty and mesh.is_multi_process
        self._rows = rows_here(batch, mesh) if self._several else [(0, batch)]
        self._window = functools.lru_cache(maxsize=2 * len(lanes))(window)
        self._mend = mend
        self._kind, self._share, self._lanes = kind, batch // len(lanes), lanes
        self._at = [(0, 0)] * len(lanes)

    def __next__(self):
        parts: list[tuple[np.ndarray, ...]] = []
        for lane in range(len(self._lanes)):
            first, last = lane * self._share, (lane + 1) * self._share
            spans = [(max(lo, first), min(hi, last)) for lo, hi in self._rows]
            wanted = [(lo - first, hi - first) for lo, hi in spans if lo < hi]
            if wanted:
                parts += self._draw(lane, wanted)
        if len(parts) == 1:
            return self._kind(*parts[0])
        return self._kind(*(np.concatenate(p) for p in zip(*parts, strict=True)))

    def _draw(self, lane: int, wanted: list[tuple[int, int]]) -> list[tuple[np.ndarray, ...]]:
        """Those rows of the lane's next share."""
        number, row = self._at[lane]
        parts, seen, without = [], 0, 0
        while seen < self._share:
            window = self._window(lane, number)
            n = min(self._share - seen, window.rows - row)
            for lo, hi in wanted:
                a, b = max(lo, seen), min(hi, seen + n)
                if a < b:
                    parts.append(window.take(row + a - seen, row + b - seen))
            seen, row = seen + n, row + n
            without = 0 if n else without + 1
            if without > self._lanes[lane]:
                raise DataError(
                    f"{without} blocks of documents in a row give no example; {self._mend}"
                )
            if row == window.rows:
                number, row = number + 1, 0
        self._at[lane] = (number, row)
        return parts

    def get_state(self) -> dict[str, Any]:
        """Of every lane, wherever it is drawn: every process must ask at the same step."""
        at = np.array(self._at, np.int32)
        if self._several and len(self._lanes) > 1:
            at = furthest(everywhere(at))
        return {"window": at[:, 0].tolist(), "row": at[:, 1].tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        windows, rows = (np.atleast_1d(state[k]).tolist() for k in ("window", "row"))
        if len(windows) != len(self._lanes):
            raise DataError(
                f"the checkpoint's data stood in {len(windows)} lanes, this run has "
                f"{len(self._lanes)}: it was made by another version of jaxcomp; go on with that "
                "one, or start again in another --workdir"
            )
        self._at = list(zip(windows, rows, strict=True))


def furthest(at_PN2: np.ndarray) -> np.ndarray:
    """Each lane's place, of the process that is furthest in it: the others do not draw from it."""
    window_PN, row_PN = at_PN2[..., 0], at_PN2[..., 1]
    window_N = window_PN.max(0)
    return np.stack([window_N, np.where(window_PN == window_N, row_PN, -1).max(0)], -1)


class Order:
    """Which block a lane's window is, and its random generator: an epoch visits every block.

    World blocks are independent draws and come in order, so that a short run makes only what it
    uses; text blocks are permuted in every epoch. A lane of a large set has a run of its blocks,
    permuted pool by pool, so that each row group is read once an epoch.
    """

    def __init__(self, blocks: Blocks, seed: tuple[int, ...], permute: bool):
        self.blocks, self.seed, self.permute = blocks, seed, permute
        count, lanes = len(blocks), blocks.lanes
        self._first = [count * lane // lanes for lane in range(lanes + 1)]
        self.lanes = [b - a for a, b in itertools.pairwise(self._first)]
        self._epoch = functools.lru_cache(maxsize=2 * lanes)(self._permutation)

    def _key(self, lane: int) -> list[int]:
        return [lane] if len(self.lanes) > 1 else []

    def _permutation(self, lane: int, epoch: int) -> np.ndarray:
        rng, pools = np.random.default_rng([*self.seed, epoch, *self._key(lane)]), self.blocks.pools
        if pools is None:
            return rng.permutation(len(self.blocks))
        first, last = self._first[lane], self._first[lane + 1]
        borders = [first, *pools[(first < pools) & (pools < last)], last]
        found = [rng.permutation(np.arange(a, b)) for a, b in itertools.pairwise(borders)]
        return np.concatenate([found[i] for i in rng.permutation(len(found))])

    def block(self, lane: int, w: int) -> Any:
        """Block of window w; begins to make those that the lane will want next."""
        found = self.blocks[self.number(lane, w)]
        ahead = max(1, _AHEAD // len(self.lanes))
        self.blocks.ahead(lane, [self.number(lane, k) for k in range(w + 1, w + 1 + ahead)])
        return found

    def number(self, lane: int, w: int) -> int:
        epoch, k = divmod(w, self.lanes[lane])
        return int(self._epoch(lane, epoch)[k]) if self.permute else k

    def rng(self, lane: int, w: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, 7, w, *self._key(lane)])

    def epoch(self) -> Iterator[int]:
        """Numbers of all blocks, in the order of the first epoch, lane after lane."""
        return (self.number(lane, w) for lane, n in enumerate(self.lanes) for w in range(n))
