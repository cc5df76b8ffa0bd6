"""Hands the tasks of one shard to worker processes, writes what they found, says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from jaxcomp.runtime.channel import Lost
from jaxcomp.runtime.distributed import AGAIN
from jaxcomp.runtime.preemption import Terminated
from jaxcomp.sweep.claims import HEARTBEAT_S, ClaimedError, Claims
from jaxcomp.sweep.store import DONE, FAILED, Ledger, disk_full
from jaxcomp.sweep.tasks import Task, Work
from jaxcomp.sweep.worker import STOP_S, Worker, stop

Out = Callable[[str], None]
FOREIGN_POLL_S = 2.0  # how often a task claimed by another machine is looked at again
PROGRESS_S = 15.0
UNCHANGED_S = 60.0  # a worker whose progress is older than this has its age printed


class Crew(NamedTuple):
    """The worker processes of a sweep."""

    started: tuple[Worker, ...]
    count: int  # how many there may be
    one_thread: bool  # each on one core
    team: Worker | None = None  # the one that there is on several hosts


class Dispatch:
    """The tasks that are left, and who runs them."""

    def __init__(
        self,
        tasks: Sequence[Task],
        work: Work,
        workdir: Path,
        claims: Claims,
        ledger: Ledger,
        crew: Crew,
        out: Out,
    ):
        self.pending = {t.id: t for t in tasks}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.work, self.workdir = work, workdir
        self.ledger, self.claims, self.out = ledger, claims, out
        self.crew, self.workers, self.team = crew, list(crew.started), crew.team
        self.costs = {t.id: t.cost for t in tasks}
        self.jobs = sum(t.job is not None for t in tasks)
        self.spent, self.began, self.printed = 0.0, time.monotonic(), time.monotonic()
        self.found = 0.0  # part of `spent` that was there when its task was resumed
        self.foreign: dict[str, float] = {}  # claimed elsewhere -> when to look again
        self.grace_s = STOP_S

    def loop(self) -> None:
        shard, last = set(self.claims.held), time.time()
        while self.pending or any(w.task for w in self.workers):
            self._look_at_claims(shard, time.time() - last)
            last = time.time()
            self._assign()
            busy = [w for w in self.workers if w.task]
            began = time.monotonic()
            if busy:
                wait([w.conn for w in busy], timeout=1.0)
            else:
                time.sleep(0.2)
            for worker in busy:
                # At most a little at once: this process may have been stopped itself.
                worker.silent += min(time.monotonic() - began, 2.0)
                message = worker.receive()
                if message is not None:
                    self._finish(worker, *message)
            if time.monotonic() - self.printed > PROGRESS_S:
                self._progress()

    def close(self) -> None:
        if self.team is None or self.team.task is not None:
            stop(self.workers, self.grace_s)

    def _look_at_claims(self, shard: set[str], seconds: float) -> None:
        """Leaves what others took over while this process, in the `seconds` since the last look,
        stood still. Raises ClaimedError for the shard itself."""
        if seconds > 2 * HEARTBEAT_S:
            for name in list(self.claims.held):
                self.claims.holds(name)
        for worker in [w for w in self.workers if w.task and w.task.id not in self.claims.held]:
            self._leave(worker)
        for name in shard - self.claims.held:
            self.grace_s = 0.0  # what is not ours is not to be saved either
            raise ClaimedError(
                f"{self._taken_over(name)}; run the same command again, it finds what is done"
            )

    def _leave(self, worker: Worker) -> None:
        task = worker.task
        assert task is not None
        if self.team is not None:
            self.grace_s = 0.0
            raise ClaimedError(f"{self._taken_over(task.id)}; {AGAIN}")
        self.out(f"{self._taken_over(task.id)}, so it is left to that one")
        worker.stop(0.0)
        self.workers.remove(worker)
        self.pending[task.id] = task
        self.foreign[task.id] = time.monotonic() + FOREIGN_POLL_S

    def _taken_over(self, name: str) -> str:
        owner = self.claims.owner(name) or "another process"
        return f"{name} was taken over by {owner} while this process stood still"

    def _assign(self) -> None:
        for task in [t for t in self.pending.values() if set(t.needs) & self.failed.keys()]:
            need = next(n for n in task.needs if n in self.failed)
            self._fail(task, f"its base model {need} failed: {self.failed[need]}")
        while self.pending:
            self.workers = [w for w in self.workers if w.task or w.process.is_alive()]
            idle = [w for w in self.workers if not w.task]
            if not idle and len(self.workers) >= self.crew.count:
                return
            shape = idle[0].shape if idle else ()
            task = self._pick(shape)
            if task is None:
                return
            if not idle and self.team is not None:
                raise Lost(f"this host's worker ended; {AGAIN}")
            if not idle:
                idle = [Worker(self.work, self.workdir, self.crew.one_thread)]
                self.workers += idle
            idle[0].send(task)

    def _pick(self, last_shape: tuple) -> Task | None:
        """Claim what should start: the shape of before, else a fresh one, else the largest."""
        now = time.monotonic()
        busy = {w.task.shape for w in self.workers if w.task}
        ready = [
            t
            for t in self.pending.values()
            if self.done.issuperset(t.needs) and self.foreign.get(t.id, 0) <= now
        ]
        ready.sort(
            key=lambda t: (t.job is not None, t.shape != last_shape, t.shape in busy, -t.cost)
        )
        for task in ready:
            if not self.claims.try_acquire(task.id):
                self.foreign[task.id] = now + FOREIGN_POLL_S
                continue
            del self.pending[task.id]
            # Another process may have finished it since the list was made.
            there = self.ledger.done(task.job) if task.job else self.work.ready(task, self.workdir)
            if not there:
                return task
            self._close(task)
        return None

    def _close(self, task: Task) -> None:
        self.claims.release(task.id)
        self.done.add(task.id)
        self.spent += task.cost

    def _fail(self, task: Task, message: str) -> None:
        self.pending.pop(task.id, None)
        self.failed[task.id] = message
        self.spent += task.cost
        if task.job:
            self.ledger.write(task.job, FAILED, error=message)
        self.out(f"FAILED {task.id}: {message}")

    def _finish(self, worker: Worker, word: str, content) -> None:
        task = worker.task
        assert task is not None
        if word in ("done", "failed") and not self.claims.holds(task.id):
            self._leave(worker)
            return
        worker.task = None
        self.found += (worker.before or 0.0) * task.cost
        if not worker.process.is_alive():
            self.workers.remove(worker)
            worker.stop()
        if word == "full":
            raise disk_full(self.workdir)
        if word == "stopped":
            raise Terminated
        if word == "lost" or (self.team is not None and not worker.process.is_alive()):
            raise Lost(f"{content}; {AGAIN}")
        if word == "failed":
            self._fail(task, f"{content} [{self.workdir}/jobs/{task.id}/log.txt]")
            self.claims.release(task.id)
            return
        if task.job:
            kept = {k: content.get(k, {}) for k in ("metrics", "intervals", "timings")}
            self.ledger.write(task.job, DONE, **kept)
        self._close(task)
        note = content.get("note", "") if isinstance(content, dict) else ""
        self.out(f"{self._counts()} {task.id} done{': ' + note if note else ''}; {self._eta()}")
        self.printed = time.monotonic()

    def _counts(self) -> str:
        left = sum(t.job is not None for t in self.pending.values())
        left += sum(w.task is not None and w.task.job is not None for w in self.workers)
        return f"[{self.jobs - left}/{self.jobs}]"

    def _eta(self) -> str:
        running = [w for w in self.workers if w.task]
        there = self.spent + sum(w.share * w.task.cost for w in running if w.task)
        found = self.found + sum((w.before or 0.0) * w.task.cost for w in running if w.task)
        total, here = sum(self.costs.values()), there - found
        elapsed = time.monotonic() - self.began
        if not total or here < 0.02 * total or elapsed < 1:
            return "time left unknown yet"
        return f"about {duration(elapsed * (total - there) / here)} left"

    def _progress(self) -> None:
        self.printed = time.monotonic()
        now = [_said(w) for w in self.workers if w.task]
        waiting = [i for i in self.foreign if i in self.pending]
        if not now and waiting:
            now = [f"waiting for {', '.join(waiting[:3])}, run by another process"]
        self.out(f"{self._counts()} {' | '.join(now)}; {self._eta()}")


def _said(worker: Worker) -> str:
    assert worker.task is not None
    said = f"{worker.task.id} {worker.share:.0%} {worker.text}".strip()
    age = time.monotonic() - worker.since
    return f"{said} (unchanged for {duration(age)})" if age > UNCHANGED_S else said


def duration(seconds: float) -> str:
    """`75` -> `1m15s`, `4000` -> `1h07m`."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
