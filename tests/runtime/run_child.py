"""Begins a job of a sweep in a bucket; killed by the test. Computes as the test's process does."""

import dataclasses
import sys

sys.path.append("tests")
import conftest
from inference.inference_runs import config  # pyright: ignore[reportMissingImports]

from jaxcomp.runtime import paths
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import grid, jobs


def task(workdir):
    cfg = config()
    small = dataclasses.replace(
        cfg,
        compressor="",
        families={"llama": {"24": cfg.families["llama"]["24"]}},
        sweep=dataclasses.replace(cfg.sweep, ratios=(16,), base_seeds=(0,), lr_grid=()),
        eval=dataclasses.replace(cfg.eval, samples=0, edits_per_kind=2),
        train=dataclasses.replace(
            cfg.train,
            optim=dataclasses.replace(cfg.train.optim, steps=6),
            checkpoint_every=2,
            log_every=1,
            curriculum=(),
        ),
    )
    return small, jobs.SweepWork().tasks(grid.expand(small), workdir)


def run(workdir, say=lambda text, share: None):
    workdir = paths.path(workdir)
    cfg, tasks = task(workdir)
    with use_mesh(conftest.mesh_of((1, 1, 1))):
        done = [(t.job, jobs.SweepWork().run(t, workdir, say)) for t in tasks]
    return cfg, [(job, result) for job, result in done if job]


if __name__ == "__main__":
    run(sys.argv[1])
