"""What every part of jaxcomp asks of an exception."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that caused it or were handled when it was raised, each once.

    The links may form a ring: a clean-up in a `finally` can raise an exception again that the one
    on its way was made from.
    """
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__context__, one.__cause__]


class StorageError(RuntimeError):
    """A bucket or file cannot be used; the message names it, a bucket's account where that is
    known, and the remedy."""
