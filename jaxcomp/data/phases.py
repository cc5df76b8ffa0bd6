"""What takes long before the first step, reported while it goes on: which phase, how far, how long.

A phase reports after a second and every few seconds from then on, from a thread of its own, so that
work inside a library (unpacking, training a tokenizer) is reported too. Quick ones report nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from jaxcomp.runtime import distributed

FIRST_S, EVERY_S = 1.0, 5.0


class Phase:
    """One phase; who works sets `done`, of `total` units (0: not known)."""

    def __init__(self, what: str, total: int = 0, unit: str = ""):
        self.what, self.total, self.unit = what, total, unit
        self.done, self._began = 0, time.monotonic()

    def __str__(self) -> str:
        spent = time.monotonic() - self._began
        done = f": {self.done:,} {self.unit}" if self.unit else ""
        if not self.total:
            return f"{self.what}{done}, {spent:.0f} s"
        share, left = min(1.0, self.done / self.total), ""
        if share and spent:
            rate = float(f"{self.done / spent:.3g}")
            left = f", {rate:,g} a second, about {spent * (1 - share) / share:.0f} s left"
        of = f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{self.what}: {of} ({share:.0%}), {spent:.0f} s{left}"


def _print(text: str) -> None:
    if distributed.is_lead():
        print(f"jaxcomp: {text}", file=sys.stderr, flush=True)


_say: Callable[[str], None] = _print
_open: list[Phase] = []  # of phases in phases the last reports
_saying = threading.Lock()  # `_say` may write to a pipe


@contextlib.contextmanager
def reported_to(say: Callable[[str], None]) -> Iterator[None]:
    """Phases are reported to `say` in this context, in place of standard error."""
    global _say
    before, _say = _say, say
    try:
        yield
    finally:
        _say = before


@contextlib.contextmanager
def phase(what: str, total: int = 0, unit: str = "") -> Iterator[Phase]:
    """Report the work inside this context as `what`."""
    found, over = Phase(what, total, unit), threading.Event()
    thread = threading.Thread(target=_report, args=(found, over), daemon=True)
    _open.append(found)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()  # after it the caller may write to that pipe
        _open.remove(found)


def _report(found: Phase, over: threading.Event) -> None:
    wait = FIRST_S
    while not over.wait(wait):
        with _saying, contextlib.suppress(OSError, ValueError):  # nobody may read any more
            if _open[-1:] == [found]:
                _say(str(found))
        wait = EVERY_S
