"""Measure speed against a reference: `uv run python -m tests.benchmarks`.

Each measurement runs in a process of its own, as XLA reads its number of threads once.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from jaxcomp.cli import overrides
from jaxcomp.cli.main import expected
from jaxcomp.config import Config
from jaxcomp.sweep.worker import environment
from tests.benchmarks import decode, load, step
from tests.benchmarks.fixture import (
    BenchError,
    Measured,
    Times,
    begin,
    chosen,
    has_torch,
    quartiles,
    with_weights,
)

KINDS = ("step", "decode", "load")
BUSY = 0.9  # CPU seconds per wall second below which one thread did not have a core to itself
NO_TORCH = "no reference without PyTorch: uv run --extra bench python -m tests.benchmarks"


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table; return the exit code."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="tiny",
        help="the config whose shapes are measured (default: tiny)",
    )
    parser.add_argument(
        "--only", default=",".join(KINDS), metavar="WHAT[,WHAT]", help=", ".join(KINDS)
    )
    flags, fields = parser.parse_known_args(argv)
    try:
        bench(overrides.load(flags.config, overrides.pairs(fields)), flags.only.split(","))
    except Exception as error:
        message = str(error) if isinstance(error, BenchError) else expected(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def bench(cfg: Config, only: Iterable[str] = KINDS, repeats: int = 15, gigabytes: float = 2.0):
    """Measure and print what `only` names. Raises BenchError for an unknown name."""
    for name in only:
        if name not in KINDS:
            raise BenchError(f"--only={name}: expected one of {', '.join(KINDS)}")
    cfg = chosen(cfg)
    o = cfg.train.optim
    print(f"{cfg.name}: {cfg.compressor}, ratio {cfg.memory.ratio}, batch {o.batch}")
    if not has_torch():
        print(NO_TORCH)
    with tempfile.TemporaryDirectory(prefix="jaxcomp-bench-") as folder:
        cfg = _in_process(with_weights, cfg, Path(folder))
        for threads in (1, 0) if "step" in only else ():
            found = _in_process(step.measure, cfg, repeats, threads, one_thread=bool(threads))
            show(f"step, {'one thread' if threads else f'all {os.cpu_count()} threads'}", found)
            if threads and busy(found.times["ours"]):
                print("  the machine was busy: trust the ratio of CPU times, not of wall times")
        if "decode" in only:
            found = _in_process(decode.measure, Path(cfg.folders["decoder"]), repeats)
            show("greedy decoding of the decoder, float32", found)
        if "load" in only:
            checkpoint = Path(folder) / "checkpoint"
            size = _in_process(load.write, gigabytes, checkpoint)
            every = [_in_process(load.once, checkpoint) for _ in range(max(2, repeats // 3))]
            times = {
                name: Times(*map(list, zip(*(one[name] for one in every), strict=True)))
                for name in ("ours", "reading the file")
            }
            show("load, a synthetic checkpoint of bfloat16", Measured(size, "MB", times))


def _in_process(work: Callable[..., Any], *args: Any, one_thread: bool = False) -> Any:
    context = mp.get_context("spawn")
    with environment(one_thread), ProcessPoolExecutor(1, context, initializer=begin) as pool:
        return pool.submit(work, *args).result()


def show(title: str, found: Measured) -> None:
    """Print rates, and the ratios (above 1: ours is faster): medians, in brackets quartiles."""
    print(f"\n{title}")
    for name, times in found.times.items():
        rates = [found.amount / seconds for seconds in times.wall]
        print(line(name, rates, f"{found.unit}/s"))
    if len(found.times) == 2:
        names, (ours, theirs) = " / ".join(found.times), found.times.values()
        for clock, a, b in (("wall", ours.wall, theirs.wall), ("CPU", ours.cpu, theirs.cpu)):
            print(line(f"{names}, {clock} time", [y / x for x, y in zip(a, b, strict=True)], "x"))
    if found.note:
        print(f"  {found.note}")


def busy(times: Times) -> bool:
    """Had this single thread less than a core to itself?"""
    return sum(times.cpu) < BUSY * sum(times.wall)


def line(name: str, values: Sequence[float], unit: str) -> str:
    low, median, high = map(number, quartiles(values))
    return f"  {name:<36} {median:>10} {unit:<9} ({low} - {high})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":  # not in the processes that it starts
    sys.exit(main())
