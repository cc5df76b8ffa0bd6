"""Lower bounds of a step's time, and what a run costs.

A step cannot be faster than its operations at the chip's peak, its bytes at the memory's speed, nor
what it moves between chips at the links' speed; the largest of the three names what bounds it. The
first is counted (flops.py), the second estimated (layouts.py), the third read from the compiled
program, which also says during which transfers the cores have nothing to do: those are added.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxcomp.config import Config
from jaxcomp.sweep.plan import flops
from jaxcomp.sweep.plan.compile import Program
from jaxcomp.sweep.plan.hlo import received
from jaxcomp.sweep.plan.layouts import Layout, estimate, traffic
from jaxcomp.sweep.plan.topology import Slice


class Roofline(NamedTuple):
    """Seconds of a step, each of the three alone; `waited` is the part of `links` that nothing
    runs beside."""

    compute: float
    hbm: float
    links: float
    waited: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.hbm, self.links - self.waited) + self.waited

    @property
    def bound(self) -> str:
        parts = {"compute": self.compute, "HBM": self.hbm, "interconnect": self.links}
        return max(parts, key=lambda name: parts[name])


def of_program(cfg: Config, where: Slice, layout: Layout, step: Program) -> Roofline:
    """Of the train step; what moves is what the compiled program moves."""
    run = layout.applied(cfg)
    executed = sum(w.executed for w in flops.train_step(run).values())
    moved = [(c, c.times * received(c) / where.speed(c.group)) for c in step.collectives]
    return Roofline(
        executed / where.chips / where.chip.flops,
        traffic(run, layout) / where.chip.hbm_speed,
        sum(seconds for _, seconds in moved),
        sum(seconds for c, seconds in moved if not c.overlapped),
    )


def on_paper(cfg: Config, where: Slice, layout: Layout) -> Roofline:
    """The same without a compiler."""
    found = estimate(cfg, where, layout)
    return Roofline(found.compute, found.hbm, found.links + found.waited, found.waited)


class Cost(NamedTuple):
    """Of a run of `train.optim.steps` updates."""

    tokens: float  # slots of both towers, a second and chip
    mfu: float  # operations without recomputation / (time x peak)
    hours: float  # chip-hours
    price: float  # USD


def cost(cfg: Config, where: Slice, layout: Layout, step: float, rate: float) -> Cost:
    """Of updates that take `step` seconds each."""
    work = flops.train_step(layout.applied(cfg)).values()
    chip_seconds = step * where.chips
    hours = cfg.train.optim.steps * chip_seconds / 3600
    return Cost(
        sum(w.tokens for w in work) / chip_seconds,
        sum(w.model for w in work) / chip_seconds / where.chip.flops,
        hours,
        hours * rate,
    )
