"""The registry of metrics: a function and a declaration of name, unit and definition.

A metric has one place, the file that computes it (docs/how-to/add-a-metric.md). Its name is its
column in results.csv, with placeholders for the held-out set and for kinds. Tables, plots,
intervals, the metrics page and the check that nothing undeclared is returned read the declaration.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcomp.config import Config
from jaxcomp.data.sources import ERASED, SOURCES, TEXT_SET, WORLD_SETS, source_of

Value = float | int | None
Values = dict[str, Value]
Record = dict[str, Any]  # of one passage: a line of passages.jsonl
Sums = tuple[float, float]  # numerator and denominator that one passage gives

COUNTED, TEACHER_FORCED, FREE_RUNNING, SAMPLED = "–", "TF", "FR", "sampled"  # how the decoder runs
HIGHER, LOWER = "higher", "lower"  # is better
POOLED, PASSAGES = "ratio of sums", "mean over passages"
EDITS = "edits"  # the set of edited passages of a real text
WITHOUT = "no_memory"  # <set>/no_memory/<metric>: of the decoder without memory

# Parts of columns that were named otherwise before December 2026, then and now.
FORMER = {
    "floor": WITHOUT,
    "slots": "facts",
    "kept": "preserved",
    "lost": "omitted",
    "other": "substituted",
    "told_apart": "pair_accuracy",
}

# Roles of headlines. By these the verdict and comparisons find a metric, whatever its name.
LOSS, PRIMARY, OVERWRITING, DRIFT = "loss", "primary endpoint", "overwriting", "drift"
PULL = "pull of the prior"  # overwriting, whatever the number of facts that are rebuilt at all
PREDICTOR = "predictor"  # of fidelity, among models of one size
FIDELITY = (PRIMARY, OVERWRITING, DRIFT)


def _each(field: str) -> tuple[str, ...]:
    """What the shipped sources list under `field`, each once."""
    return tuple(dict.fromkeys(name for row in SOURCES.values() for name in getattr(row, field)))


_DIMENSIONS = ("topic", "relation", "role", "modifier", "polarity", "quantity", "order", "all")
PLACEHOLDERS = {
    "set": (*WORLD_SETS, ERASED, TEXT_SET),
    "world": (*WORLD_SETS, ERASED),
    "kind": ("all", *_each("kinds"), *_each("groups")),
    "group": ("all", *_each("groups")),
    "edit": ("all", "number", "name", "negation", "role"),
    "dimension": _DIMENSIONS,
    "i": tuple(str(i) for i in range(1, 9)),
}


class Headline(NamedTuple):
    """A column that tables and plots show: its short name and its definition in a line."""

    metric: str
    label: str
    meaning: str
    role: str = ""
    better: str = ""
    bound: str = ""  # the column that holds the largest value there can be
    unit: str = ""


class Show(NamedTuple):
    """Makes headlines of a metric's columns of some held-out sets, over all kinds, of one group of
    facts. They stand in the order of `place`."""

    label: str
    place: int
    role: str = ""
    meaning: str = ""  # where it says more than the metric's definition
    sets: tuple[str, ...] = ("ordinary", TEXT_SET)
    group: str = "all"


@dataclasses.dataclass(frozen=True)
class Metric:
    """The declaration of a column, or of several that differ in a placeholder.

    `sums` gives what one passage's record adds to numerator and denominator of a column (its name
    without the set): with it a metric that is a sum over a sum has an interval over passages.
    """

    name: str
    unit: str
    definition: str
    run: str = COUNTED
    average: str = "–"
    better: str = ""
    bound: str = ""
    shown: tuple[Show, ...] = ()
    sums: Callable[[Record, str], Sums | None] | None = None

    def columns(self, **only: Sequence[str]) -> list[str]:
        """All names, placeholders written out; `only`: other values of some of them."""
        keys, values = re.findall("<([a-z]+)>", self.name), PLACEHOLDERS | only
        every = itertools.product(*(values[key] for key in keys))
        return [_filled(self.name, dict(zip(keys, values, strict=True))) for values in every]

    def shows(self) -> dict[str, Show]:
        """What makes a headline of a column, by column."""
        return {
            _filled(self.name, {"set": s, "world": s, "group": x.group}): x
            for x in self.shown
            for s in x.sets
        }


def share(name: str, definition: str, better: str = "", **more: Any) -> Metric:
    """A share of what was rebuilt free-running, as a ratio of sums."""
    return Metric(name, "share", definition, FREE_RUNNING, POOLED, better, **more)


def forced(name: str, unit: str, definition: str, better: str = "", **more: Any) -> Metric:
    """Of teacher-forced tokens, as a ratio of sums."""
    return Metric(name, unit, definition, TEACHER_FORCED, POOLED, better, **more)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A function and the metrics that it returns. `without`: those, by their names without the
    set, that are measured of the decoder without memory too."""

    module: str  # that declares it
    function: Callable[[Any], Any] | None  # None: it is measured elsewhere
    metrics: tuple[Metric, ...]
    without: tuple[str, ...] = ()
    applies: Callable[[Config], bool] = lambda cfg: True

    def of(self, name: str, eval_set: Any, kinds: Sequence[str] = PLACEHOLDERS["kind"]) -> Values:
        """The values of the set `name`, by column; `kinds` are those of its facts, and groups.

        Raises:
          ValueError: a metric that was not declared, or a declared one is missing.
        """
        if self.function is None:
            return {}
        out = {f"{name}/{key}": value for key, value in self.function(eval_set).items()}
        missing = self.columns(name, kind=kinds) ^ out.keys()
        if missing:
            raise ValueError(
                f"{self.module} declares and returns different metrics of {name}: "
                f"{', '.join(sorted(missing))}"
            )
        if self.without:
            bare = self.function(eval_set.without_memory())
            out |= {f"{name}/{WITHOUT}/{key}": bare[key] for key in self.without}
        return out

    def columns(self, name: str, **only: Sequence[str]) -> set[str]:
        """Those of the set `name`; `only` as of `Metric.columns`."""
        return {c for m in self.metrics for c in m.columns(**only) if c.startswith(f"{name}/")}


