"""Documents: texts with the work and the source that each is from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


WORK_FIELDS = ("work", "book", "title")


MANY_SOURCES = 20  # from so many on, whole sources are held out


class DataError(ValueError):
    """The data cannot be used; the message names file, place, what was expected and the mend."""


class Document(NamedTuple):
    id: str
    source: str  # "" where the data does not say
    work: str  # "" where the data does not say
    text: str


class About(NamedTuple):
    """What a row says of its text."""

    id: str | None
    place: str  # the row's file and its own number there
    source: str
    work: str


class Documents:
    """Random access to documents; a view of some `rows` of the columns.

    `fingerprint` identifies the data (not the view). `in_memory` is False where every text access
    is a read. `names_are_places`: the ids are the rows' places, because the data's own do not
    identify them. `former`: ids, sources and works as versions before this rule read them, where
    they read others (`splits.split_rows`).
    """

    def __init__(
        self,
        texts: Sequence[Any],
        ids: Sequence[str] | None,
        sources: Sequence[str] | None,
        works: Sequence[str] | None,
        fingerprint: str,
        *,
        in_memory: bool = True,
        names_are_places: bool = False,
        former: Columns | None = None,
    ):
        self.columns = (texts, ids, sources, works)
        self.fingerprint = fingerprint
        self.in_memory = in_memory
        self.names_are_places, self.former = names_are_places, former
        self.rows = np.arange(len(texts))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Document:
        row = int(self.rows[i])
        texts, ids, sources, works = self.columns
        text = texts[row]
        return Document(
            ids[row] if ids else str(row),
            sources[row] if sources else "",
            works[row] if works else "",
            text if isinstance(text, str) else text.as_py(),
        )

    def __iter__(self) -> Iterator[Document]:
        return (self[i] for i in range(len(self)))

    def view(self, rows: np.ndarray) -> Documents:
        """The same data, only these rows (row numbers of the data, not of this view)."""
        found = copy.copy(self)
        found.rows = np.asarray(rows)
        return found

    def part(self, start: int, stop: int) -> Documents:
        """Documents start:stop of this view, as a view."""
        return self.view(self.rows[start:stop])


def about(row: dict[str, Any], place: str) -> About:
    """What the fields of a row say of its text."""
    work = next((word(row[k]) for k in WORK_FIELDS if row.get(k)), "")
    given = row.get("id")
    return About(None if given is None else str(given), place, word(row.get("source")), work)


def described(
    path: str, texts: Sequence[Any], found: list[About], known: str, former: Columns
) -> Documents:
    """Documents with the ids that their rows give, or, where these do not identify them, with
    their places. Ids do where each is another one, or where they name many groups of rows."""
    ids, given = [a.id for a in found], {a.id for a in found} - {None}
    whole = None not in ids and (len(given) == len(ids) or len(given) >= MANY_SOURCES)
    if given and not whole:
        logging.getLogger(__name__).warning(
            "%s: the field 'id' does not identify the documents (%d different ids in %d documents, "
            "%d without one) and is not used; they are known by file and row",
            path, len(given), len(ids), ids.count(None),
        )  # fmt: skip
    return Documents(
        texts,
        [a.id or "" for a in found] if whole else [a.place for a in found],
        [a.source for a in found],
        [a.work for a in found],
        known,
        names_are_places=not whole,
        former=former,
    )


def no_field(file, place: str, field: str, found) -> DataError:
    return DataError(
        f"{file}: {place}: no field {field!r}; found {', '.join(map(str, found)) or 'none'}; "
        "set data.text_field"
    )


def word(value: Any) -> str:
    return "" if value is None else str(value)


Columns = tuple[Sequence[str] | None, Sequence[str] | None, Sequence[str] | None]
