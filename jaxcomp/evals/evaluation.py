"""The registry of evaluations: a function of a `Request`, declared in one file.

The declaration names it for `jaxcomp eval --task=NAME` and says which flags it takes and needs; the
command line and the metrics page read it. Shipped evaluations are the files of `PACKAGES`; one of
your own is a file that the config's `plugins` names (docs/how-to/extend.md).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths
from jaxcomp.runtime.registry import Registry, unknown

RESULTS = "tasks"  # the folder, in that of the pair, of what evaluations found
PACKAGES = ("jaxcomp.evals.tasks", "jaxcomp.analysis.tasks")  # of which every file is an evaluation
# Flags beyond --run. Each evaluation names those that it takes.
DATA, LIMIT, LENGTH, OUT, FILTER, SELECT, BUDGETS, SCORER, EXPORT, RATIO, BATCH = OPTIONS = (
    "data", "limit", "length", "out", "filter", "select", "budgets", "scorer", "export", "ratio",
    "batch",
)  # fmt: skip


class Evaluated(NamedTuple):
    """`result` is what the file holds (the metrics page); `made` is False where it was there."""

    result: dict[str, Any]
    made: bool


class Report(NamedTuple):
    """What an evaluation prints, and where its result is; `made` is False where it was there."""

    text: str
    out: Path
    made: bool


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for: the finished runs, each with where its base models have moved to, and the
    flags of `OPTIONS`; None where a flag was not given."""

    task: str
    runs: Sequence[tuple[str, dict[str, Any]]]
    say: Callable[[str], None]
    data: Path | None = None
    limit: int | None = None
    length: int | None = None
    given_out: Path | None = None
    filter: str | None = None
    select: str | None = None
    budgets: str | None = None
    scorer: str | None = None
    export: Path | None = None
    ratio: int = 0
    batch: int = 32

    @property
    def place(self) -> str:
        return self.runs[0][0]

    @property
    def moved(self) -> dict[str, Any]:
        return self.runs[0][1]

    @functools.cached_property
    def pair(self) -> Any:
        """The trained pair of the run (`jaxcomp.load`)."""
        from jaxcomp.inference import load

        return load(self.place, ratio=self.ratio, batch=self.batch, **self.moved)

    @property
    def stem(self) -> str:
        """The name of the data without its endings."""
        return Path(self.data.name.removesuffix(".gz")).stem if self.data else "held-out"

    def out(self, about: str = "") -> Path:
        """--out, or tasks/<task>-<about>.json in the folder of the run.

        Raises ConfigError for a folder, and for a run in a bucket without --out.
        """
        if self.given_out is not None:
            if self.given_out.is_dir():
                raise ConfigError(
                    f"--out={self.given_out} is a folder; expected a file such as "
                    f"{self.given_out}/task.json"
                )
            return self.given_out
        if paths.is_remote(self.place):
            raise ConfigError(f"--run={self.place} is in a bucket: give --out=FILE of this machine")
        return paths.path(self.place) / RESULTS / f"{self.task}-{about or self.stem}.json"

    def report(self, found: Evaluated, table: Callable[[dict[str, Any]], str], out: Path) -> Report:
        """`found` as text by `table`. Raises EvalError where a file that was there is damaged."""
        from jaxcomp.evals.qa.resumable import intact  # loads JAX

        with intact(None if found.made else out):
            return Report(table(found.result), out, found.made)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The declaration. `several`: it takes several runs."""

    name: str
    about: str
    function: Callable[[Request], Report | None]
    options: tuple[str, ...] = (OUT,)
    needs: tuple[str, ...] = ()
    several: bool = False

    def __call__(self, request: Request) -> Report | None:
        """Run it. None: it said all that there is to say.

        Raises:
          ConfigError: a number of runs that it does not take.
        """
        if not request.runs or (len(request.runs) > 1 and not self.several):
            expected = "finished runs" if self.several else "one finished run or export"
            raise ConfigError(
                f"--task={self.name} needs --run=DIR, {expected}; found {len(request.runs)}"
            )
        return self.function(request)


EVALUATIONS: Registry[Evaluation] = Registry("--task")


def evaluation(
    name: str,
    *,
    about: str,
    options: Sequence[str] = (OUT,),
    needs: Sequence[str] = (),
    several: bool = False,
):
    """Register a function of a `Request` as `jaxcomp eval --task=NAME`.

    Args:
        name: of the task; a shipped task has the name of its file.
        about: one line for --help.
        options: flags that it takes, of `OPTIONS`.
        needs: the required ones among them.
        several: whether it takes several runs.

    Returns:
        A decorator of a function that returns a `Report`, or None if it printed everything.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> from jaxcomp.evals.evaluation import Report
        >>> count = jaxcomp.evaluation("count", about="count texts")(lambda request: None)
    """

    def row(function: Callable[[Request], Report | None]) -> Evaluation:
        return Evaluation(name, about, function, tuple(options), tuple(needs), several)

    return EVALUATIONS.declare(name, row)


def shipped() -> dict[str, str]:
    """Module of each shipped evaluation, by its name; none is imported."""
    return {
        module.name: f"{package}.{module.name}"
        for package in PACKAGES
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    }


def known(name: str) -> bool:
    """Is there an evaluation of that name, as far as plugins are imported?"""
    return name in EVALUATIONS or name in shipped()


def find(name: str) -> Evaluation:
    """The evaluation of that name. Raises ConfigError that lists the known ones."""
    modules = shipped()
    if name not in EVALUATIONS:
        if name not in modules:
            raise unknown("--task", name, {**modules, **EVALUATIONS})
        importlib.import_module(modules[name])
    return EVALUATIONS[name]


def every() -> list[Evaluation]:
    """All of them, shipped ones first."""
    return [find(name) for name in {**shipped(), **EVALUATIONS}]
