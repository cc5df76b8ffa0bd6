"""Runs the measurements, each in a process of its own, and prints their table."""

from __future__ import annotations

import multiprocessing as mp
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import Config
from jaxcomp.runtime.allocator import keep_freed_memory, one_arena
from jaxcomp.sweep.worker import environment
from tests.benchmarks import against_transformers, decode, load, probe, reconstruct, run, step
from tests.benchmarks.fixture import (
    BenchError,
    Spread,
    Times,
    chosen,
    fixture,
    ratio,
    slope,
    spread,
    with_weights,
)

KINDS = ("step", "data", "memory", "generate", "reconstruct", "probe", "transformers", "load")
BUSY = 0.9  # CPU seconds per wall second below which one thread did not have a core to itself
NO_TORCH = (
    "PyTorch is not installed (uv run --extra bench python -m tests.benchmarks), so nothing is "
    "compared with it"
)


class Row(NamedTuple):
    """One line of the table; `low` and `high` are quartiles, or nothing."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


class Plan(NamedTuple):
    """How long to measure; tests take less."""

    repeats: int = 15
    looks: tuple[int, ...] = (50, 100, 200, 400)  # steps after which memory is read
    batches: tuple[int, ...] = (1, 16, 64)
    texts: int = 32  # rebuilt in one call, or in as many
    asked: int = 128  # texts asked about, in one batch or one at a time
    prompts: int = 16  # that transformers continues too
    new: int = 32  # tokens after each
    calls: int = 5  # of those two measurements
    gigabytes: float = 2.0  # of the checkpoint that is written and loaded
    loads: int = 5


FULL = Plan()


def bench(
    cfg: Config,
    only: Iterable[str] = KINDS,
    plan: Plan = FULL,
    out: Callable[[str], Any] = print,
    trained: Path | None = None,
) -> list[Row]:
    """Measures and prints what `only` names; returns all rows. `trained` is a finished run, which
    "reconstruct" and "probe" use (else an untrained pair).

    Raises BenchError for an unknown name or something that cannot be measured.
    """
    only = tuple(only)
    for name in only:
        if name not in KINDS:
            raise BenchError(f"--only={name!r}; expected one of {', '.join(KINDS)}")
    cfg = chosen(cfg)
    rows: list[Row] = []

    def show(title: str, more: list[Row]) -> None:
        out(f"\n{title}")
        for row in more:
            out(line(row))
        rows.extend(more)

    o = cfg.train.optim
    out(f"{cfg.name}: {cfg.compressor}, ratio {cfg.memory.ratio}, batch {o.batch}")
    with tempfile.TemporaryDirectory(prefix="jaxcomp-bench-") as temporary:
        cfg = _in_process(with_weights, cfg, Path(temporary))
        if "step" in only:
            if not step.has_torch():
                out(NO_TORCH)
            for threads in (1, 0):
                title = "one thread" if threads else f"all {os.cpu_count()} threads"
                found = _in_process(_step, cfg, plan.repeats, threads, one_thread=bool(threads))
                show(f"step, {title}", step_rows(found))
                if threads and busy(found.ours["step"]):
                    out("  the machine was busy: trust the ratio of CPU times, not of wall times")
        if "data" in only or "memory" in only:
            steps = plan.looks[-1] if "memory" in only else max(100, plan.looks[0])
            times = _in_process(run.measure, cfg, Path(temporary) / "run", steps, plan.looks[0])
            if "data" in only:
                show(f"data, a run of {steps} steps", data_rows(times))
            if "memory" in only:
                show("memory of the same run", memory_rows(times, plan.looks))
        if "generate" in only:
            times = _in_process(_generate, cfg, plan.batches, plan.repeats)
            show("generate, greedy, all threads", generate_rows(times, cfg.data.target))
        if "reconstruct" in only:
            both, same = _in_process(_reconstruct, cfg, trained, plan)
            title = f"{plan.texts} memories of {trained or 'an untrained pair'}"
            show(f"reconstruct, {title}", reconstruct_rows(both, same, plan.texts))
        if "probe" in only:
            both, same = _in_process(_probe, cfg, trained, plan)
            title = f"{plan.asked} texts, four conditions, two options, {trained or 'untrained'}"
            show(f"probe, {title}", probe_rows(both, same, plan.asked))
        if "transformers" in only and not step.has_torch():
            out(NO_TORCH)
        elif "transformers" in only:
            found = _in_process(_transformers, Path(cfg.folders["decoder"]), plan)
            title = f"{plan.prompts} prompts, {plan.new} tokens each, float32"
            show(f"greedy decoding of the decoder, {title}", transformers_rows(found))
        if "load" in only:
            folder = Path(temporary) / "checkpoint"
            _in_process(load.write, load.synthetic(plan.gigabytes), folder)
            times = [_in_process(_once, folder) for _ in range(plan.loads)]
            above, shard = _in_process(load.memory, folder)
            show("load, a synthetic checkpoint of bfloat16", load_rows(times, above, shard))
    return rows


# --- in processes of their own, as XLA reads its thread count once -----------------------------


def _in_process(work: Callable[..., Any], *args: Any, one_thread: bool = False) -> Any:
    spawned = ProcessPoolExecutor(1, mp.get_context("spawn"), initializer=one_arena)
    with environment(one_thread), spawned as pool:
        return pool.submit(work, *args).result()


def _step(cfg: Config, repeats: int, threads: int) -> step.StepTimes:
    keep_freed_memory()
    return step.measure(cfg, repeats, threads)


def _once(folder: Path) -> load.Once:
    keep_freed_memory()  # as training and `jaxcomp.load` do
    return load.once(folder)


def _generate(cfg: Config, batches: tuple[int, ...], repeats: int) -> dict[int, Times]:
    keep_freed_memory()
    return decode.measure(fixture(cfg), batches, repeats)


def _reconstruct(cfg: Config, trained: Path | None, plan: Plan) -> tuple[dict[str, Times], int]:
    keep_freed_memory()
    if trained is None:
        pair, texts = reconstruct.untrained(fixture(cfg), plan.texts)
    else:
        pair, texts = reconstruct.of_run(trained, plan.texts)
    return reconstruct.measure(pair, pair.compress(texts), plan.calls)


def _probe(cfg: Config, trained: Path | None, plan: Plan) -> tuple[dict[str, Times], int]:
    keep_freed_memory()
    if trained is None:
        pair, texts = reconstruct.untrained(fixture(cfg), plan.asked)
    else:
        pair, texts = reconstruct.of_run(trained, plan.asked)
    return probe.measure(pair, probe.asked_about(pair, texts), plan.calls)


def _transformers(folder: Path, plan: Plan) -> against_transformers.Decoding:
    keep_freed_memory()
    return against_transformers.measure(folder, plan.prompts, plan.new, plan.calls)


# --- rows --------------------------------------------------------------------------------------


def step_rows(found: step.StepTimes) -> list[Row]:
    """Rates and their ratio (above 1: ours is faster), then the parts, CPU milliseconds each."""
    ours, torch = found.ours["step"], found.torch.get("step")
    rows = [rate_row("ours", found.tokens, ours.wall, "tokens/s")]
    gflops = rate_row("ours", found.flops / 1e9, ours.wall, "GFLOP/s")
    if torch is not None:
        rows.append(rate_row("PyTorch", found.tokens, torch.wall, "tokens/s"))
        rows.append(spread_row("ours / PyTorch, wall time", ratio(ours.wall, torch.wall), "x"))
        rows.append(spread_row("ours / PyTorch, CPU time", ratio(ours.cpu, torch.cpu), "x"))
    rows.append(gflops)
    for who, times in (("ours", found.ours), ("PyTorch", found.torch)):
        rows += [
            spread_row(f"{who}: {part}", spread([1e3 * s for s in t.cpu]), "ms")
            for part, t in times.items()
        ]
    return rows


def data_rows(times: run.RunTimes) -> list[Row]:
    s = times.seconds
    return [
        Row("waiting for data", 100 * run.wait_share(s), "% of a step"),
        Row("drawing data", 1e3 * s["data"] / times.steps, "ms/step"),
        Row("step", 1e3 * s["step"] / (times.steps - 1), "ms/step"),
    ]


def memory_rows(times: run.RunTimes, looks: tuple[int, ...]) -> list[Row]:
    """Resident memory after each look, and its slope over them."""
    sizes = [times.resident[at] for at in looks]
    rows = [
        Row(f"after {at} steps", size / 1e6, "MB") for at, size in zip(looks, sizes, strict=True)
    ]
    return [*rows, Row("growth", slope(looks, sizes) / 1e3, "kB/step")]


def generate_rows(times: dict[int, Times], tokens: int) -> list[Row]:
    """Tokens a second of all rows together, and how many times batch 1's that is."""
    rows = [rate_row(f"batch {b}", b * tokens, t.wall, "tokens/s") for b, t in times.items()]
    first = rows[0]
    ratios = [Row(f"{row.name} / {first.name}", row.value / first.value, "x") for row in rows[1:]]
    return rows + ratios


