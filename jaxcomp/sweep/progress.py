"""How far a sweep is, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxcomp.runtime import live
from jaxcomp.runtime.live import Line, duration
from jaxcomp.sweep.tasks import Task

Out = Callable[[str], None]
FIRST_S, EVERY_S = 1.0, 15.0
UNCHANGED_S = 60.0  # progress that is older than this has its age printed


class Running(NamedTuple):
    """What a task said last: what is happening, the share that is done, and when it said so."""

    task: Task
    text: str = "starting"
    share: float = 0.0
    found: float | None = None  # the share that was done before this command; None: not known yet
    since: float = 0.0

    def after(self, text: str, share: float | None) -> Running:
        """`share` None: not known, such as while the data are prepared."""
        now = self._replace(text=text, since=time.monotonic())
        if share is None:
            return now
        return now._replace(share=share, found=share if self.found is None else self.found)

    def row(self) -> Line:
        row = Line(self.task.id, 1, done=self.share)
        row.text = self.text
        return row

    def __str__(self) -> str:
        said = f"{self.task.id} {self.share:.0%} {self.text}".strip()
        age = time.monotonic() - self.since
        return f"{said} (unchanged for {duration(age)})" if age > UNCHANGED_S else said


class Progress:
    """Counts finished jobs, in the row of the display with a row a worker; where there is no
    terminal, prints a line every EVERY_S seconds."""

    def __init__(self, tasks: Sequence[Task], out: Out, row: Line):
        self.out, self.row = out, row
        self.only_models = all(t.job is None for t in tasks)  # of `jaxcomp pretrain`
        self.jobs, self.ended = sum(map(self._counts, tasks)), 0
        row.total, row.unit = self.jobs, "models" if self.only_models else "jobs"
        self.total = sum(t.cost for t in tasks)
        self.spent = 0.0  # cost of the tasks that have ended
        self.found = 0.0  # the part of it that was there when its task was resumed
        self.began = time.monotonic()
        self._next = self.began + FIRST_S

    def end(self, task: Task, found: float | None = 0.0) -> None:
        """`task` is done, here or elsewhere, or has failed."""
        self.ended += self._counts(task)
        self.spent += task.cost
        self.found += (found or 0.0) * task.cost

    def say(self, what: str, running: Iterable[Running] = ()) -> None:
        self.out(f"[{self.ended}/{self.jobs}] {what}; {self.left(running)}")
        self._next = time.monotonic() + EVERY_S

    def tick(self, running: Sequence[Running], waiting: Sequence[str] = ()) -> None:
        """Show what is running, or print it when due, or which tasks of other processes are waited
        for."""
        self.row.done, self.row.left = self.ended, self.left(running)
        self.row.below = [one.row() for one in running]
        if live.drawn():
            return
        if time.monotonic() >= self._next:
            what = " | ".join(map(str, running))
            if not running and waiting:
                what = f"waiting for {', '.join(waiting[:3])}, run by another process"
            self.say(what, running)

    def _counts(self, task: Task) -> bool:
        return self.only_models or task.job is not None

    def left(self, running: Iterable[Running] = ()) -> str:
        there, found = self.spent, self.found
        for one in running:
            there += one.share * one.task.cost
            found += (one.found or 0.0) * one.task.cost
        elapsed = time.monotonic() - self.began
        if there - found < 0.02 * self.total or elapsed < 1:
            return "time left unknown yet"
        return f"about {duration(elapsed * (self.total - there) / (there - found))} left"
