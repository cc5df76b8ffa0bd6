"""An endless stream of rows: the same batches on any number of hosts, resumable at the next one.

Rows come from windows (a shuffled block of examples, or a packed block of documents), one after
another. The whole state is a window and a row in it, so every host is at the same place, and a host
takes of each batch the rows of its devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import grain
import jax
import numpy as np

from jaxcomp.data.documents import DataError
from jaxcomp.runtime.sharding import rows_here


class Window(Protocol):
    rows: int

    def take(self, lo: int, hi: int) -> tuple[np.ndarray, ...]: ...


class WindowIterator(grain.DatasetIterator):
    """Batches of `batch` rows: of each global batch those rows that lie on this process's devices
    in the active mesh (`rows_here`); all, where none is.

    `window` gives the window of a number, `kind` is the NamedTuple that a batch is. Drawing raises
    DataError where an epoch of so many `windows` gives no row.
    """

    def __init__(
        self, window: Callable[[int], Window], kind: type, batch: int, windows: int = 1 << 31
    ):
        super().__init__()
        mesh = jax.sharding.get_mesh()
        several = not mesh.empty and mesh.is_multi_process
        self._rows = rows_here(batch, mesh) if several else [(0, batch)]
        self._window = functools.lru_cache(maxsize=2)(window)
        self._kind, self._batch, self._windows = kind, batch, windows
        self._at = (0, 0)

    def __next__(self):
        number, row = self._at
        parts, seen, without = [], 0, 0
        while seen < self._batch:
            window = self._window(number)
            n = min(self._batch - seen, window.rows - row)
            for lo, hi in self._rows:
                a, b = max(lo, seen), min(hi, seen + n)
                if a < b:
                    parts.append(window.take(row + a - seen, row + b - seen))
            seen, row = seen + n, row + n
            without = 0 if n else without + 1
            if without > self._windows:
                raise DataError(
                    f"{without} blocks of documents in a row give no example; use longer documents "
                    "or another --data.segment or --data.target"
                )
            if row == window.rows:
                number, row = number + 1, 0
        self._at = (number, row)
        if len(parts) == 1:
            return self._kind(*parts[0])
        return self._kind(*(np.concatenate(p) for p in zip(*parts, strict=True)))

    def get_state(self) -> dict[str, Any]:
        return {"window": self._at[0], "row": self._at[1]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._at = (int(state["window"]), int(state["row"]))
