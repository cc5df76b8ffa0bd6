"""The one reader of JSON: what cannot be used safely is refused in one sentence.

Python's own parser lets four things pass, or fail in ways of their own, that break a program later:
nesting that exhausts the stack, integers of thousands of digits, half a surrogate pair (a string
that cannot be written as UTF-8), and a value of another shape than the reader expects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 300  # of an integer: more than any float can hold
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHAPES = {dict: "an object {...}", list: "a list [...]", str: "text", int: "an integer"}


class JsonError(ValueError):
    """Text is not JSON, or not of the expected shape; the message names the file or row."""


def parse(text: str | bytes, what: str, shape: type = object) -> Any:
    """Return the value of JSON `text`.

    Args:
        text: the JSON; bytes are read as UTF-8.
        what: names the file or row in an error.
        shape: `dict` or `list` where the top level must be one; `object` for any value.

    Raises:
        JsonError: not JSON, nested deeper than `MAX_DEPTH`, an integer of more than `MAX_DIGITS`
            digits, half a surrogate pair in a string, or another shape.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise JsonError(
            f"{what}: not UTF-8 at byte {error.start}; expected JSON in UTF-8"
        ) from None
    except JsonError as error:
        raise JsonError(f"{what}: {error}") from None
    except ValueError as error:
        raise JsonError(f"{what}: not JSON ({error})") from None
    except RecursionError:
        raise _too_deep(what) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise _too_deep(what)
    if _SURROGATE.search(text) and any(map(_is_half, _strings(value))):
        raise JsonError(
            f"{what}: a string holds half a surrogate pair (\\ud800 to \\udfff alone), which is no "
            "character; expected whole characters"
        )
    if not isinstance(value, shape):
        raise JsonError(
            f"{what}: holds {_shape_of(value)}, expected {_SHAPES.get(shape, shape.__name__)}"
        )
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


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonError(f"an integer of {len(digits)} digits; expected at most {MAX_DIGITS}")
    return int(digits)


def _too_deep(what: str) -> JsonError:
    return JsonError(f"{what}: nested too deep; expected at most {MAX_DEPTH} levels")


def _deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [x for one in level for x in _children(one)]
    return any(isinstance(one, dict | list) for one in level)


def _strings(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from one
        todo += _children(one)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _is_half(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _shape_of(value: Any) -> str:
    return _SHAPES.get(type(value), json.dumps(value)[:40])
