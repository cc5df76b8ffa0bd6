"""Documents: texts with their work and source."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxcomp.data.sources import Document

WORK_FIELDS = ("work", "book", "title")
MANY_SOURCES = 20  # from so many on, whole sources are held out


class DataError(ValueError):
    """The data cannot be used; the message names file, place, what was expected and the fix."""


class Documents:
    """Random access to documents; a view of some `rows` of the columns, which are sequences of str
    or of Arrow's strings (in memory, or in a mapped file).

    `fingerprint` identifies the data (not the view). `ids`, `sources`, `works` may be None, where
    the data does not say. `names_are_places`: the ids are the rows' places, because the data's own
    do not identify them. `quick` is False where an access to a text is a read.
    """

    def __init__(
        self,
        texts: Any,
        ids: Any,
        sources: Any,
        works: Any,
        fingerprint: str,
        *,
        quick: bool = True,
        names_are_places: bool = False,
    ):
        self.texts, self.ids, self.sources, self.works = texts, ids, sources, works
        self.fingerprint, self.quick = fingerprint, quick
        self.names_are_places = names_are_places
        self.rows = np.arange(len(texts))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Document:
        row = int(self.rows[i])
        columns = (self.ids, self.sources, self.works)
        name, source, work = ("" if c is None else str_at(c, row) for c in columns)
        return Document(name or str(row), source, work, str_at(self.texts, row))

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


def str_at(column: Any, row: int) -> str:
    value = column[row]
    return value if isinstance(value, str) else value.as_py()


def collected(documents: Iterable[Document], where: str) -> Documents:
    """All of these documents, in memory, identified by their content. Raises DataError where there
    is none with a text."""
    columns, content = [[], [], [], []], hashlib.sha256()
    for document in documents:
        if document.text.strip():
            for column, value in zip(columns, document, strict=True):
                column.append(value)
                content.update(f"{len(value)}:{value}".encode())
    import pyarrow as pa  # takes long, and the world needs none

    ids, sources, works, texts = columns
    if not texts:
        raise DataError(f"{where}: no document with a text")
    arrow = pa.chunked_array([pa.array(texts, pa.large_string())])
    return Documents(arrow, ids, sources, works, content.hexdigest()[:16])


def no_field(
    file: Any, place: str, field: str, found: Iterable[Any], fix: str = "set data.text_field"
) -> DataError:
    return DataError(
        f"{file}: {place}: no field {field!r}; found {', '.join(map(str, found)) or 'none'}; {fix}"
    )


def word(value: Any) -> str:
    return "" if value is None else str(value)


def work_of(row: Mapping[str, Any]) -> str:
    """The work that a row of a file names; "" where it names none."""
    return next((word(row[name]) for name in WORK_FIELDS if row.get(name)), "")
