"""A sweep on several hosts that are one slice: all of them run the same task at the same time.

Every host starts the same command. Its parent process takes no accelerator and starts one worker;
the workers are the processes of the cluster. Process 0's parent keeps claims, ledger and report as
on one machine and hands its worker the tasks, which that one tells the others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.runtime import distributed
from jaxcomp.runtime.channel import Lost
from jaxcomp.runtime.cluster import Cluster, find_cluster
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.preemption import Terminated
from jaxcomp.sweep import grid
from jaxcomp.sweep.tasks import Task, Work
from jaxcomp.sweep.worker import TERMINATED, Worker, begin, ended_by_signal, logged, speak

_FAILED_ALONE_S = 60.0  # how long a process whose task failed waits for the others to fail too


class Together(NamedTuple):
    """What a worker must know to join the others'."""

    cluster: Cluster
    argv: tuple[str, ...]
    config: Config

    def start(self) -> None:
        digest = config_hash(to_dict(self.config))
        distributed.start(self.argv, config=digest, cluster=self.cluster)


class Team(NamedTuple):
    """This host's worker in a sweep of several hosts; None: there is one host."""

    worker: Worker | None
    follows: bool = False

    def wait(self) -> int:
        """Of a host that follows: the exit code, when process 0 says that all is done.

        Raises Terminated where the sweep was told to stop, here or on another host.
        """
        assert self.worker is not None
        self.worker.process.join()
        code = self.worker.process.exitcode or 0
        if code == TERMINATED:
            raise Terminated
        return code if code >= 0 else distributed.LOST


@contextlib.contextmanager
def joined(
    argv: Sequence[str], cfg: Config, work: Work, workdir: Path, workers: int | None
) -> Iterator[Team]:
    """The team of this host. Leaving the context ends its worker: on process 0 the others' too.

    Raises ConfigError where `workers` (as typed) asks for several on each of several hosts.
    """
    cluster = find_cluster()
    if cluster is None:
        yield Team(None)
        return
    if workers is not None and workers > 1:
        raise ConfigError(
            f"--workers={workers}, but the {cluster.processes} processes of a cluster run one job "
            "at a time, all together; leave --workers away, or start a sweep of its own, with "
            "--shard=i/n, on each machine"
        )
    follows = cluster.process > 0
    on_cpu = os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu"
    main = _follow if follows else _lead
    worker = Worker(work, workdir, on_cpu, main, (Together(cluster, tuple(argv), cfg),))
    try:
        yield Team(worker, follows)
        worker.release()
    finally:
        worker.stop()


# --- in the worker processes ---------------------------------------------------------------------


def _lead(conn: Connection, work: Work, workdir: Path, together: Together) -> None:
    """Process 0: tasks come from the parent's pipe."""
    code = distributed.LOST
    try:
        code = _serve(conn, work, workdir, together)
    finally:  # never by JAX's exits, which wait for the others
        ended_by_signal(code)


def _serve(conn: Connection, work: Work, workdir: Path, together: Together) -> int:
    begin()
    send = speak(conn)

    def say(text: str, share: float | None) -> None:
        send("progress", (text, share))

    try:
        together.start()
        while True:
            try:
                task = conn.recv()
            except EOFError:
                task = None
            distributed.gather("task", None if task is None else _described(task))
            if task is None:
                break
            send(*_agreed(task, logged(work, workdir, task, say)))
        distributed.finish()
    except KeyboardInterrupt as stop:
        _tell(send, "stopped", "")
        return _stopped(stop)
    except Exception as error:
        _tell(send, "lost", distributed.lost_because_of(error) or str(error))
        distributed.leave(distributed.LOST, str(error))
        return distributed.LOST
    return 0


def _follow(conn: Connection, work: Work, workdir: Path, together: Together) -> None:
    """Any other process: tasks come from process 0."""
    code = distributed.LOST
    try:
        code = _obey(work, workdir, together)
    finally:
        ended_by_signal(code)


def _obey(work: Work, workdir: Path, together: Together) -> int:
    begin()
    try:
        together.start()
        known = {job.id: job for job in grid.expand(together.config)}
        while (found := distributed.gather("task")[0]) is not None:
            config = from_dict(found["config"], where="process 0")
            job = known.get(found["id"]) if found["what"] == "job" else None
            task = Task(found["id"], found["what"], config, job=job)
            name = f"log-{together.cluster.process}.txt"
            _agreed(task, logged(work, workdir, task, lambda text, share: None, name))
        distributed.finish()
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except Exception as error:
        distributed.say_lost(distributed.lost_because_of(error) or str(error))
        distributed.leave(distributed.LOST, str(error))
        return distributed.LOST
    return 0


def _described(task: Task) -> dict[str, Any]:
    return {"id": task.id, "what": task.what, "config": to_dict(task.config)}


def _agreed(task: Task, answer: tuple[str, Any]) -> tuple[str, Any]:
    """The answer, if the task ended alike everywhere. Raises Lost where it did not."""
    word, content = answer
    mine = [word, content if word != "done" else None]
    try:
        every = distributed.gather("task ended", mine, None if word == "done" else _FAILED_ALONE_S)
    except Lost as lost:
        channel = distributed.channel()
        if word == "done" or channel is None or channel.lost is not None:
            raise
        # The others still run the task, and wait for this process.
        raise Lost(f"{task.id} failed on process {channel.process} alone: {content}") from lost
    if len({word for word, _ in every}) > 1:
        at, (_, why) = next((i, a) for i, a in enumerate(every) if a[0] != "done")
        raise Lost(f"{task.id} failed on process {at} alone: {why}")
    return answer


def _stopped(stop: KeyboardInterrupt) -> int:
    if isinstance(stop, Terminated) and stop.together:
        distributed.finish()
    distributed.leave(TERMINATED, "it was told to stop")
    return TERMINATED


def _tell(send: Callable[[str, Any], None], word: str, content: str) -> None:
    with contextlib.suppress(OSError):
        send(word, content)
