"""Stand-in work for the runner's tests: milliseconds a job, light to import, without JAX."""

import os
import signal
import threading
import time
from pathlib import Path

from jaxcomp.config import Config, ModelConfig, SweepConfig
from jaxcomp.runtime import live
from jaxcomp.sweep import grid, runner
from jaxcomp.sweep.tasks import Task


def config(**sweep) -> Config:
    sizes = {s: ModelConfig(hidden_size=h) for s, h in (("s", 16), ("m", 32))}
    fields = {"ratios": (4, 16), "base_seeds": (0, 1), "workers": 2} | sweep
    return Config(families={"toy": sizes}, sweep=SweepConfig(**fields))


class StubWork:
    """Metrics are a pure function of the job. Files named in the workdir make trouble."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def prepare(self):
        pass

    def check(self, jobs, workdir):
        return "data: a stub's"

    def tasks(self, jobs, workdir):
        names = sorted({job.base for job in jobs})
        made = [Task(n, "base", jobs[0].config, cost=0.1) for n in names]
        made = [t for t in made if not self.ready(t, workdir)]
        there = {t.id for t in made}
        needs = [tuple({j.base} & there) for j in jobs]
        return made + [
            Task(j.id, "job", j.config, n, tuple(j.setup), 1.0, j)
            for j, n in zip(jobs, needs, strict=True)
        ]

    def ready(self, task, workdir):
        return (workdir / f"made-{task.id}").exists()

    def run(self, task, workdir, say):
        trouble = workdir / f"trouble-{task.id}"
        kind = trouble.read_text() if trouble.exists() else ""
        print("log of", task.id)
        if kind == "fail":
            raise ValueError("planted failure\nwith a second line")
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "full":  # so are the job's log, and what a library's thread writes to
            with open("/dev/full", "w") as full:
                os.dup2(full.fileno(), 1)
                os.dup2(full.fileno(), 2)
            threading.Thread(target=fails_later).start()
            raise RuntimeError("write failed") from OSError(28, "No space left on device")
        if kind == "prepare":
            with live.phase("reading a.jsonl", 10, "lines") as progress:
                progress.done = 3
                time.sleep(3)
        with open(workdir / "ran.txt", "a") as f:
            f.write(task.id + "\n")
        say("half", 0.5)
        time.sleep(self.seconds)
        if task.what == "base":
            (workdir / f"made-{task.id}").write_text("")
            return {}
        cfg = task.config
        value = cfg.memory.ratio / (grid.model(cfg).hidden_size + cfg.base_seed)
        metrics = {
            "params": grid.model(cfg).hidden_size * 1000,
            "params_body": 10,
            "val_loss": value * abs(cfg.train.optim.lr - 1.5e-3),
            "ordinary/loss": value,
            "counterfactual/nonfavourite/all/preserved": 1 - value / 3,
        }
        return {"metrics": metrics, "timings": {"train_s": time.time()}, "note": "fine"}


def fails_later():
    time.sleep(0.2)
    raise OSError(28, "No space left on device")


def workers_of(pid):
    """The worker processes of a sweep."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def run(cfg, workdir, seconds=0.0, hear=lambda text: None, work=None, **kw):
    """The summary, and what was printed, of which `hear` hears each line as it is."""
    said = []

    def out(text):
        said.append(text)
        hear(text)

    summary = runner.run(cfg, workdir, work=work or StubWork(seconds), out=out, **kw)
    return summary, "\n".join(said)
