"""Documents of text files: small files in memory, large ones as Arrow files in the cache.

An Arrow file is mapped, not read, so a million documents take no memory, and any of them is read at
once. It is written once a file, whole or not at all.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from jaxcomp.config import DataConfig
from jaxcomp.data.documents import (
    MANY_SOURCES,
    WORK_FIELDS,
    DataError,
    Documents,
    no_field,
    word,
    work_of,
)
from jaxcomp.data.readers import check_text_column, files_of, rows, suffix_of, texts_of
from jaxcomp.runtime import live
from jaxcomp.runtime.cache import cache_dir, damaged
from jaxcomp.runtime.files import digest, size_of

IN_MEMORY = 1 << 26  # bytes of files, as they are on disk, that are read into memory
# `given` is the row's own id, `place` its file and its number there.
_NAMES = ("given", "place", "source", "work")
SCHEMA = pa.schema([("text", pa.large_string()), *((name, pa.string()) for name in _NAMES)])
_ROWS = 1000  # of a batch of an Arrow file
_LAYOUT = 1  # of those files: another one after a change of this module


def load(data: DataConfig, options: Any = None) -> Documents:
    """The documents that `data.path` and `data.text_field` name, without those that are blank.

    Raises:
      DataError: no such file, an unsupported suffix, no document, text that is not UTF-8, a
        missing field, a field that is not text.
      StorageError: a bucket that is not there or may not be read.
    """
    files, field = files_of(data.path), data.text_field
    kinds = {suffix_of(f) == ".parquet" for f in files}
    if len(kinds) > 1:
        raise DataError(f"{data.path}: mixes .parquet with other kinds; give one kind at a time")
    for file in files if kinds == {True} else []:
        check_text_column(file, field)  # in all files before a long look at the first
    digests = [digest(f) for f in files]
    if sum(size_of(str(f)) for f in files) <= IN_MEMORY:
        tables = [pa.Table.from_batches(_batches(f, field), SCHEMA) for f in files]
    else:
        tables = [_stored(f, field, d) for f, d in zip(files, digests, strict=True)]
    table = pa.concat_tables(tables)
    if not len(table):
        raise DataError(f"{data.path}: no text in {len(files)} file(s); expected documents with "
                        "text in them")  # fmt: skip
    return _documents(table, data.path, _hash(field, *digests))


def _documents(table: pa.Table, where: str, fingerprint: str) -> Documents:
    """Documents of a table of SCHEMA, with the ids that its rows give, or, where these do not
    identify them, with their places. Ids do where each is another one, or where they name many
    groups of rows."""
    given = table["given"]
    count, missing = pc.count_distinct(given).as_py(), given.null_count  # pyright: ignore[reportAttributeAccessIssue]
    whole = not missing and (count == len(given) or count >= MANY_SOURCES)
    if count and not whole:
        logging.getLogger(__name__).warning(
            "%s: the field 'id' does not identify the documents (%d different ids in %d documents, "
            "%d without one) and is not used; they are known by file and row",
            where, count, len(given), missing,
        )  # fmt: skip
    ids = given if whole else table["place"]
    columns = table["text"], ids, table["source"], table["work"]
    return Documents(*columns, fingerprint, names_are_places=not whole)


def _stored(file: Path, field: str, digest: str) -> pa.Table:
    """The table of a file, mapped from the cache, written there if need be."""
    place = cache_dir() / "documents" / f"{_hash(field, digest, str(_LAYOUT), str(file))}.arrow"
    making = place.with_suffix(".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock")):  # the others of a sweep wait for the first
            if (found := _mapped(place)) is not None:
                return found
            with pa.OSFile(str(making), "wb") as out, pa.ipc.new_file(out, SCHEMA) as writer:
                for batch in _batches(file, field):
                    writer.write_batch(batch)
            making.replace(place)
    except OSError as error:
        raise DataError(
            f"{place.parent}: cannot write the documents of {file} ({error}), which are more than "
            f"{IN_MEMORY >> 20} MiB; set JAXCOMP_CACHE to a folder with room"
        ) from error
    return cast(pa.Table, _mapped(place))


def _mapped(place: Path) -> pa.Table | None:
    try:
        with pa.memory_map(str(place)) as source:
            return pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        damaged(place, error)
        return None


def _batches(file: Path, text_field: str) -> Iterator[pa.RecordBatch]:
    with live.phase(f"reading {file.name}", unit="documents") as progress:
        found = _txt(file) if suffix_of(file) == ".txt" else _fields(file, text_field)
        blank = 0
        while some := list(itertools.islice(found, _ROWS)):
            whole = [row for row in some if row[0] and row[0].strip()]
            blank += len(some) - len(whole)
            if whole:
                columns = zip(SCHEMA, zip(*whole, strict=True), strict=True)
                arrays = [pa.array(column, field.type) for field, column in columns]
                yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
            progress.done += len(some)
    if blank:
        logging.getLogger(__name__).info("%s: %d documents without text are left out", file, blank)


def _fields(file: Path, field: str) -> Iterator[Sequence[str | None]]:
    """(text, given id, place, source, work) of every row."""
    parquet = suffix_of(file) == ".parquet"
    for number, row in rows(file, [field], ("id", "source", *WORK_FIELDS)):
        if field not in row:
            raise no_field(file, f"line {number}", field, sorted(row))
        text = row[field]
        if not isinstance(text, str) and not (text is None and parquet):
            raise DataError(f"{file}: line {number}: field {field!r} is {type(text).__name__}; "
                            "expected text (set data.text_field)")  # fmt: skip
        given = None if row.get("id") is None else str(row["id"])
        yield text, given, f"{file.stem}-{number}", word(row.get("source")), work_of(row)


def _txt(file: Path) -> Iterator[Sequence[str | None]]:
    for number, text in enumerate(texts_of(file)):
        if text.strip():
            yield text, None, f"{file.stem}-{number}", file.stem, ""


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
