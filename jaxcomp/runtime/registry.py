"""Registries: tables of the values that a config field can name, extensible from outside."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from jaxcomp.config import ConfigError, suggestion

Row = TypeVar("Row")
Named = TypeVar("Named")  # a class or a function


class Registry(dict[str, Row]):
    """Rows by name; `field` is what names them. An unknown name raises ConfigError."""

    def __init__(self, field: str):
        super().__init__()
        self.field = field

    def add(self, name: str, row: Row) -> Row:
        """Raises ValueError where the name is taken."""
        if name in self:
            raise ValueError(f"{self.field} {name!r} is registered already: choose another name")
        self[name] = row
        return row

    def declare(self, name: str, row: Callable[[Named], Row]) -> Callable[[Named], Named]:
        """A decorator that adds `row` of what it decorates. Raises ValueError as `add` does."""

        def register(named: Named) -> Named:
            self.add(name, row(named))
            return named

        return register

    def __missing__(self, name: object) -> NoReturn:
        raise unknown(self.field, name, self)


def unknown(field: str, name: object, known: Iterable[str]) -> ConfigError:
    hint = suggestion(str(name), known)
    return ConfigError(f"{field} = {name!r}: expected one of {', '.join(known)}{hint}")


def implementation(named: Any) -> Any:
    """What a row's "module:Name" means; anything else is itself. So shipped rows can name what
    imports JAX, and commands that compute nothing start at once."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
