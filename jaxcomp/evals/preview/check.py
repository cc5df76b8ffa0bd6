"""The registry of checks: each perturbs part of a `Preview` and tests what changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """What was found, in a sentence. `ok` is None where there is nothing to measure yet."""

    ok: bool | None
    found: str


class Check(NamedTuple):
    """`run`'s docstring names the bug; `fix` says where to look for it."""

    name: str
    expected: str
    fix: str
    run: Callable[[Any], Finding]

    def __call__(self, p: Any) -> Finding:
        return self.run(p)


def check(name: str, expected: str, fix: str) -> Callable[[Callable[[Any], Finding]], Check]:
    """A decorator that makes a check of a function of a `Preview`."""
    return partial(Check, name, expected, fix)
