"""`jaxcomp plan`: compile every setup of a config for the given slices."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.runtime import live
from jaxcomp.runtime.cache import cache_dir, damaged, write_atomically
from jaxcomp.sweep import grid
from jaxcomp.sweep.plan import compile as compiler
from jaxcomp.sweep.plan.compile import Outcome, Program
from jaxcomp.sweep.plan.layouts import Layout, candidates, ranked
from jaxcomp.sweep.plan.roofline import Roofline, of_program, on_paper
from jaxcomp.sweep.plan.topology import GIB, Slice, larger, slice_of

Compile = Callable[[Config, str, Layout, bool], Outcome]  # as `compile_all`
_JSON = TypeAdapter(Outcome)


class PlanError(RuntimeError):
    """A plan cannot go on; the message says why."""


class Row(NamedTuple):
    """One setup on one slice. `programs` is empty where nothing was compiled (no compiler for that
    chip); `failure` says why it does not fit, and `instead` names the smallest slice that does."""

    config: Config
    where: Slice
    layout: Layout
    programs: dict[str, Program]
    failure: str = ""
    instead: str = ""

    @property
    def name(self) -> str:
        return f"{self.config.compressor} r{self.config.memory.ratio}"

    @property
    def roofline(self) -> Roofline:
        if "train" in self.programs:
            return of_program(self.config, self.where, self.layout, self.programs["train"])
        return on_paper(self.config, self.where, self.layout)

    @property
    def seconds(self) -> float:
        """Of a step: by the compiler, else no less than the roofline."""
        step = self.programs.get("train")
        return step.timing.seconds if step else self.roofline.seconds

    def __str__(self) -> str:
        where, have = self.where.name, self.where.chip.hbm / GIB
        if self.failure:
            return f"{self.name} does not fit {where}: {self.failure}"
        if not self.programs:
            return f"{self.name} on {where}, not compiled"
        seconds = sum(p.seconds for p in self.programs.values())
        return (
            f"{self.name} fits {where}: {self.programs['train'].used / GIB:.1f} of {have:.1f} GiB, "
            f"{self.seconds:.3f} s a step, compiled in {seconds:.0f} s"
        )


def plan(
    cfg: Config,
    topologies: Sequence[str],
    *,
    compile: Compile | None = None,
    out: Callable[[str], None] = print,
) -> list[Row]:
    """A row for each setup of the sweep (or for `cfg.compressor` alone) on the first of
    `topologies` that holds it; on the last, with the reason, where none does.

    `compile` takes the place of the compiler in tests. What is compiled is kept in the cache, so
    that a stopped plan goes on and a finished one only prints. Raises ConfigError for an unknown
    slice, before anything is compiled, or where libtpu is missing.
    """
    slices = [slice_of(name) for name in topologies]
    if any(s.chip.compiled for s in slices) and compile is None:
        compiler.require()
    setups = setups_of(cfg)
    for one in setups:  # a mesh that divides nothing is said before the first long compile
        for where in slices:
            candidates(one, where)
    rows: list[Row] = []
    with _own_process() as own, live.line("plan", len(setups), "setups") as row:
        run = _Remembered(compile or own)
        for one in setups:
            row.done, row.text = len(rows), f"{one.compressor} r{one.memory.ratio}"
            rows.append(place(one, slices, run))
            spent = time.monotonic() - row.began
            left = spent / len(rows) * (len(setups) - len(rows))
            out(f"[{len(rows)}/{len(setups)}] {rows[-1]}; {spent:.0f} s, about {left:.0f} s left")
    return rows


def setups_of(cfg: Config) -> list[Config]:
    """The configs of the runs to plan: the grid's setups, those of `cfg.compressor` if it names
    one. Raises ConfigError where there are none, or one that cannot write its memory."""
    out = []
    for setup in grid.setups(cfg):
        one = grid.config_of(cfg, setup)
        if cfg.compressor in ("", one.compressor):
            recipes.check_shapes(one.memory, grid.model(one), one.decoder.model, one.compressor)
            out.append(one)
    if not out:
        raise ConfigError(
            f"nothing to plan: {cfg.compressor or 'families'} is in no setup of the config's grid"
        )
    return out


def place(cfg: Config, slices: Sequence[Slice], run: _Remembered) -> Row:
    """The setup on the first slice that holds it, else on the last."""
    for where in slices:
        row = _fit(cfg, where, run) if where.chip.compiled else _on_paper(cfg, where)
        if not row.failure or not where.chip.compiled:
            return row
    return row._replace(instead=_smallest(cfg, slices[-1], run))


def _on_paper(cfg: Config, where: Slice) -> Row:
    best, have, failure = ranked(cfg, where)[0], where.chip.hbm, ""
    if best.memory > have:
        failure = f"about {best.memory / GIB:.0f} of {have / GIB:.0f} GiB, on paper"
    return Row(cfg, where, best.layout, {}, failure)


def _fit(cfg: Config, where: Slice, run: _Remembered, layouts: Sequence[Layout] = ()) -> Row:
    """The first of the layouts (default: the best two, all programs compiled) that fits; of the
    best two, with the micro-batches that `_fewer` finds."""
    for layout in layouts or candidates(cfg, where):
        row = _compiled(cfg, where, layout, run, only_train=bool(layouts))
        if not row.failure:
            break
    return row if layouts or row.failure else _fewer(row, run)


def _compiled(cfg: Config, where: Slice, layout: Layout, run: _Remembered, only_train: bool) -> Row:
    programs, failure = run(cfg, where, layout, only_train)
    used = programs["train"].used if "train" in programs else 0
    if not failure and used > where.chip.hbm:
        failure = f"uses {used / GIB:.1f} GiB of HBM a chip"
    return Row(cfg, where, layout, programs, failure)


def _fewer(row: Row, run: _Remembered) -> Row:
    """The row with half the micro-batches, and half of those, while it fits and gets faster."""
    while row.layout.accumulate % 2 == 0:
        layout = row.layout._replace(accumulate=row.layout.accumulate // 2)
        half = _compiled(row.config, row.where, layout, run, only_train=True)
        if half.failure or half.seconds >= row.seconds:
            break
        row = half._replace(programs=row.programs | half.programs)
    return row


def _smallest(cfg: Config, than: Slice, run: _Remembered) -> str:
    """The smallest larger slice of that chip on which the train step compiles and fits."""
    for where in larger(than):
        with contextlib.suppress(ConfigError):  # no mesh of so many chips divides the batch
            best = ranked(cfg, where)[0]
            if best.memory <= where.chip.hbm and not _fit(cfg, where, run, [best.layout]).failure:
                return where.name
    return ""


class _Remembered:
    """A compiler whose outcomes are kept on disk, by config and versions of the packages.

    Programs of a user's own plugins are compiled each time: no version names those files.
    """

    def __init__(self, compile: Compile):
        self._compile, self._versions = compile, compiler.versions()

    def __call__(self, cfg: Config, where: Slice, layout: Layout, only_train: bool) -> Outcome:
        shapes = [to_dict(grid.model(cfg)), to_dict(cfg.decoder.model)]
        parts = [cfg.data, cfg.memory, cfg.train, cfg.eval.batch, only_train]
        key = config_hash(shapes, parts, where.name, list(layout), self._versions)
        file = cache_dir() / "plan" / f"{key}.json"
        if file.is_file() and not cfg.plugins:
            try:
                return _JSON.validate_json(file.read_bytes())
            except ValueError as error:
                damaged(file, error)
        found = self._compile(cfg, where.name, layout, only_train)
        write_atomically(file, _JSON.dump_json(found))
        return found


@contextlib.contextmanager
def _own_process() -> Iterator[Compile]:
    """`compile_all` in a process of its own. A compiler keeps half a gigabyte of each setup: there
    is a new process now and then."""
    context = mp.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, compiler.prepare, max_tasks_per_child=4)

    def run(cfg: Config, topology: str, *args: Any) -> Outcome:
        try:
            return pool.submit(compiler.compile_all, cfg, topology, *args).result()
        except BrokenProcessPool as error:
            raise PlanError(
                f"the compiler's process died on {cfg.compressor} for {topology}: out of this "
                "machine's memory? What is compiled is kept; run the same command again"
            ) from error

    try:
        yield run
    finally:
        # A compile cannot be asked to stop, and nobody wants its result any more.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
