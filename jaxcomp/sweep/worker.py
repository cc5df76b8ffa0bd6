"""A worker process: receives tasks, runs them one after another, reports by a pipe.

Always a process of its own, so that a crash (out of memory, a fault in a native library) costs one
job and not the sweep.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from jaxcomp.data import phases
from jaxcomp.runtime import paths
from jaxcomp.runtime.allocator import one_arena
from jaxcomp.runtime.errors import chain
from jaxcomp.runtime.preemption import Terminated, on_sigterm
from jaxcomp.sweep.store import DiskFullError
from jaxcomp.sweep.tasks import Say, Task, Work

TERMINATED = 143
BEAT_S = 5.0  # how often a worker says that it is there
STILL_S = 120.0  # a worker that has said nothing for so long stands still
STOP_S = 30.0  # in which a worker that trains may finish its step and save it

# Two processes that each start a thread a core only get in each other's way. One thread, also where
# one worker is alone, makes a job's sums independent of how many workers and tasks there are.
ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ONE_THREAD_XLA = "--xla_cpu_multi_thread_eigen=false"


class Worker:
    """The parent's end of one worker process.

    Args:
        main: what runs there: (its end of the pipe, work, workdir, *more).
    """

    def __init__(
        self,
        work: Work,
        workdir: Path,
        one_thread: bool,
        main: Callable[..., None] | None = None,
        more: tuple[Any, ...] = (),
    ):
        self.task: Task | None = None
        self.shape: tuple = ()  # of the task it ran last
        self.text, self.share, self.since = "", 0.0, time.monotonic()
        self.silent = 0.0  # seconds since its last word
        self.before: float | None = None  # share that the task's first message found done
        context = mp.get_context("spawn")  # fork is not safe once JAX has threads
        self.conn, theirs = context.Pipe()
        args = (theirs, work, workdir, *more)
        self.process = context.Process(target=main or _main, args=args, daemon=True)
        with environment(one_thread):
            self.process.start()
        theirs.close()

    def send(self, task: Task) -> None:
        self.task, self.shape, self.text, self.share = task, task.shape, "starting", 0.0
        self.before, self.silent, self.since = None, 0.0, time.monotonic()
        self.conn.send(task)

    def receive(self) -> tuple[str, Any] | None:
        """The next ("done" | "failed" | "full", content) message; progress is kept, not returned.

        A dead process counts as a failed task; one that stands still is ended, and counts so too.
        """
        while self.task is not None:
            try:
                if not self.conn.poll():
                    return self._ended() if self.silent > STILL_S else None
                word, content = self.conn.recv()
            except (EOFError, ConnectionResetError):
                self.process.join()
                return "failed", f"its process died ({_cause(self.process.exitcode)})"
            self.silent = 0.0
            if word == "alive":
                continue
            if word != "progress":
                return word, content
            (self.text, share), self.since = content, time.monotonic()
            if share is None:  # not known yet: the data are being prepared
                continue
            self.share = share
            if self.before is None:
                self.before = share
        return None

    def _ended(self) -> tuple[str, str]:
        self.process.kill()
        self.process.join()
        return "failed", (
            f"its process stood still for {self.silent:.0f} s (stopped, or held up by the machine) "
            "and was ended; run the same command again, it resumes"
        )

    def release(self, grace_s: float = STOP_S) -> None:
        """No more tasks: the process ends by itself."""
        with contextlib.suppress(OSError):
            self.conn.close()
        self.process.join(grace_s)

    def stop(self, grace_s: float = STOP_S) -> None:
        stop([self], grace_s)


def stop(workers: Sequence[Worker], grace_s: float = STOP_S) -> None:
    """Ends the processes: a run in training saves its step first, if that takes no longer than
    `grace_s`. A second SIGTERM or Ctrl-C in this time ends them at once."""
    try:
        for worker in workers:
            worker.process.terminate()
        end = time.monotonic() + grace_s
        for worker in workers:
            # Not by closing the pipe: the run would fail of it, unsaved, at its next word.
            worker.process.join(max(0.0, end - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            with contextlib.suppress(OSError):
                worker.conn.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}: out of memory?" if name == "SIGKILL" else name
    return f"exit code {code}"


@contextlib.contextmanager
def environment(one_thread: bool) -> Iterator[None]:
    """Environment that a spawned process inherits; XLA reads it when it is imported."""
    before = dict(os.environ)
    # A worker that is ended leaves semaphores to the tracker, which removes them and warns of each.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    warnings = before.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{warnings},{quiet}" if warnings else quiet
    if one_thread:
        os.environ.update(ONE_THREAD)
        os.environ["XLA_FLAGS"] = f"{before.get('XLA_FLAGS', '')} {ONE_THREAD_XLA}".strip()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- in the worker process --------------------------------------------------------------------


def _main(conn: Connection, work: Work, workdir: Path) -> None:
    begin()
    send = speak(conn)

    def say(text: str, share: float | None) -> None:
        send("progress", (text, share))

    try:
        with contextlib.suppress(Exception):  # its task will meet it too, and log it
            work.prepare()
        while True:
            try:
                task = conn.recv()
            except EOFError:
                return
            answer = logged(work, workdir, task, say)
            send(*answer)
            if answer[0] == "full":
                ended_by_signal(1)  # before libraries say at their ends what they could not write
    except Terminated:
        ended_by_signal(TERMINATED)


def begin() -> None:
    """What every worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, on_sigterm)
    one_arena()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def speak(conn: Connection) -> Callable[[str, Any], None]:
    """What sends a word to the parent. From now on it also hears every BEAT_S that this process is
    there, through long compilations and slow steps too: they leave the other threads running."""
    lock = threading.Lock()

    def send(word: str, content: Any) -> None:
        with lock:
            conn.send((word, content))

    def beat() -> None:
        with contextlib.suppress(OSError):  # the parent is gone, or wants no more
            while True:
                send("alive", None)
                time.sleep(BEAT_S)

    threading.Thread(target=beat, daemon=True).start()
    return send


