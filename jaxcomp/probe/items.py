"""Items of a probe of knowledge conflicts: a passage in which an answer was replaced, a question
for it, and the two answers. They are for evaluation only; nothing here keeps their texts."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import config_hash
from jaxcomp.data.sources import decode

SUFFIXES = (".jsonl", ".jsonl.gz")


class ProbeError(ValueError):
    """A probe cannot be run; the message names file and place, what was expected and the mend."""


class Item(NamedTuple):
    """`context` says `context_answer` where the world says `prior_answer`."""

    id: str
    question: str
    context: str
    context_answer: str
    prior_answer: str


def read(path: Path, limit: int | None = None) -> list[Item]:
    """The first `limit` items (None: all) of a .jsonl[.gz] file, one object a line, in its order.

    Other fields are ignored; an id may be a number. Raises ProbeError for a file that is not
    there, not whole, empty or of another kind, a field that is missing, blank or not text, an id
    that was there before, a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ProbeError(f"limit is {limit}; expected at least 1 (leave --limit out for all items)")
    items: list[Item] = []
    lines: dict[str, int] = {}
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(decode(path, _bytes(path)).split("\n"), 1):
        if not line.strip():
            continue
        item = _item(line, f"{path}: line {number}")
        if item.id in lines:
            raise ProbeError(
                f"{path}: line {number}: id {item.id!r} is that of line {lines[item.id]} too; "
                "expected every item once, with an id of its own"
            )
        lines[item.id] = number
        items.append(item)
        if len(items) == limit:
            break
    if not items:
        raise ProbeError(
            f"{path}: empty; expected items, one object a line with {', '.join(Item._fields)}"
        )
    return items


def fingerprint(items: Sequence[Item]) -> str:
    """Twelve hex digits that name these items in this order."""
    return config_hash([list(item) for item in items])


def _bytes(path: Path) -> bytes:
    if not path.name.endswith(SUFFIXES):
        raise ProbeError(f"{path}: unsupported kind; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ProbeError(f"{path}: no such file; expected one item a line, as JSON")
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ProbeError(f"{path}: cannot be read ({error}); is it complete?") from error


def _item(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ProbeError(f"{where}: not JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise ProbeError(f"{where}: a {type(row).__name__}; expected an object")
    return Item(*(_field(row, name, where) for name in Item._fields))


def _field(row: dict[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise ProbeError(
            f"{where}: no field {name!r}; found {', '.join(map(str, row)) or 'none'}; expected "
            f"{', '.join(Item._fields)}"
        )
    value = row[name]
    if name == "id" and type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise ProbeError(f"{where}: field {name!r} is {type(value).__name__}; expected text")
    if not value.strip():
        raise ProbeError(f"{where}: field {name!r} is blank; expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProbeError(
            f"{where}: field {name!r} holds a lone surrogate at character {error.start}; expected "
            "valid Unicode"
        ) from error
    return value