_COLUMNS: dict[str, tuple[Measure, Metric]] = {}


def metrics(
    *declared: Metric,
    without: Sequence[str] = (),
    applies: Callable[[Config], bool] = lambda cfg: True,
):
    """Register a function of a held-out set that returns the values of `declared`, by their names
    without the set. `applies`: of which configs it is measured."""

    def register(function: Callable[[Any], Values]) -> Callable[[Any], Values]:
        _add(Measure(function.__module__, function, declared, tuple(without), applies))
        return function

    return register


def metric(name: str, unit: str, definition: str, *, without: bool = False, **more: Any):
    """Register a function of an `EvalSet` that returns the value of one metric.

    Args:
        name: column, such as "<set>/length_ratio"; `<set>` stands for every held-out set.
        unit: of the value.
        definition: one line with the formula.
        without: whether to measure the no-memory baseline too.
        **more: further fields of `Metric`, such as `better` and `shown`.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: another file declares the column.

    Example:
        >>> texts = jaxcomp.metric("<set>/texts", "count", "texts of the set")(
        ...     lambda eval_set: len(eval_set.rows)
        ... )
    """
    key = name.partition("/")[2]

    def register(function: Callable[[Any], Value]) -> Callable[[Any], Value]:
        one = Metric(name, unit, definition, **more)
        measure = (lambda eval_set: {key: function(eval_set)}), (one,), (key,) * without
        _add(Measure(function.__module__, *measure))
        return function

    return register


def declare(module: str, *declared: Metric) -> None:
    """Register metrics that no function of a held-out set measures; `module` declares them."""
    _add(Measure(module, None, declared))


def _add(measure: Measure) -> None:
    """Raises ValueError where a column has another file already."""
    found = {column: (measure, one) for one in measure.metrics for column in one.columns()}
    for column in found.keys() & _COLUMNS.keys():
        other = _COLUMNS[column][0].module
        if other != measure.module:
            raise ValueError(
                f"metric {column} is declared by {other} and by {measure.module}; expected a name "
                "of its own"
            )
    _COLUMNS.update(found)  # a file that is loaded again replaces its own declarations


def is_declared(column: str) -> bool:
    """Whether a metric, or its no-memory baseline, has this column."""
    return column in _COLUMNS or column.replace(f"/{WITHOUT}/", "/", 1) in _COLUMNS


def is_of_set(column: str) -> bool:
    """Whether a column is of a held-out set, and no other number of a job."""
    return column.partition("/")[0] in PLACEHOLDERS["set"]


def every() -> list[Measure]:
    """All that are registered."""
    return list({id(measure): measure for measure, _ in _COLUMNS.values()}.values())


def measured(cfg: Config, name: str, eval_set: Any) -> Values:
    """All metrics of the held-out set `name`, by column."""
    out: Values = {}
    row = source_of(cfg)
    for measure in every():
        if measure.applies(cfg) and measure.columns(name):
            out |= measure.of(name, eval_set, ("all", *row.kinds, *row.groups))
    return out


def sums(record: Record, column: str) -> Sums | None:
    """What a passage's record adds to a metric that is a sum over a sum: (numerator, denominator).
    None where it adds nothing, or the metric is no such sum."""
    of = _COLUMNS[column][1].sums if column in _COLUMNS else None
    return of(record, column.partition("/")[2]) if of else None


def counts_over(group: Iterable[str], *top: str) -> Callable[[Record, str], Sums | None]:
    """`sums` of counts that a record holds: those named `top` over those of `group`."""

    def of(record: Record, _: str) -> Sums | None:
        counts: Mapping[str, float] | None = record.get("counts")
        if counts is None:
            return None
        hits, every = (sum(counts.get(name, 0) for name in names) for names in (top, group))
        return hits, every

    return of


def renamed(column: str) -> str:
    """Today's name of a column that was named before December 2026; other names stay."""
    if column in _COLUMNS:
        return column
    return "/".join(FORMER.get(part, part) for part in column.split("/"))


def renamed_record(record: Record) -> Record:
    """A line of passages.jsonl with today's names of counts and of an edit's outcome."""
    out = dict(record)
    if "counts" in record:
        out["counts"] = {renamed(name): count for name, count in record["counts"].items()}
    if "outcome" in record:
        out["outcome"] = renamed(record["outcome"])
    return out


# --- headlines ---------------------------------------------------------------------------------


def headlines(cfg: Config) -> tuple[Headline, ...]:
    """The few of all metrics that tables and plots of this config show, in their order."""
    row = source_of(cfg)
    sets = row.measured if row.facts else (*row.measured, EDITS)
    found = [
        (show.place, headline(column))
        for measure in every()
        if measure.applies(cfg)
        for one in measure.metrics
        for column, show in one.shows().items()
        if column.partition("/")[0] in sets
    ]
    return tuple(head for _, head in sorted(found))


def headline(column: str) -> Headline:
    """A column as tables show it. Raises KeyError for one that no metric declares."""
    one = _COLUMNS[column][1]
    name, _, rest = column.partition("/")
    show = one.shows().get(column) or Show(rest, 0)
    bound = f"{name}/{one.bound}" if one.bound else ""
    meaning = show.meaning or one.definition
    return Headline(column, show.label, meaning, show.role, one.better, bound, one.unit)


def of_roles(cfg: Config, *roles: str) -> tuple[Headline, ...]:
    """The headlines of `cfg` with one of these roles."""
    return tuple(h for h in headlines(cfg) if h.role in roles)


def of_role(cfg: Config, role: str) -> Headline:
    """The one headline of `cfg` with this role."""
    (found,) = of_roles(cfg, role)
    return found


def endpoints(cfg: Config) -> tuple[Headline, Headline]:
    """The two metrics of the verdict: the loss, and the primary endpoint of fidelity."""
    return of_role(cfg, LOSS), of_role(cfg, PRIMARY)


def without_memory(column: str) -> str:
    """The column of the same metric of the decoder without memory."""
    name, _, rest = column.partition("/")
    return f"{name}/{WITHOUT}/{rest}"


def _filled(name: str, values: Mapping[str, str]) -> str:
    return re.sub("<([a-z]+)>", lambda key: values.get(key[1], "all"), name)
