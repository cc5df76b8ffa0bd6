"""SIGTERM, by which a preemption is announced too: a run saves at the end of its step, and ends.

Of several processes all stop after the same step, whichever was told. A second SIGTERM, and Ctrl-C,
end at once; so does the first one outside of the steps of a run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import FrameType

from jaxcomp.runtime import distributed
from jaxcomp.runtime.channel import Lost


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop like Ctrl-C, so that claims are released and workers ended.

    `together`: every process of the run stopped after the same step, which is saved.
    """

    def __init__(self, *, together: bool = False):
        super().__init__("SIGTERM")
        self.together = together


class Brake:
    """Tells a loop after which step it must stop. One a process, since signals are.

    `lost`: a Terminated was raised and nothing is known to have caught it. Python drops one that is
    raised inside a finaliser or a callback of the garbage collector.
    """

    def __init__(self) -> None:
        self.running = self.asked = self.lost = False
        self._lock = threading.Lock()
        self._seen, self._stop_after = -1, None  # steps

    def ask(self) -> None:
        """In a signal handler: takes no lock that the interrupted thread may hold."""
        self.asked = True
        channel = distributed.channel()
        if channel is not None:
            threading.Thread(target=channel.stop, daemon=True).start()

    def agree(self) -> None:
        """On every process at once: they stop one step after the furthest of them. No loop goes
        on meanwhile."""
        with self._lock, contextlib.suppress(Lost):
            self._stop_after = 1 + max(distributed.gather("stop", self._seen))

    def reached(self, step: int) -> bool:
        """After each step: is it the last one?"""
        if distributed.channel() is None:
            return self.asked
        with self._lock:
            self._seen = step
            return self._stop_after is not None and step >= self._stop_after

    def ended(self) -> bool:
        """After the last step: was any process told to stop meanwhile?"""
        with self._lock:
            told, self._seen = self.asked or self._stop_after is not None, -1
        return any(distributed.gather("steps ended", told))


_brake = Brake()
distributed.when_stopped.append(_brake.agree)


@contextlib.contextmanager
def steps() -> Iterator[Brake]:
    """Around a loop that asks `reached` after each step."""
    if _brake.lost:
        raise Terminated
    _brake.running = True
    try:
        yield _brake
    finally:
        _brake.running = False


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM for processes that train."""
    if not _brake.running or _brake.asked:
        _brake.lost = True
        raise Terminated
    _brake.ask()


def caught() -> None:
    """The command is over, whatever ended it: the process may begin another."""
    _brake.lost = False
