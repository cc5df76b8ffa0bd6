"""The worker process of a sweep: one task after another, each with its log.

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
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from jaxcomp.runtime import live, paths
from jaxcomp.runtime.allocator import one_arena
from jaxcomp.runtime.errors import chain
from jaxcomp.runtime.preemption import Terminated, on_sigterm
from jaxcomp.sweep.tasks import Say, Task, Work

TERMINATED = 143  # exit code
Answer = tuple[str, Any]  # ("done", result) | ("failed", message) | ("full", message)

# Two processes that each start a thread a core only get in each other's way. One thread, also where
# one worker is alone, makes a job's sums independent of how many workers and tasks there are.
ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ONE_THREAD_XLA = "--xla_cpu_multi_thread_eigen=false"

_parent: Connection  # of this process, set by `begin`: takes (text, share) of a task's progress
_work: Work
_workdir: Path


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


def begin(parent: Connection, work: Work, workdir: Path) -> None:
    """The first call in every worker process."""
    global _parent, _work, _workdir
    _parent, _work, _workdir = parent, work, workdir
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    one_arena()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """An orphan would go on holding cores and files after a kill -9 of the sweep."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def prepare() -> None:
    """Load what every task needs, while the parent looks at the data."""
    with contextlib.suppress(Exception):  # a task will meet it too, and log it
        _parent.send(("loading libraries", None))
        _work.prepare()


def run(task: Task) -> Answer:
    """Do one task. SIGTERM ends the process; a run in training saves its step first."""
    try:
        signal.signal(signal.SIGTERM, _told)
        answer = logged(_work, _workdir, task, lambda text, share: _parent.send((text, share)))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return answer
    except Terminated:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(TERMINATED)  # at once, whatever other threads still do


def _told(signum: int, frame: FrameType | None) -> None:
    """An engine may have told every process, and then the parent tells this one a second time."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    on_sigterm(signum, frame)


def logged(work: Work, workdir: Path, task: Task, say: Say) -> Answer:
    """Do one task, whose output goes to its log."""
    answer = None
    try:
        with log_to(workdir / "jobs" / task.id / "log.txt"):
            try:
                with live.reported_to(lambda text: say(text, None)):
                    answer = "done", work.run(task, workdir, say)
            except Exception as error:  # a job may fail in any way; the others must go on
                answer = _failure(error)
                with contextlib.suppress(OSError):
                    traceback.print_exc()
    except Exception as error:  # of the log: it cannot be written, or not uploaded to its bucket
        answer = answer or _failure(error)
    return answer


def _failure(error: Exception) -> Answer:
    return "full" if _is_full(error) else "failed", brief(error)


def brief(error: Exception) -> str:
    """An error in one line."""
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"


def _is_full(error: BaseException) -> bool:
    """Was a full disk the cause? Libraries wrap it, sometimes as text only."""
    return any(
        (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT))
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
