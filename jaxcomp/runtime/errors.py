"""Helpers for exceptions."""

from __future__ import annotations

from collections.abc import Iterator


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that caused it or were handled when it was raised, each once: a
    clean-up in a `finally` can link them into a ring."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__context__, one.__cause__]


class StorageError(RuntimeError):
    """A bucket or file cannot be used; the message names it and the fix."""
