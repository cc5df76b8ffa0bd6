"""Metrics of a run as JSONL and to its loggers, the progress line, and timings.

`metrics.jsonl` holds only what a rerun reproduces.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.runtime import live, paths, strict_json
from jaxcomp.runtime.live import Line, duration
from jaxcomp.training.loggers import RunLogger
from jaxcomp.training.manifest import unwritable

METRICS = "metrics.jsonl"
TIMINGS = "timings.json"
PRINT_S = 10.0  # between plain lines of progress
# The whole of a run's time, in parts that do not overlap; "idle" is the rest: reading weights,
# preparing data, writing logs.
PARTS = ("compile", "data_wait", "step", "checkpoint", "evaluation", "idle")


class Clock:
    """Seconds spent in each named part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS[:-1], 0.0)
        self.start = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def timings(self, rates: Mapping[str, float]) -> dict[str, Any]:
        """What timings.json holds. `breakdown`: seconds and share of each of PARTS, which add up to
        its total; a batch that was drawn while a step ran is part of that step."""
        total = time.perf_counter() - self.start
        # Whole milliseconds, rounded down: so the rest is never negative.
        parts = {name: int(1000 * self.seconds[name]) for name in PARTS[:-1]}
        drawn = self.seconds.get("data", 0.0) - self.seconds["data_wait"]
        parts["step"] = int(1000 * (self.seconds["step"] + drawn))
        parts["idle"] = int(1000 * total) - sum(parts.values())
        whole = max(1, sum(parts.values()))
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {
            "seconds": seconds | {"total": round(total, 3)},
            "breakdown": {
                name: {"seconds": ms / 1000, "share": round(ms / whole, 4)}
                for name, ms in parts.items()
            },
            **rates,
        }


def told_time(what: str, timings: Mapping[str, Any]) -> str:
    """ "llama/24: 9.5 s: compile 3.1 s (33%), data wait 0.0 s (0%), ..." """
    parts = timings["breakdown"]
    told = [
        f"{name.replace('_', ' ')} {part['seconds']:.1f} s ({part['share']:.0%})"
        for name, part in parts.items()
    ]
    return f"{what}: {sum(p['seconds'] for p in parts.values()):.1f} s: {', '.join(told)}"


class Logger:
    """Metrics of one run, appended from `start_step` on.

    Lines of later steps, left by a run that was killed after its last checkpoint, are dropped.
    Raises CheckpointError where it cannot be written.
    """

    def __init__(self, workdir: Path, start_step: int, loggers: Sequence[RunLogger] = ()):
        self.path = paths.path(workdir) / METRICS
        try:
            kept = _lines_until(self.path, start_step)
            self._file = paths.AppendFile(self.path, "".join(kept))
        except OSError as error:
            raise unwritable(self.path, str(error)) from error
        self._loggers = loggers

    def write(self, step: int, metrics: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """One line, and to the loggers what is finite. NaN (a mode without examples) is null."""
        line = {"step": step} | {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self.path, str(error)) from error
        scalars = {k: v for k, v in {**metrics, **rates}.items() if math.isfinite(v)}
        for logger in self._loggers:
            logger.log(step, scalars)

    def sync(self) -> None:
        """Brings what is on this machine to the bucket, where the workdir is in one."""
        for logger in self._loggers:
            getattr(logger, "flush", bool)()
        self._file.sync()

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of steps <= `step`; a line that a kill or a power loss damaged is not one."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_bytes().decode(errors="replace").splitlines(keepends=True):
        with contextlib.suppress(strict_json.JsonError):
            at = strict_json.parse(line, str(path), dict).get("step")
            if line.endswith("\n") and isinstance(at, int) and at <= step:
                kept.append(line)
    return kept


class Progress:
    """Loss, tokens a second and time left: in the row of the display, or where there is no terminal
    in a line on stderr at most every ten seconds."""

    def __init__(self, row: Line, steps: int, start_step: int):
        self.row, self.steps, self.start_step = row, steps, start_step
        self.begin = self._shown = time.perf_counter()
        self.tokens = 0

    def count(self, tokens: int) -> None:
        self.tokens += tokens

    def rates(self, step: int) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        return {
            "tokens_per_second": self.tokens / seconds,
            "steps_per_second": (step - self.start_step) / seconds,
        }

    def show(self, step: int, loss: float) -> None:
        """`loss`: its exponential mean."""
        rates = self.rates(step)
        text = f"loss {loss:.4f}  {rates['tokens_per_second']:,.0f} tokens/s"
        self.row.done, self.row.text = step, text

    def print(self, step: int) -> None:
        """A plain line, where one is due; the last step's also on a terminal."""
        now, last = time.perf_counter(), step == self.steps
        if not last and (live.drawn() or now - self._shown < PRINT_S):
            return
        self._shown = now
        left = (self.steps - step) / max(self.rates(step)["steps_per_second"], 1e-9)
        print(
            f"{self.row.what}: step {step}/{self.steps}  {self.row.text}  {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )
