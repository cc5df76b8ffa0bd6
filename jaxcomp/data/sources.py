"""The data sources by name (`data.source`), and what other packages need to know of each.

A source of your own is a function that gives documents, under `@source` (docs/how-to/extend.md).
This module imports neither JAX nor a tokenizer, so that a config is checked at once.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jaxcomp.config import Config, ConfigError, DataConfig, parse_arg
from jaxcomp.data import facts, people
from jaxcomp.data.draw import FactWorld
from jaxcomp.runtime.fields import read
from jaxcomp.runtime.files import digest, is_file, matching, size_of
from jaxcomp.runtime.registry import Registry, implementation

WORLD_SETS = ("ordinary", "counterfactual")  # held-out sets of the controlled world
ERASED = "erased"  # of the people world, beside those: a fact's value is left out
TEXT_SET = "test"  # of a real text


class Document(NamedTuple):
    """A text, and where it is from. Documents of one work stay in one split."""

    id: str
    source: str  # "" where the data does not say
    work: str  # "" where the data does not say
    text: str


class Question(NamedTuple):
    question: str
    answer: str


class Source(NamedTuple):
    """A row of the registry.

    `documents(data, options)` gives the documents: `Document`s, or a `documents.Documents`, which
    need not fit in memory. `questions(data, options)` gives the questions about each document by
    its id. Either may be "module:name". The world has another `corpus`, which draws passages.
    """

    documents: Callable[..., Iterable[Document]] | str | None = None
    options: type | None = None  # a dataclass: what `data.options` may set
    check: Callable[[DataConfig], None] | None = None  # raises ConfigError, before any work
    questions: Callable[..., Mapping[str, Sequence[Question]]] | str | None = None
    whole: bool = False  # a document is one example, never cut into several
    title: Callable[[DataConfig], str] | None = None  # the data in error messages
    corpus: str = "jaxcomp.data.corpus:DocumentCorpus"
    sets: tuple[str, ...] = ("train", "val", "test")
    # the held-out sets of evaluation; the last one is read by evaluations of a single set
    measured: tuple[str, ...] = (TEXT_SET,)
    facts: bool = False  # every fact of a passage and its prior are known, by its `world`
    world: str = "jaxcomp.data.world:World"  # a `draw.FactWorld`
    kinds: tuple[str, ...] = ()  # of its facts
    groups: tuple[str, ...] = ()  # of facts that metrics also count together


SOURCES: Registry[Source] = Registry("data.source")
Given = TypeVar("Given", bound=Callable[..., Any])


def source(name: str, **fields: Any) -> Callable[[Given], Given]:
    """Register a function that yields documents as a data source.

    The function takes (`DataConfig`, options) and yields documents, the same ones in the same order
    every time.

    Args:
        name: value of `data.source`.
        **fields: further fields of `Source`, such as `options`, a dataclass.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> from jaxcomp.data.sources import Document
        >>> one = jaxcomp.source("one")(lambda data, _: [Document("0", "", "", "The goat ran.")])
    """
    return SOURCES.declare(name, lambda documents: Source(documents, **fields))


def source_of(cfg: Config) -> Source:
    """The row that `data.source` names. Raises ConfigError."""
    return SOURCES[cfg.data.source]


def world_config(cfg: Config) -> Any:
    """The config of the source's world (of real text, which has none, that of the controlled one:
    it names models made before there were others)."""
    return getattr(cfg, implementation(source_of(cfg).world).section)


def with_world(cfg: Config, config: Any) -> Config:
    """`cfg` with another `world_config`."""
    return dataclasses.replace(cfg, **{implementation(source_of(cfg).world).section: config})


def world_of(cfg: Config) -> FactWorld | None:
    """What knows the facts of the source's passages; None for real text."""
    return _world(source_of(cfg).world, world_config(cfg)) if source_of(cfg).facts else None


@functools.lru_cache(maxsize=8)
def _world(named: str, config: Any) -> FactWorld:
    return implementation(named)(config)


def has_questions(row: Source) -> bool:
    return row.facts or row.questions is not None


