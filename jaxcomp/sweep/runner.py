"""Run the jobs of a sweep and store their rows; the same command resumes.

On one machine the jobs are divided over worker processes (pool.py). Several processes that are one
run (docs/how-to/run-several-processes.md) do every job together, one after another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from jaxcomp.config import Config, ConfigError
from jaxcomp.runtime import distributed, live, preemption
from jaxcomp.sweep import grid
from jaxcomp.sweep.pool import Crew, Dispatch, crew
from jaxcomp.sweep.progress import Out, Progress, Running
from jaxcomp.sweep.rows import finished
from jaxcomp.sweep.store import FAILED, Ledger
from jaxcomp.sweep.tasks import Results, Task, Work
from jaxcomp.sweep.worker import brief


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
) -> Summary:
    """Run what is missing of shard i of n. `workers` 0: one a core on CPU, else one.

    Raises ConfigError for a workdir of another config, OSError for a full disk; on several
    processes Ended for the first job that fails. What is finished is kept in every case.
    """
    jobs = grid.expand(cfg)
    mine = jobs[shard[0] :: shard[1]]
    ledger = Ledger(workdir)
    # All that can be refused is, before anything is written.
    if cfg.train.optim.steps == 0:
        raise ConfigError(
            "train.optim.steps = 0: the sweep would measure compressors that were not trained; "
            "expected at least 1 step"
        )
    ledger.check(cfg)
    reused = finished(jobs, reuse)
    there = {job.id for job, _ in reused}
    todo = [job for job in mine if job.id not in there and not ledger.done(job)]

    def opened() -> list[str]:
        """Binds the workdir to `cfg` and takes over rows; returns the jobs that are left."""
        ledger.open(cfg)
        if reuse:
            out(f"reused {ledger.reuse(reused)} finished jobs of {', '.join(map(str, reuse))}")
        return [job.id for job in mine if not ledger.done(job)]

    with hired(work, workdir, workers, len(todo)) as hands:
        said = work.check(todo, workdir) if todo else ""
        left = distributed.by_lead(opened)
        todo = [job for job in mine if job.id in left]
        before = len(mine) - len(todo)
        if not todo:
            return Summary(0, before, ())
        out(said)
        tasks = work.tasks(todo, workdir)
        made = [t.id for t in tasks if t.job is None]
        if made:
            out(f"no asset matches, so these are pretrained first: {', '.join(made)}")
        out(f"{len(mine)} jobs, {before} done before")
        failures = run_tasks(tasks, Results(work, workdir, ledger), hands, out)
    failed = tuple((t, m) for t, m in failures.items() if t in left)
    return Summary(len(todo) - len(failed), before, failed)


def hired(work: Work, workdir: Path, workers: int, tasks: int):
    """The workers for so many tasks, started; none on several processes."""
    if distributed.count() > 1 or not tasks:
        return crew(work, workdir, 0, False)
    on_cpu = _on_cpu()
    return crew(work, workdir, min(workers or (cores() if on_cpu else 1), tasks), on_cpu)


def run_tasks(
    tasks: Sequence[Task], results: Results, hands: Crew, out: Out = print
) -> dict[str, str]:
    """Run tasks in the order their needs allow; returns the failed ones with their messages."""
    with live.line(results.workdir.name) as row:
        progress = Progress(tasks, out, row)
        if distributed.count() > 1:
            out(f"{len(tasks)} tasks, each on {distributed.count()} processes")
            _together(tasks, results, progress)
            return {}
        hands.count = min(hands.count, len(tasks))
        out(f"{len(tasks)} tasks on {hands.count} worker{'s' if hands.count > 1 else ''}")
        return Dispatch(tasks, hands, results, progress).loop()


def _together(tasks: Sequence[Task], results: Results, progress: Progress) -> None:
    """Every process walks the same list. What failed before comes last, so that a program that is
    started again gets beyond it.

    Raises Ended for the first task that fails: nobody knows what state the others are in.
    """

    def failed_before(task: Task) -> bool:
        row = results.ledger.row(task.job) if task.job else None
        return row is not None and row["status"] == FAILED

    distributed.barrier("tasks")  # all have looked which base models are missing
    failed = distributed.by_lead(lambda: [t.id for t in tasks if failed_before(t)])
    for task in sorted(tasks, key=lambda t: t.id in failed):
        if distributed.by_lead(lambda task=task: results.has(task)):
            progress.end(task)
            continue
        preemption.check()
        running = Running(task)

        def say(text: str, share: float | None) -> None:
            nonlocal running
            running = running.after(text, share)
            progress.tick([running])

        try:
            result = results.work.run(task, results.workdir, say)
        except Exception as error:
            if distributed.is_lead():
                results.fail(task, brief(error))
            raise distributed.Ended(
                f"{task.id} failed: {brief(error)}; {distributed.AGAIN}"
            ) from error
        distributed.barrier(task.id)  # a row says that every process came to the end
        distributed.by_lead(lambda task=task, result=result: results.write(task, result))
        progress.end(task, running.found)
        progress.say(f"{task.id} done")


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
    plugins = metadata.entry_points(group="jax_plugins")
    if not (asked or plugins or util.find_spec("libtpu") or util.find_spec("jax_plugins")):
        return True
    # In a process of its own: the parent must not take the accelerator that a worker needs.
    code = "from jaxcomp.runtime.sharding import platform; print(platform())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error = done.stderr.strip().rpartition("\n")[2].partition("ConfigError: ")[2]
    if done.returncode and error:
        raise ConfigError(error)
    return done.returncode == 0 and done.stdout.split()[-1:] == ["cpu"]
