"""A pool of warm local worker processes; a dead worker is replaced.

Several parents on one machine may share the folder: each task is done under its lock.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from jaxcomp.runtime import locks
from jaxcomp.sweep import worker
from jaxcomp.sweep.progress import Progress, Running
from jaxcomp.sweep.tasks import Results, Task, Work

LOOK_AGAIN_S = 2.0  # how often a task that another process is doing is looked at
STOP_S = 30.0  # in which a worker that trains may finish its step and save it


class Slot:
    """A pool of one process. One pool of all would be broken by the death of one, and would choose
    itself which of them does what."""

    def __init__(self, work: Work, workdir: Path, one_thread: bool):
        context = mp.get_context("spawn")  # fork is not safe once JAX has threads
        self.heard, theirs = context.Pipe(duplex=False)
        before = set(mp.active_children())
        with worker.environment(one_thread):  # of the resource tracker too, which the pool starts
            self.pool = ProcessPoolExecutor(1, context, worker.begin, (theirs, work, workdir))
            self.pool.submit(worker.prepare)
        (self.process,) = set(mp.active_children()) - before
        theirs.close()
        self.running: Running | None = None
        self.future: Future[worker.Answer]
        self.shape: tuple = ()  # of the task it did last, whose programs it has compiled

    def send(self, task: Task) -> None:
        self.running, self.shape = Running(task, since=time.monotonic()), task.shape
        try:
            self.future = self.pool.submit(worker.run, task)
        except BrokenProcessPool as error:  # it died while it had no task
            self.future = Future()
            self.future.set_exception(error)

    def listen(self) -> None:
        """Take the progress that the task has told since the last call."""
        with contextlib.suppress(EOFError, OSError):
            while self.running is not None and self.heard.poll():
                self.running = self.running.after(*self.heard.recv())

    def answer(self) -> worker.Answer:
        """What the task has come to. A dead process counts as a failed task."""
        try:
            return self.future.result()
        except BrokenProcessPool:
            self.pool.shutdown()  # waits for the process
        code = self.process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        cause += ": out of memory?" if cause == "SIGKILL" else ""
        return "failed", f"its process died ({cause})"


def stop(slots: Sequence[Slot], grace_s: float) -> None:
    """End the processes: a run in training saves its step first, if that takes no longer than
    `grace_s`. A second SIGTERM or Ctrl-C in this time ends them at once."""
    try:
        for slot in slots:
            slot.process.terminate()
        end = time.monotonic() + grace_s
        for slot in slots:
            slot.process.join(max(0.0, end - time.monotonic()))
    finally:
        for slot in slots:
            slot.process.kill()
            slot.pool.shutdown()
            slot.heard.close()


class Crew:
    """The workers of a sweep: `count` at most, one core each where `one_thread`."""

    def __init__(self, work: Work, workdir: Path, count: int, one_thread: bool):
        self.work, self.workdir, self.count, self.one_thread = work, workdir, count, one_thread
        self.slots: list[Slot] = []

    def hire(self) -> Slot:
        self.slots.append(Slot(self.work, self.workdir, self.one_thread))
        return self.slots[-1]

    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.running]

    def running(self) -> list[Running]:
        return [slot.running for slot in self.slots if slot.running]

    def idle(self) -> Slot | None:
        """A worker without a task; None where all `count` are busy."""
        self.slots = [s for s in self.slots if s.running or s.process.is_alive()]
        free = [s for s in self.slots if not s.running]
        if free or len(self.slots) >= self.count:
            return free[0] if free else None
        return self.hire()


@contextlib.contextmanager
def crew(work: Work, workdir: Path, count: int, one_thread: bool) -> Iterator[Crew]:
    """`count` workers, started at once: they load what tasks need while the data are looked at."""
    hands = Crew(work, workdir, count, one_thread)
    try:
        for _ in range(count):
            hands.hire()
        yield hands
    finally:
        stop(hands.slots, STOP_S if hands.busy() else 0.0)


class Dispatch:
    """The tasks that are left, and who does them."""

    def __init__(self, tasks: Sequence[Task], crew: Crew, results: Results, progress: Progress):
        self.pending = {t.id: t for t in tasks}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.crew, self.results, self.progress = crew, results, progress
        self.locks: dict[str, locks.BaseFileLock] = {}
        self.elsewhere: dict[str, float] = {}  # tasks of other processes -> when to look again

    def loop(self) -> dict[str, str]:
        """Do every task in an order that their needs allow; returns the failed ones, why.

        Raises OSError where the disk is full; what is finished is kept.
        """
        while self.pending or self.crew.busy():
            self._assign()
            busy = self.crew.busy()
            waiting = [name for name in self.elsewhere if name in self.pending]
            self.progress.tick(self.crew.running(), waiting)
            ended = wait_for([s.future for s in busy], 0.5, FIRST_COMPLETED).done
            for slot in busy:
                slot.listen()
                if slot.future in ended:
                    self._finish(slot)
            if not busy:
                time.sleep(0.2)
        return self.failed

    def _assign(self) -> None:
        for task in list(self.pending.values()):
            need = next((n for n in task.needs if n in self.failed), None)
            if need is not None:
                self._fail(task, f"its base model {need} failed: {self.failed[need]}")
        while self.pending and (slot := self.crew.idle()):
            task = self._pick(slot.shape)
            if task is None:
                return
            slot.send(task)

    def _pick(self, last_shape: tuple) -> Task | None:
        """Lock what should start: the shape of before, else a fresh one, else the largest."""
        now, busy = time.monotonic(), {s.shape for s in self.crew.busy()}
        ready = [
            t
            for t in self.pending.values()
            if self.done.issuperset(t.needs) and self.elsewhere.get(t.id, 0) <= now
        ]
        ready.sort(
            key=lambda t: (t.job is not None, t.shape != last_shape, t.shape in busy, -t.cost)
        )
        for task in ready:
            lock = locks.take(self.crew.workdir / "locks" / task.id)
            if lock is None:
                self.elsewhere[task.id] = now + LOOK_AGAIN_S
                continue
            self.locks[task.id] = lock
            del self.pending[task.id]
            # Another process may have finished it since the list was made.
            if not self.results.has(task):
                return task
            self._end(task)
        return None

    def _finish(self, slot: Slot) -> None:
        assert slot.running is not None
        (task, found), slot.running = (slot.running.task, slot.running.found), None
        word, content = slot.answer()
        if word == "full":
            slot.process.kill()  # before libraries say at their ends what they could not write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.crew.workdir))
        if word == "failed" and not (task.job is None and self.results.has(task)):
            log = self.crew.workdir / "jobs" / task.id / "log.txt"
            self._fail(task, f"{content} [{log}]", found)
            return
        self.results.write(task, content)
        self._end(task, found)
        note = content.get("note", "") if isinstance(content, dict) else ""
        self.progress.say(f"{task.id} done{': ' + note if note else ''}", self.crew.running())

    def _fail(self, task: Task, message: str, found: float | None = 0.0) -> None:
        self.pending.pop(task.id, None)
        self.failed[task.id] = message
        self.results.fail(task, message)
        self._end(task, found)
        self.progress.out(f"FAILED {task.id}: {message}")

    def _end(self, task: Task, found: float | None = 0.0) -> None:
        if task.id not in self.failed:
            self.done.add(task.id)
        if task.id in self.locks:
            self.locks.pop(task.id).release()
        self.progress.end(task, found)
