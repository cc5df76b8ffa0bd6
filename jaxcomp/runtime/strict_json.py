"""Parse JSON strictly, with one-sentence errors.

Python's own parser lets pass, or fails in its own way on, what breaks a program later: nesting that
exhausts the stack, huge integers, half a surrogate pair (which cannot be written as UTF-8), and a
value of another shape than the reader expects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 300  # of an integer: more than any float can hold
_SHAPES = {dict: "an object {...}", list: "a list [...]", str: "text", int: "an integer"}


class JsonError(ValueError):
    """Text is not JSON, or not of the expected shape; the message names the file or row."""


def parse(text: str | bytes, what: str, shape: type = object) -> Any:
    """Return the value of JSON `text`; bytes are read as UTF-8.

    `what` names the file or row in an error; `shape` is `dict` or `list` where the top level must
    be one. Raises JsonError.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, parse_int=_integer)
        if text.count("[") + text.count("{") > MAX_DEPTH or "\\ud" in text.lower():
            _check(value, MAX_DEPTH)
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start}; expected JSON in UTF-8"
        raise JsonError(f"{what}: {why}") from None
    except RecursionError:
        raise JsonError(f"{what}: {_DEEP}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"{what}: not JSON ({error})") from None
    except JsonError as error:
        raise JsonError(f"{what}: {error}") from None
    if not isinstance(value, shape):
        found = _SHAPES.get(type(value), json.dumps(value)[:40])
        raise JsonError(f"{what}: holds {found}, expected {_SHAPES.get(shape, shape.__name__)}")
    return value


def read(
    path: Path, shape: type = object, error: type[Exception] = JsonError, fix: str = ""
) -> Any:
    """Return the value of a JSON file. Raises OSError, and `error` where `parse` raises JsonError;
    `fix` says what to do then."""
    try:
        return parse(path.read_bytes(), str(path), shape)
    except JsonError as found:
        raise error(f"{found}; {fix}" if fix else str(found)) from found


_DEEP = f"nested too deep; expected at most {MAX_DEPTH} levels"
_HALF = "a string holds half a surrogate pair (\\ud800 to \\udfff alone); expected whole characters"


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonError(f"an integer of {len(digits)} digits; expected at most {MAX_DIGITS}")
    return int(digits)


def _check(value: Any, levels: int) -> None:
    """Raises JsonError for half a surrogate pair, and for more than `levels` of nesting."""
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise JsonError(_HALF)
    elif isinstance(value, dict | list):
        if not levels:
            raise JsonError(_DEEP)
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(one, levels - 1)
