"""`--profile=A:B`: a profiler trace of a few steps, for TensorBoard or Perfetto."""

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

    A run that is resumed inside the window traces what is left of it, from another step N.
    """

    def __init__(self, window: Window | None, workdir: Path, start: int):
        self.steps = range(max(window.first, start), window.last) if window else range(0)
        place = paths.path(workdir) / "profile" / f"process-{jax.process_index()}"
        self._target = place / f"step-{self.steps.start}"
        self._folder: Path | None = None  # where the trace that is under way goes
        if window and not self.steps and distributed.is_lead():
            said = f"nothing is traced: the run is at step {start} already, past {window}"
            print(f"profile: {said}", file=sys.stderr, flush=True)

    def begins(self, step: int) -> bool:
        return bool(self.steps) and step == self.steps.start

    def ends(self, step: int) -> bool:
        """After `step` steps: is the window over?"""
        return self._folder is not None and step == self.steps.stop

    def begin(self) -> None:
        # The profiler writes to disks only.
        self._folder = paths.scratch() if paths.is_remote(self._target) else self._target
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
