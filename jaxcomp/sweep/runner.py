"""Runs the jobs of a sweep on local worker processes, keeps the ledger, survives any kill.

One parent claims a shard, hands tasks to workers, writes the ledger and prints progress. Several
parents on several machines may share the folder: each task is claimed before it is run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from jaxcomp.config import Config, ConfigError
from jaxcomp.sweep import grid
from jaxcomp.sweep.claims import Claims
from jaxcomp.sweep.dispatch import Crew, Dispatch, Out
from jaxcomp.sweep.rows import finished
from jaxcomp.sweep.store import Ledger
from jaxcomp.sweep.tasks import Task, Work
from jaxcomp.sweep.worker import Worker, stop


class Summary(NamedTuple):
    """Jobs of this shard: finished now, finished before, failed (id, message)."""

    ran: int
    before: int
    failed: tuple[tuple[str, str], ...]


def run(
    cfg: Config,
    workdir: Path,
    *,
    work: Work,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    reuse: Sequence[Path] = (),
    out: Out = print,
    team: Worker | None = None,
) -> Summary:
    """Run what is missing of shard i of n. `workers` 0: one a core on CPU, else one; `team` is the
    one worker that there is on several hosts (hosts.py).

    Raises ConfigError for a workdir of another config, ClaimedError where another process runs this
    shard, DiskFullError; what is finished is kept in every case.
    """
    jobs = grid.expand(cfg)
    mine = jobs[shard[0] :: shard[1]]
    ledger = Ledger(workdir)
    # All that can be refused is, before anything is written.
    ledger.check(cfg)
    reused = finished(jobs, reuse)
    there = {job.id for job, _ in reused}
    todo = [job for job in mine if job.id not in there and not ledger.done(job)]
    with crew(work, workdir, workers, len(todo), team) as hands:
        said = work.check(todo, workdir) if todo else ""
        with Claims(workdir / "claims") as claims:
            claims.acquire(f"shard-{shard[0]}-of-{shard[1]}")
            ledger.open(cfg)
            if reuse:
                names = ", ".join(map(str, reuse))
                out(f"reused {ledger.reuse(reused)} finished jobs of {names}")
            todo = [job for job in mine if not ledger.done(job)]
            before = len(mine) - len(todo)
            if not todo:
                return Summary(0, before, ())
            out(said)
            tasks = work.tasks(todo, workdir)
            made = [t.id for t in tasks if t.job is None]
            if made:
                out(f"no asset matches, so these are pretrained first: {', '.join(made)}")
            out(f"{len(mine)} jobs, {before} done before")
            failures = run_tasks(tasks, work, workdir, claims, ledger, hands, out)
    failed = tuple((t, m) for t, m in failures.items() if t in {j.id for j in todo})
    return Summary(len(todo) - len(failed), before, failed)


def run_tasks(
    tasks: Sequence[Task],
    work: Work,
    workdir: Path,
    claims: Claims,
    ledger: Ledger,
    hands: Crew,
    out: Out = print,
) -> dict[str, str]:
    """Run tasks in the order their needs allow; returns the failed ones with their messages."""
    if not tasks:
        return {}
    count = min(hands.count, len(tasks))
    where = "several hosts" if hands.team else f"{count} worker{'s' if count > 1 else ''}"
    out(f"{len(tasks)} tasks on {where}")
    dispatch = Dispatch(tasks, work, workdir, claims, ledger, hands._replace(count=count), out)
    try:
        dispatch.loop()
    finally:
        dispatch.close()
    return dispatch.failed


@contextlib.contextmanager
def crew(
    work: Work, workdir: Path, workers: int, tasks: int, team: Worker | None
) -> Iterator[Crew]:
    """The workers for so many tasks, started: they load what tasks need while the data are looked
    at. `workers` and `team` as of `run`."""
    if team is not None:
        yield Crew((team,), 1, False, team)  # JAX is asked for its devices by all hosts together
        return
    on_cpu = not tasks or _on_cpu()
    count = workers or (cores() if on_cpu else 1)
    started = tuple(Worker(work, workdir, on_cpu) for _ in range(min(count, tasks)))
    try:
        yield Crew(started, count, on_cpu)
    finally:
        stop(started, 0.0)  # those that were not needed


def parse_shard(text: str) -> tuple[int, int]:
    """`"1/4"` -> (1, 4). Raises ConfigError unless 0 <= i < n."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise ConfigError(f"--shard={text}: expected i/n with 0 <= i < n, as in 0/4")
    return int(i), int(n)


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_cpu() -> bool:
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked.split(",")[0] == "cpu":
        return True
    plugins = [e.name for e in metadata.entry_points(group="jax_plugins")]
    found = plugins or util.find_spec("libtpu") or util.find_spec("jax_plugins")
    if not (asked or found):
        return True
    # In a process of its own: the parent must not take the accelerator that a worker needs.
    code = "from jaxcomp.runtime.sharding import platform; print(platform())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error = done.stderr.strip().rpartition("\n")[2].partition("ConfigError: ")[2]
    if done.returncode and error:
        raise ConfigError(error)
    return done.returncode == 0 and done.stdout.split()[-1:] == ["cpu"]
