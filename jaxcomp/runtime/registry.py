"""Registries: tables of what a field of the config can name, which code outside can extend."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from jaxcomp.config import ConfigError, suggestion

Row = TypeVar("Row")


class Registry(Mapping[str, Row]):
    """Rows by name, in the order in which they were registered; `field` is what names them."""

    def __init__(self, field: str):
        self.field, self._rows = field, dict[str, Row]()

    def add(self, name: str, row: Row) -> Row:
        """Raises ValueError where the name is taken."""
        if name in self._rows:
            raise ValueError(f"{self.field} {name!r} is registered already: choose another name")
        self._rows[name] = row
        return row

    def remove(self, name: str) -> None:
        del self._rows[name]

    def __getitem__(self, name: str) -> Row:
        """Raises ConfigError that lists the known names."""
        if name not in self._rows:
            raise unknown(self.field, name, self._rows)
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def unknown(field: str, name: object, known: Any) -> ConfigError:
    hint = suggestion(name, known)
    return ConfigError(f"{field} = {name!r}: expected one of {', '.join(known)}{hint}")


def implementation(named: Any) -> Any:
    """What a row's "module:Name" means; anything else is itself. Shipped rows name what imports
    JAX, so that commands that compute nothing start at once."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
