"""Work for a sweep in a bucket: light to import, without JAX, with a file of its own a job."""

import time

from jaxcomp.config import Config, ModelConfig, SweepConfig
from jaxcomp.sweep import grid, runner
from jaxcomp.sweep.tasks import Task


def config() -> Config:
    sizes = {s: ModelConfig(hidden_size=h) for s, h in (("s", 16), ("m", 32))}
    return Config(families={"toy": sizes}, sweep=SweepConfig(ratios=(4, 16), workers=2))


class StubWork:
    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def prepare(self):
        pass

    def check(self, jobs, workdir):
        return "data: a stub's"

    def tasks(self, jobs, workdir):
        return [Task(j.id, "job", j.config, (), tuple(j.setup), 1.0, j) for j in jobs]

    def ready(self, task, workdir):
        return False

    def run(self, task, workdir, say):
        print("log of", task.id, flush=True)
        (workdir / "jobs" / task.id / f"ran-{time.time()}").write_text("")
        time.sleep(self.seconds)
        value = task.config.memory.ratio / grid.model(task.config).hidden_size
        metrics = {
            "params": grid.model(task.config).hidden_size * 1000,
            "params_body": 10,
            "val_loss": value,
            "ordinary/loss": value,
            "counterfactual/nonfavourite/all/kept": 1 - value / 3,
        }
        return {"metrics": metrics, "timings": {"train_s": time.time()}, "note": "fine"}


def run(workdir, seconds=0.0):
    return runner.run(config(), workdir, work=StubWork(seconds), out=print)
