"""Handle SIGTERM (preemption): save at the end of the step, then exit.

Several processes stop after the same step, whichever got the signal: JAX's preemption service has
the signal, and agrees on the step. Alone, a second SIGTERM, and Ctrl-C, end at once; so does the
first one outside of the steps of a run.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import FrameType

from jaxcomp.runtime import distributed


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop like Ctrl-C, so that workers are ended."""

    def __init__(self) -> None:
        super().__init__("SIGTERM")


class Brake:
    """Says after which step a loop must stop. One a process, since signals are."""

    def __init__(self) -> None:
        self.running = self.asked = False
        self._calls = itertools.count(1)

    def reached(self) -> bool:
        """Whether the run must stop here; every process calls it after each step."""
        if distributed.count() > 1 and not self.asked:
            from jax.experimental import multihost_utils

            # By the number of calls, not of steps: a process may train several runs.
            self.asked = multihost_utils.reached_preemption_sync_point(next(self._calls))
        return self.asked


_brake = Brake()


@contextlib.contextmanager
def steps() -> Iterator[Brake]:
    """Around a loop that calls `reached` after each step."""
    _brake.running = True
    try:
        yield _brake
    finally:
        _brake.running = False


def check() -> None:
    """Between two runs on several processes. Raises Terminated where one was told to stop."""
    if distributed.count() > 1 and _brake.reached():
        raise Terminated


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM for processes that train alone."""
    if not _brake.running or _brake.asked:
        raise Terminated
    _brake.asked = True
