"""`--profile=A:B`: what the devices did in a few steps, as a trace for TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed, paths


class Window(NamedTuple):
    """Steps first, first + 1, ..., last - 1 of a run, counted from 0."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"--profile={self.first}:{self.last}"


def window(text: str, steps: int) -> Window | None:
    """`"10:13"` -> steps 10, 11 and 12 of `steps`; None of "". Raises ConfigError."""
    if not text:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit()):
        raise ConfigError(f"--profile={text}: expected FIRST:LAST, two steps, as in 10:13")
    found = Window(int(first), int(last))
    if not found.first < found.last <= steps:
        raise ConfigError(
            f"{found}: expected FIRST < LAST <= {steps}, since train.optim.steps is {steps}"
        )
    return found


class Tracer:
    """Traces the steps of `window` into `workdir`/profile/process-I/step-N, each process its own.

    A run that is resumed inside the window traces what is left of it, from another step N: the
    profiler names a trace by the second, and would write one over that of a moment before.
    """

    def __init__(self, window: Window | None, workdir: Path, start: int):
        self.window, self.start = window, start
        self.place = paths.path(workdir) / "profile" / f"process-{jax.process_index()}"
        self._folder: Path | None = None  # where the trace that is under way goes
        if window and start >= window.last and distributed.is_lead():
            tell(f"nothing is traced: the run is at step {start} already, past {window}")

    def begins(self, step: int) -> bool:
        return self.window is not None and step == max(self.window.first, self.start)

    def ends(self, step: int) -> bool:
        """After `step` steps: is the window over?"""
        return self.window is not None and self._folder is not None and step >= self.window.last

    def begin(self) -> None:
        if self.window is not None and self.start < self.window.last:
            first = max(self.window.first, self.start)
            self._target = self.place / f"step-{first}"
            # The profiler writes to disks only.
            self._folder = paths.scratch() if paths.is_remote(self.place) else self._target
            jax.profiler.start_trace(str(self._folder))

    def step(self, number: int) -> AbstractContextManager[Any]:
        """Around the dispatch of a step: the trace then knows where it begins."""
        if self._folder is None:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def end(self) -> None:
        if self._folder is not None:
            jax.profiler.stop_trace()
            if self._folder != self._target:
                paths.upload(self._folder, self._target)
                shutil.rmtree(self._folder)
            self._folder = None


def tell(text: str) -> None:
    print(f"profile: {text}", file=sys.stderr, flush=True)