def reconstruct_rows(times: dict[str, Times], same: int, texts: int) -> list[Row]:
    """Texts a second in one call and in one call each, and whether they are the same texts."""
    batched, single = times["batched"].wall, times["single"].wall
    return [
        rate_row("in one call", texts, batched, "texts/s"),
        rate_row("one call each", texts, single, "texts/s"),
        spread_row("one call / one each", ratio(batched, single), "x"),
        Row("the same text", same, f"of {texts}"),
    ]


def probe_rows(times: dict[str, Times], same: int, texts: int) -> list[Row]:
    """Items a second in batches and one at a time, the cost of one, and whether the greedy answers
    and the likelier options are the same."""
    batched, single = times["batched"].wall, times["single"].wall
    return [
        rate_row("in batches", texts, batched, "items/s"),
        rate_row("one at a time", texts, single, "items/s"),
        spread_row("batches / one at a time", ratio(batched, single), "x"),
        spread_row("an item in batches", spread([1e3 * s / texts for s in batched]), "ms"),
        Row("the same outcome", same, f"of {texts}"),
    ]


def transformers_rows(found: against_transformers.Decoding) -> list[Row]:
    """Tokens a second, prefill included, and the share of tokens that both chose."""
    ours, theirs = found.times["ours"].wall, found.times["transformers"].wall
    return [
        rate_row("ours", found.tokens, ours, "tokens/s"),
        rate_row("transformers", found.tokens, theirs, "tokens/s"),
        spread_row("ours / transformers", ratio(ours, theirs), "x"),
        Row("the same token", 100 * found.same, f"% of {found.tokens}"),
    ]


