"""`jaxcomp plan`: every setup of a config compiled for the slices it may run on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing as mp
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.runtime.cache import cache_dir, damaged, read_json, write_atomically
from jaxcomp.sweep import grid
from jaxcomp.sweep.plan import compile as compiler
from jaxcomp.sweep.plan.compile import Outcome, Program
from jaxcomp.sweep.plan.layouts import Layout, candidates, ranked
from jaxcomp.sweep.plan.roofline import Roofline, of_program, on_paper
from jaxcomp.sweep.plan.topology import Slice, larger, slice_of

Out = Callable[[str], None]
# The code that decides what is compiled and what is read from it.
_CODE = (
    *("config.py", "runtime/sharding.py", "inference/decode.py", "data/batches.py"),
    *("compress/*.py", "data/objectives.py", "models/*.py", "training/*.py", "sweep/plan/*.py"),
)


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
    def used(self) -> int:
        """Bytes of HBM a chip of the train step."""
        return self.programs["train"].used


def plan(
    cfg: Config, topologies: Sequence[str], *, compile: Any = None, out: Out = print
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
    with _Compiler(compile) as run:
        rows, start = [], time.monotonic()
        for n, one in enumerate(setups):
            row = place(one, slices, run)
            rows.append(row)
            spent = time.monotonic() - start
            left = spent / (n + 1) * (len(setups) - n - 1)
            out(f"[{n + 1}/{len(setups)}] {_line(row)}; {spent:.0f} s, about {left:.0f} s left")
    return rows


def setups_of(cfg: Config) -> list[Config]:
    """The configs of the runs to plan: the grid's setups, those of `cfg.compressor` if it names
    one. Raises ConfigError where there are none, or one that cannot write its memory."""
    out = []
    for setup in grid.setups(cfg):
        name = f"{setup.family}/{setup.size}"
        if cfg.compressor in ("", name):
            one = grid.with_recipe(cfg, setup)
            memory = dataclasses.replace(one.memory, ratio=setup.ratio)
            one = dataclasses.replace(one, compressor=name, memory=memory)
            recipes.check_shapes(memory, grid.model(one), one.decoder.model, name)
            out.append(one)
    if not out:
        raise ConfigError(
            f"nothing to plan: {cfg.compressor or 'families'} is in no setup of the config's grid"
        )
    return out


def place(cfg: Config, slices: Sequence[Slice], run: _Compiler) -> Row:
    """The setup on the first slice that holds it."""
    failed = None
    for where in slices:
        if not where.chip.compiled:
            return _on_paper(cfg, where)
        row = _fit(cfg, where, run)
        if not row.failure:
            return row
        failed = row
    assert failed is not None
    return failed._replace(instead=_smallest(cfg, slices[-1], run))


def _on_paper(cfg: Config, where: Slice) -> Row:
    best = ranked(cfg, where)[0]
    if best.memory > where.chip.hbm:
        need, have = best.memory / 2**30, where.chip.hbm / 2**30
        return Row(cfg, where, best.layout, {}, f"about {need:.0f} of {have:.0f} GiB, on paper")
    return Row(cfg, where, best.layout, {})


def _fit(cfg: Config, where: Slice, run: _Compiler) -> Row:
    row = None
    for layout in candidates(cfg, where):
        outcome = run(cfg, where, layout, False)
        row = Row(cfg, where, layout, outcome.programs, outcome.failure)
        if not row.failure and row.used > where.chip.hbm:
            row = row._replace(failure=f"uses {row.used / 2**30:.1f} GiB of HBM a chip")
        if not row.failure:
            return row
    assert row is not None
    return row


def _smallest(cfg: Config, than: Slice, run: _Compiler) -> str:
    """The smallest larger slice of that chip on which the train step compiles and fits."""
    for where in larger(than):
        try:
            best = ranked(cfg, where)[0]
        except ConfigError:  # no mesh of so many chips divides the batch
            continue
        if best.memory > where.chip.hbm:
            continue
        outcome = run(cfg, where, best.layout, True)
        if not outcome.failure and outcome.programs["train"].used <= where.chip.hbm:
            return where.name
    return ""


class _Compiler:
    """Compiles in one process of its own, and remembers on disk."""

    def __init__(self, compile: Any):
        self._compile = compile or compiler.compile_all
        self._inside = compile is not None
        self._pool: ProcessPoolExecutor | None = None
        self._versions = {} if self._inside else None

    def __enter__(self) -> _Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            # A compile cannot be asked to stop, and nobody wants its result any more.
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, cfg: Config, where: Slice, layout: Layout, only_train: bool) -> Outcome:
        file = cache_dir() / "plan" / f"{self._key(cfg, where, layout, only_train)}.json"
        kept = read_json(file, dict)
        if kept is not None:
            try:
                return compiler.from_json(kept)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                damaged(file, error)
        found = self._run(cfg, where.name, layout, only_train)
        write_atomically(file, json.dumps(found).encode())
        return compiler.from_json(found)

    def _run(self, *args: Any) -> dict[str, Any]:
        if self._inside:
            return self._compile(*args)
        if self._pool is None:
            # A compiler keeps half a gigabyte of each setup: a new one now and then.
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=mp.get_context("spawn"),
                initializer=compiler.prepare,
                max_tasks_per_child=4,
            )
        try:
            return self._pool.submit(self._compile, *args).result()
        except BrokenProcessPool as error:
            raise PlanError(
                f"the compiler's process died on {args[0].compressor} for {args[1]}: out of this "
                "machine's memory? What is compiled is kept; run the same command again"
            ) from error

    def _key(self, cfg: Config, where: Slice, layout: Layout, only_train: bool) -> str:
        if self._versions is None:
            self._versions = compiler.versions() | {"code": _code(cfg)}
        shapes = [to_dict(grid.model(cfg)), to_dict(cfg.decoder.model)]
        parts = [cfg.data, cfg.memory, cfg.train, cfg.eval.batch, only_train]
        return config_hash(shapes, parts, where.name, list(layout), self._versions)


class PlanError(RuntimeError):
    """A plan cannot go on; the message says why."""


def _code(cfg: Config) -> str:
    """What names this version of `_CODE`, and of a user's own files."""
    package, digest = Path(__file__).parents[2], hashlib.sha256()
    own = [Path(name) for name in cfg.plugins if name.endswith(".py")]
    for file in (*(f for part in _CODE for f in sorted(package.glob(part))), *own):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _line(row: Row) -> str:
    if row.failure:
        return f"{row.name} does not fit {row.where.name}: {row.failure}"
    if not row.programs:
        return f"{row.name} on {row.where.name}, not compiled"
    step = row.programs["train"]
    seconds = sum(p.seconds for p in row.programs.values())
    return (
        f"{row.name} fits {row.where.name}: {step.used / 2**30:.1f} of "
        f"{row.where.chip.hbm / 2**30:.1f} GiB, bound by {row.roofline.bound}, compiled in "
        f"{seconds:.0f} s"
    )
