"""Rows of a .jsonl[.gz] file and their fields, or one clear error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.data import readers
from jaxcomp.data.documents import DataError
from jaxcomp.evals.qa.items import EvalError

SUFFIXES = (".jsonl", ".jsonl.gz")


def rows(path: Path, expected: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the object) of every line that is not blank, each with the fields
    `expected`. Raises EvalError for a file that is not there, not whole, of another kind or
    without a row, and a line that is no object or lacks one of the fields."""
    empty = True
    for place, row in objects(path):
        where = f"{path}: {place}"
        needs(row, expected, where)
        empty = False
        yield where, row
    if empty:
        raise EvalError(f"{path}: empty; expected one object a line")


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("line 3", the object there) of every line that is not blank; raises as `rows`, but for a
    missing field and for a file without a row."""
    if not path.name.endswith(SUFFIXES):
        raise EvalError(f"{path}: unsupported kind; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise EvalError(f"{path}: no such file; expected one object a line, as JSON")
    try:
        for number, row in readers.rows(path):
            yield readers.place_of(path, number), row
    except DataError as error:
        raise EvalError(str(error)) from error


def needs(row: dict[str, Any], expected: Sequence[str], where: str) -> None:
    """Raises EvalError where one of the fields is missing."""
    for name in expected:
        if name not in row:
            raise EvalError(
                f"{where}: no field {name!r}; found {', '.join(map(str, row)) or 'none'}; expected "
                f"{', '.join(expected)}: is it a file of another kind?"
            )


def text_of(row: dict[str, Any], name: str, where: str) -> str:
    """A field's text; an id may be a number. Raises EvalError where it is blank or no text."""
    value = row[name]
    if name.endswith("id") and type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise EvalError(f"{where}: field {name!r} is {type(value).__name__}; expected text")
    return whole(value, name, where)


def whole(value: str, name: str, where: str) -> str:
    """The text itself. Raises EvalError where it is blank."""
    if not value.strip():
        raise EvalError(f"{where}: field {name!r} is blank; expected text")
    return value


def check_limit(limit: int | None) -> None:
    """Raises EvalError for a limit below 1."""
    if limit is not None and limit < 1:
        raise EvalError(f"limit is {limit}; expected at least 1 (leave --limit out for all)")