def load_rows(times: list[load.Once], above: int, shard: int) -> list[Row]:
    """Bytes a second, and how far memory rises beyond the parameters."""
    megabytes = times[0].file / 1e6
    reading, loading = [t.reading for t in times], [t.loading for t in times]
    return [
        rate_row("reading the file", megabytes, reading, "MB/s"),
        rate_row("loading it", megabytes, loading, "MB/s"),
        spread_row("loading / reading", ratio(loading, reading), "x"),
        Row("memory above the parameters", above / 1e6, "MB"),
        Row("the same / largest shard", above / shard, "x"),
    ]


def rate_row(name: str, amount: float, seconds: list[float], unit: str) -> Row:
    return spread_row(name, spread([amount / s for s in seconds]), unit)


def spread_row(name: str, s: Spread, unit: str) -> Row:
    return Row(name, s.median, unit, s.low, s.high)


def busy(times: Times) -> bool:
    """Had this single thread less than a core to itself?"""
    return sum(times.cpu) < BUSY * sum(times.wall)


def line(row: Row) -> str:
    """`  name   value unit   (low - high)`."""
    text = f"  {row.name:<30} {number(row.value):>10} {row.unit}"
    if row.low is None or row.high is None:
        return text
    return f"{text:<58} ({number(row.low)} - {number(row.high)})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
