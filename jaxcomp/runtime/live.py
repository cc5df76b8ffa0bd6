"""The live display of long commands: what, how far, how fast, time left, and a text (the loss).

On a terminal every open `Line` is one row, redrawn four times a second; printed lines appear above.
Elsewhere nothing is drawn, no control character is written, and a `phase` prints a plain line after
a second and every few seconds from then on. Only process 0 of a run reports.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from jaxcomp.runtime import distributed

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

FIRST_S, EVERY_S = 1.0, 5.0  # of plain lines; to a parent process, which draws, every FIRST_S
YOUNG_S = 0.3  # a row that is younger is not drawn yet


class Line:
    """`done` of `total` units (0: not known) and a `text`, all set by the one who works.

    Attributes:
        left: replaces the time left that follows from the rate.
        below: rows that belong to this one, such as the workers of a sweep.
    """

    def __init__(self, what: str, total: float = 0, unit: str = "", done: float = 0):
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.text = self.left = ""
        self.plain = False  # whether it prints plain lines where nothing is drawn
        self.below: Sequence[Line] = ()
        self.began = time.monotonic()
        self.count()

    def count(self) -> None:
        """Begin to count the rate: what came before (compiling) is no part of it."""
        self._found, self._since = self.done, time.monotonic()

    def __str__(self) -> str:
        spent = time.monotonic() - self.began
        done = f": {self.done:,} {self.unit}" if self.unit else ""
        if not self.total:
            return f"{self.what}{done}, {spent:.0f} s"
        share, left = min(1.0, self.done / self.total), ""
        if share and spent:
            rate = float(f"{self.done / spent:.3g}")
            left = f", {rate:,g} a second, about {spent * (1 - share) / share:.0f} s left"
        of = f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{self.what}: {of} ({share:.0%}), {spent:.0f} s{left}"

    def row(self) -> str:
        """How far, the text, the time left and the rate, as far as each is known."""
        now = time.monotonic()
        rate = (self.done - self._found) / (now - self._since) if now > self._since + 1 else 0.0
        far, left = duration(now - self.began), self.left
        if self.total:
            far = f"{self.done / self.total:.0%}"
            left = left or (f"{duration((self.total - self.done) / rate)} left" if rate else "")
        if self.unit:
            far = f"{self.done:,}{f'/{self.total:,}' if self.total else ''} {self.unit}"
        per = next(((rate * s, each) for s, each in _UNITS if rate * s >= 1), (rate * 3600, "h"))
        shown = f"{per[0]:,.3g} {self.unit}/{per[1]}" if rate and self.unit else ""
        return "  ".join(filter(None, (far, self.text, left, shown)))


_UNITS = ((1, "s"), (60, "min"))
_open: list[Line] = []
_display: Live | None = None
_changing, _saying = threading.RLock(), threading.Lock()
_say: Callable[[str], None] | None = None  # takes the place of standard error


@contextlib.contextmanager
def line(what: str, total: float = 0, unit: str = "", done: float = 0) -> Iterator[Line]:
    """Show a row of the display inside this context. `done`: what an earlier command has done."""
    found = Line(what, total, unit, done)
    _change(_open.append, found)
    try:
        yield found
    finally:
        _change(_open.remove, found)


@contextlib.contextmanager
def phase(what: str, total: float = 0, unit: str = "") -> Iterator[Line]:
    """As `line`; without a terminal, print plain lines, from a thread of its own: work inside a
    library is reported too. Of phases in phases the last one reports."""
    with line(what, total, unit) as found:
        found.plain, over = not drawn(), threading.Event()
        thread = threading.Thread(target=_report, args=(found, over), daemon=True)
        if found.plain:
            thread.start()
        try:
            yield found
        finally:
            over.set()
            if found.plain:
                thread.join()  # after it the caller may write to the pipe of `reported_to`


@contextlib.contextmanager
def reported_to(say: Callable[[str], None]) -> Iterator[None]:
    """Phases are reported to `say` in this context, in place of standard error."""
    global _say
    before, _say = _say, say
    try:
        yield
    finally:
        _say = before


def drawn() -> bool:
    """Whether rows are drawn: both outputs are a terminal, and this is the process in front."""
    terminal = all(s is not None and s.isatty() for s in (sys.stdout, sys.stderr))
    dumb = os.environ.get("TERM", "dumb").lower() in ("dumb", "unknown")
    return terminal and not dumb and distributed.is_lead() and mp.parent_process() is None


def duration(seconds: float) -> str:
    """75 -> "1m15s", 4000 -> "1h07m"."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def _change(change: Callable[[Line], None], found: Line) -> None:
    """Open or close a row; the display begins with the first one and is erased with the last."""
    global _display
    with _changing:
        change(found)
        if _open and _display is None and drawn():
            _display = _new_display()
            _display.start()
        elif not _open and _display is not None:
            ended, _display = _display, None
            ended.stop()


def _new_display() -> Live:
    from rich.console import Console
    from rich.live import Live

    class Plain(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # never hidden: after a kill -9 nobody would show it again

    console = Plain(stderr=True, markup=False, highlight=False, emoji=False)
    return Live(get_renderable=_table, console=console, transient=True)


def _table() -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, max_width=32)
    table.add_column(width=10)
    table.add_column(no_wrap=True, overflow="ellipsis")
    now = time.monotonic()
    for each in [one for one in list(_open) if now - one.began >= YOUNG_S]:
        for one in (each, *each.below):
            bar = ProgressBar(one.total, one.done) if one.total else ""
            table.add_row(one.what if one is each else f"  {one.what}", bar, one.row())
    return table


def _report(found: Line, over: threading.Event) -> None:
    wait = FIRST_S
    while not over.wait(wait):
        with _saying, contextlib.suppress(OSError, ValueError):  # nobody may read any more
            if [one for one in _open if one.plain][-1:] == [found]:
                (_say or _print)(str(found))
        wait = FIRST_S if _say else EVERY_S


def _print(text: str) -> None:
    beside_display = mp.parent_process() is not None and sys.stderr.isatty()
    if distributed.is_lead() and not beside_display:
        print(f"jaxcomp: {text}", file=sys.stderr, flush=True)
