"""Where the time of a compiled step goes, by the compiler's own estimates.

XLA:TPU writes `estimated_cycles` beside most instructions of its schedule. A step takes their sum,
each times its executions, over the chip's clock. The rest is estimated by formulas, and said to be:

    kernels of attention    operations of the whole square at the chip's bf16 peak
    collectives             bytes received at the links' speed, if nothing is computed beside them
    other instructions      bytes read and written at the memory's speed

Asynchronous copies count as free: they run beside what is computed.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

from jaxcomp.sweep.plan import hlo
from jaxcomp.sweep.plan.topology import Slice

KINDS = (
    "matrix products",
    "attention",
    "elementwise",
    "copies, slices, casts",
    "random numbers",
    "optimiser",
    "collectives waited for",
)
LONGEST = 10

_ATTENTION = re.compile(r"splash|fmha|dot_product_attention")
_RANDOM = re.compile(r"threefry|_bernoulli|_uniform|random_bits")
_TOWERS = {n: n for n in ("connector", "compressor", "decoder")} | {"cross_entropy": "loss"}
_PRODUCTS = {"convolution", "dot"}
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id"),
    *("optimization-barrier", "after-all", "reshape"),
}
_MOVES = _FREE | {
    *("copy", "transpose", "slice", "dynamic-slice", "dynamic-update-slice", "pad", "concatenate"),
    *("convert", "broadcast", "iota", "gather"),
}
# Products of queries by keys that a kernel does: forward; dq alone; with dk and dv.
_KERNELS = {"fwd": 2, "dq": 3, "dkv": 5}


class Part(NamedTuple):
    """Seconds of one step on one chip; `formula`: of them, those that no compiler estimated."""

    kind: str
    tower: str  # "loss" and "other" too
    direction: str  # forward | recomputed | backward | update
    seconds: float
    formula: float


class Instruction(NamedTuple):
    name: str
    kind: str
    tower: str
    direction: str
    seconds: float  # of all executions in one step
    times: int
    operation: str  # what JAX calls it
    line: str  # of our source and its caller's; empty where the compiler kept none


class Timing(NamedTuple):
    parts: list[Part]
    longest: list[Instruction]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def step_time(text: str, where: Slice) -> Timing:
    """The time of the scheduled HLO module `text` on one chip of the slice.

    Raises ValueError where `text` is no HLO module or a loop does not say how often it runs.
    """
    module, entry = hlo.parse(text)
    lines = _source_lines(text)
    total: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    every: list[Instruction] = []
    for comp, op, times in hlo.executed(module, entry):
        scope = _scope(module, op)
        cycles = hlo.find(r'"estimated_cycles":"(\d+)"', op.notes)
        seconds = times * (int(cycles) / where.chip.clock if cycles else _formula(comp, op, where))
        if seconds:
            frame = hlo.find(r"stack_frame_id=(\d+)", op.notes)
            part = (_kind(module, op, scope), *_place(scope))
            line, operation = lines.get(frame, ""), "/".join(scope.split("/")[-2:])
            every.append(Instruction(op.name, *part, seconds, times, operation, line))
            total[part][0] += seconds
            total[part][1] += 0.0 if cycles else seconds
    for c in hlo.collectives(text):
        if not c.overlapped:
            seconds = c.times * hlo.received(c) / where.speed(c.group)
            of = total["collectives waited for", *_place(c.scope)]
            of[:] = [n + seconds for n in of]
    longest = sorted(every, key=lambda i: -i.seconds)[:LONGEST]
    return Timing([Part(*part, *seconds) for part, seconds in total.items()], longest)


def _scope(module: hlo.Module, op: hlo.Op) -> str:
    """JAX's name of the instruction, or of what is fused in it."""
    named = hlo.find(hlo.NAMED, op.notes)
    if named or op.kind != "fusion":
        return named
    inner = (i for c in hlo.called(module, op, "calls") for i in c.ops.values())
    return next((n for i in inner if (n := hlo.find(hlo.NAMED, i.notes))), "")


def _place(scope: str) -> tuple[str, str]:
    """Tower and direction."""
    tower = next((name for part, name in _TOWERS.items() if part in scope), "other")
    if "jvp(" not in scope:
        return tower, "update"
    again = "recomputed" if "rematted_computation" in scope else "backward"
    return tower, again if "transpose(" in scope else "forward"


def _kind(module: hlo.Module, op: hlo.Op, scope: str) -> str:
    if _ATTENTION.search(scope):
        return "attention"
    if _RANDOM.search(scope):
        return "random numbers"
    if "/optimizer/" in scope:
        return "optimiser"
    kinds = _inside(module, op)
    if kinds & _PRODUCTS:
        return "matrix products"
    return "copies, slices, casts" if kinds <= _MOVES else "elementwise"


def _inside(module: hlo.Module, op: hlo.Op) -> set[str]:
    """Kinds of the instructions that a fusion holds; of another, its own."""
    if op.kind != "fusion":
        return {op.kind}
    fused = (i for c in hlo.called(module, op, "calls") for i in c.ops.values())
    return {kind for i in fused for kind in _inside(module, i)}


def _formula(comp: hlo.Comp, op: hlo.Op, where: Slice) -> float:
    """Seconds of one execution of an instruction without an estimate of the compiler."""
    given = [hlo.arrays(comp.ops[name].shape) for name in op.args if name in comp.ops]
    if op.kind == "custom-call":
        name = hlo.find(r"_(fwd|dq|dkv)_", op.name)
        heads = [sizes for (dtype, sizes), *_ in given if dtype == "bf16" and len(sizes) > 2]
        if name not in _KERNELS or len(heads) < 2:
            return 0.0
        return 2 * _KERNELS[name] * math.prod(heads[0]) * heads[1][-2] / where.chip.flops
    if op.kind in _FREE or op.kind.removesuffix("-start").removesuffix("-done") != op.kind:
        return 0.0
    if op.kind in hlo.KINDS:
        return 0.0  # counted by itself
    arrays = [*hlo.arrays(op.shape), *(a for each in given for a in each)]
    return sum(hlo.array_bytes(array) for array in arrays) / where.chip.hbm_speed


def _source_lines(text: str) -> dict[str, str]:
    """The line of ours that each stack frame of the module's table leads to, from the inside."""
    names = text.partition("\nFileNames\n")[2].partition("\n\n")[0]
    files = dict(re.findall(r'^(\d+) "(.*)"$', names, re.M))
    ours = {n: f.rpartition("/jaxcomp/")[2] for n, f in files.items() if "/jaxcomp/" in f}
    places = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", text, re.M)
    at = {n: f"{ours[file]}:{line}" for n, file, line in places if file in ours}
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)", text, re.M)
    stacks: dict[str, list[str]] = {}
    for n, place, above in frames:  # callers come first; they are numbered from 0 here
        callers = stacks.get(str(int(above) - 1), [])
        stacks[n] = [*callers, at[place]] if place in at else callers
    return {n: " > ".join(stack[-2:]) for n, stack in stacks.items()}
