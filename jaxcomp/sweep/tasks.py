"""The interface between the runner, which knows no models, and the work it dispatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxcomp.config import Config
from jaxcomp.sweep.grid import Job
from jaxcomp.sweep.store import DONE, FAILED, Ledger

# (what is happening, share of the task that is done; None: not known yet)
Say = Callable[[str, float | None], None]


class Task(NamedTuple):
    """Something one worker does in one go; it can be killed at any moment and repeated."""

    id: str  # a file name; job tasks carry their job's id
    what: str  # decoder | base | job
    config: Config  # of a single run
    needs: tuple[str, ...] = ()  # tasks that must be done first
    shape: tuple = ()  # tasks of equal shape reuse compiled steps
    cost: float = 1.0  # relative work, for the order and the ETA
    job: Job | None = None


class Work(Protocol):
    """What a sweep does. Must pickle: workers are spawned processes."""

    def prepare(self) -> None:
        """Load what any task needs, before a worker's first task."""

    def check(self, jobs: Sequence[Job], workdir: Path) -> str:
        """Describe the data; raise where they cannot serve, before any long work."""
        ...

    def tasks(self, jobs: Sequence[Job], workdir: Path) -> list[Task]:
        """The jobs as tasks, after the tasks that make their missing base models."""
        ...

    def ready(self, task: Task, workdir: Path) -> bool:
        """Whether this base or decoder is there already."""
        ...

    def run(self, task: Task, workdir: Path, say: Say) -> dict[str, Any]:
        """Do it, resuming what a killed process left.

        A job returns `metrics` (flat; with `params`, `params_body` and `val_loss`), `intervals`
        (metric -> bounds over passages), `timings` (seconds) and a `note` for the progress line.
        """
        ...


class Results(NamedTuple):
    """What tasks leave behind: a row of the ledger for a job, files of the workdir for the rest."""

    work: Work
    workdir: Path
    ledger: Ledger

    def has(self, task: Task) -> bool:
        """Whether it is done, here or by another process."""
        if task.job is not None:
            return self.ledger.done(task.job)
        return self.work.ready(task, self.workdir)

    def write(self, task: Task, result: dict[str, Any]) -> None:
        if task.job is not None:
            kept = {name: result.get(name, {}) for name in ("metrics", "intervals", "timings")}
            self.ledger.write(task.job, DONE, **kept)

    def fail(self, task: Task, message: str) -> None:
        if task.job is not None:
            self.ledger.write(task.job, FAILED, error=message)
