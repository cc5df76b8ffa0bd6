"""Read plain values into the dataclasses of `jaxcomp.config`, with one-sentence errors.

pydantic checks types, bounds and choices; errors name the field by its dotted name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Mapping
from typing import Any

from jaxcomp.config import Config, ConfigError, suggestion


def from_dict(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Build a Config; missing fields keep their defaults. Raises ConfigError as `read` does."""
    return read(Config, tree, where)


def read(kind: Any, value: Any, where: str, key: str = "") -> Any:
    """`value`, such as a tree of plain values, as the type `kind` of the field `key`.

    Raises ConfigError, begun by `where`, that names the first unknown field or wrong value.
    """
    from pydantic import ValidationError  # takes longer to load than --help may

    try:
        return _reader(kind).validate_python((value,))[0]
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
    # Without places in a list, and marks such as "[key]".
    path = [at for at in found["loc"] if isinstance(at, str) and at[:1] != "["]
    name, value = ".".join(filter(None, [key, *path])), found["input"]
    if found["type"] == "unexpected_keyword_argument":
        raise unknown_field(_group(kind, path[:-1]), name, where)
    expected = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if found["type"].startswith(("greater_than", "less_than")):
        expected = expected.replace("expected", "expected a number")
    if found["type"] == "literal_error":
        expected += suggestion(value, re.findall("'(.*?)'", expected))
    raise ConfigError(f"{where}: {name} = {_shown(value)}: {expected}")


@functools.cache
def _reader(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    rules = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
    # A tuple of one, for a dataclass itself takes no rules.
    of_one: Any = tuple[kind]  # pyright: ignore[reportInvalidTypeForm]
    return TypeAdapter(of_one, config=rules)


def _group(kind: Any, path: list[str]) -> Any:
    """The dataclass at `path` below the type `kind`."""
    for name in path:
        kind = optional(kind) or kind
        known = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = known[name] if known else typing.get_args(kind)[1]
    return optional(kind) or kind


def _shown(value: Any) -> str:
    # Python refuses to print an integer of thousands of digits.
    huge = isinstance(value, int) and abs(value) >= 10**30
    text = "a huge integer" if huge else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    args = typing.get_args(kind)
    return args[0] if args[1:] == (type(None),) else None


def fields(kind: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted field below `kind`; dict entries are left out."""
    out = []
    for name, hint in typing.get_type_hints(kind).items():
        inner = optional(hint) or hint
        if dataclasses.is_dataclass(inner):
            out += fields(inner, f"{prefix}{name}.")
        else:
            out.append(prefix + name)
    return out


def unknown_field(kind: Any, key: str, where: str, prefix: str | None = None) -> ConfigError:
    """The nearest field: first inside the group, then anywhere by its last name, then by path."""
    prefix = key.rpartition(".")[0] if prefix is None else prefix.rstrip(".")
    dot = f"{prefix}." if prefix else ""
    name, _, rest = key[len(dot) :].partition(".")
    tail = f".{rest}" if rest else ""
    inside = list(typing.get_type_hints(kind))
    near = [dot + n + tail for n in difflib.get_close_matches(name, inside, n=1)]
    leaf = key.rpartition(".")[2]
    near = near or [f for f in fields() if f.rpartition(".")[2] == leaf][:3]
    near = near or difflib.get_close_matches(key, fields(), n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known here: {', '.join(inside)}"
    return ConfigError(f"{where}: no field {key}{hint}")