def ended_by_signal(code: int) -> None:
    """Ends the process at once, whatever other threads still do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def logged(
    work: Work, workdir: Path, task: Task, say: Say, name: str = "log.txt"
) -> tuple[str, Any]:
    """("done" | "failed" | "full", content) of one task, whose output goes to its log."""
    answer = None
    try:
        with log_to(workdir / "jobs" / task.id / name):
            try:
                with phases.reported_to(lambda text: say(text, None)):
                    answer = "done", work.run(task, workdir, say)
            except Exception as error:  # a job may fail in any way; the others must go on
                answer = _failure(error)
                with contextlib.suppress(OSError):
                    traceback.print_exc()
    except Exception as error:  # of the log: it cannot be written, or not uploaded to its bucket
        answer = answer or _failure(error)
    return answer


def _failure(error: Exception) -> tuple[str, str]:
    if _is_full(error):
        return "full", str(error)
    first = (str(error).strip() or "no message").splitlines()[0]
    return "failed", f"{type(error).__name__}: {first}"


def _is_full(error: BaseException) -> bool:
    """Was a full disk the cause? Libraries wrap it, sometimes as text only."""
    return any(
        isinstance(one, DiskFullError)
        or (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT))
        or "No space left on device" in str(one)
        for one in chain(error)
    )


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2 to the task's log, native libraries' output included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = paths.AppendFile(path)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        for stream, fd, old in zip((sys.stdout, sys.stderr), (1, 2), saved, strict=True):
            try:
                stream.flush()
            except OSError:  # the disk is full: what is left is for no screen either
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), fd)
                    stream.flush()
            os.dup2(old, fd)
            os.close(old)
        log.close()


def _die_with_parent() -> None:
    """An orphan would go on holding cores and files after a kill -9 of the sweep."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