def options_of(data: DataConfig) -> Any:
    """`data.options` ("name=value,name=value") as the source's dataclass; None where it has none.

    Raises ConfigError for an unknown name or a value of another type.
    """
    kind = SOURCES[data.source].options
    if kind is None:
        if data.options:
            raise ConfigError(
                f"data.options = {data.options!r}: data.source = {data.source!r} has no options"
            )
        return None
    defaults = dataclasses.asdict(kind())
    try:
        return read(kind, vars(parse_arg(data.options, **defaults)), "config", "data.options")
    except ConfigError as error:
        raise ConfigError(f"data.options = {data.options!r}: {error}") from error


def documents_by(data: DataConfig) -> Any:
    """What the source's function gives: `Document`s or `documents.Documents`."""
    return implementation(SOURCES[data.source].documents)(data, options_of(data))


def questions_by(data: DataConfig) -> Mapping[str, Sequence[Question]]:
    """The source's questions by the id of their document."""
    return implementation(SOURCES[data.source].questions)(data, options_of(data))


def title_of(data: DataConfig) -> str:
    """The data's name in messages."""
    title = SOURCES[data.source].title
    return title(data) if title else data.path or f"data.source = {data.source!r}"


def check_source(data: DataConfig) -> None:
    """Raises ConfigError where the source cannot work; reads no text."""
    row = SOURCES[data.source]
    options_of(data)
    if row.check:
        row.check(data)


def contents(data: DataConfig) -> list[str]:
    """What `data.path` names: its files by name, size and content, a folder by its name."""
    return [fingerprint(p) for p in matching(data.path) or filter(None, [data.path])]


def fingerprint(path: str) -> str:
    """`files.digest` of a file; the name alone of what is none."""
    path = os.path.expanduser(path)
    return digest(path) if is_file(path) else os.path.basename(path.rstrip("/"))


# The shipped sources


def _files(kinds: str) -> Callable[[DataConfig], None]:
    """Check that `data.path` names files with content; `kinds` says which were expected."""

    def check(data: DataConfig) -> None:
        if not data.path:
            raise ConfigError(
                f"data.path is empty with data.source = {data.source!r}: give a {kinds} file, or a "
                "glob, with --data.path=FILE"
            )
        found = matching(data.path)
        if not found:
            raise ConfigError(
                f"data.path = {data.path!r}: no such file; expected a {kinds} file, or a glob that "
                "matches some"
            )
        if not any(size_of(p) for p in found):
            raise ConfigError(f"data.path = {data.path!r}: empty; expected text to train on")

    return check


def _named(data: DataConfig) -> None:
    if not data.tfds_name:
        raise ConfigError(
            "data.tfds_name is empty with data.source = 'tfds': name a prepared data set with "
            "--data.tfds_name=NAME and its folder with --data.path=DIR"
        )


SOURCES.add(
    "world",
    Source(
        corpus="jaxcomp.data.world_corpus:WorldCorpus",
        sets=("train", "val", *WORLD_SETS),
        measured=WORLD_SETS,
        facts=True,
        kinds=facts.KINDS,
    ),
)
SOURCES.add(
    "people",
    Source(
        corpus="jaxcomp.data.world_corpus:WorldCorpus",
        sets=("train", "val", *WORLD_SETS, ERASED),
        measured=(ERASED, *WORLD_SETS),
        facts=True,
        world="jaxcomp.data.people:People",
        kinds=people.KINDS,
        groups=people.GROUPS,
    ),
)
SOURCES.add(
    "text",
    Source("jaxcomp.data.loading:load", check=_files(".jsonl[.gz], .parquet or .txt")),
)
SOURCES.add(
    "tfds",
    Source("jaxcomp.data.tfds:load", check=_named, title=lambda data: f"tfds {data.tfds_name!r}"),
)
SOURCES.add(
    "qa",
    Source(
        "jaxcomp.data.qa:contexts",
        check=_files(".jsonl[.gz] or .parquet"),
        questions="jaxcomp.data.qa:about",
        whole=True,
    ),
)
