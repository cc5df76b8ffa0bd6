"""A short real training run: how long it waits for data, and whether its memory grows."""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxcomp.config import Config
from jaxcomp.training.compressor import train
from jaxcomp.training.manifest import read_json
from jaxcomp.training.metrics import TIMINGS


class RunTimes(NamedTuple):
    """`seconds` of the loop's clock; `resident`: step -> bytes of memory after it."""

    steps: int
    seconds: dict[str, float]
    resident: dict[int, int]


def measure(cfg: Config, workdir: Path, steps: int, every: int) -> RunTimes:
    """Trains for `steps` updates in `workdir`; looks at the memory after each `every` of them."""
    optim = dataclasses.replace(cfg.train.optim, steps=steps)
    # Checkpoints from before the first look on: what the first one loads is not growth.
    train_cfg = dataclasses.replace(
        cfg.train, optim=optim, log_every=every, checkpoint_every=max(1, every // 2)
    )
    data = dataclasses.replace(cfg.data, val_passages=min(cfg.data.val_passages, 32))
    cfg = dataclasses.replace(cfg, train=train_cfg, data=data)
    resident: dict[int, int] = {}

    def look(_: str, share: float) -> None:
        if share:  # not of the line that says that training has begun
            resident[round(share * steps)] = resident_bytes()

    train(cfg, workdir, say=look)
    return RunTimes(steps, read_json(workdir / TIMINGS)["seconds"], resident)


def wait_share(seconds: Mapping[str, float]) -> float:
    """Share of the loop's time in which the device had nothing to do but wait for a batch.

    `data_wait` is the drawing of batches while no step was running; `data` all of it, `step` the
    dispatching of steps and waiting for them. Compilation and checkpoints are not counted.
    """
    return seconds.get("data_wait", 0.0) / (seconds["step"] + seconds["data"])


def resident_bytes() -> int:
    """Memory of this process now; where /proc is missing, its peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    return pages * os.sysconf("SC_PAGE_SIZE")
