"""Parquet files, here or in a bucket: small sets as a table in memory, large ones by row group."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxcomp.data import phases
from jaxcomp.data.documents import (
    MANY_SOURCES,
    WORK_FIELDS,
    About,
    DataError,
    Documents,
    about,
    described,
    no_field,
    word,
)
from jaxcomp.data.large import Group, Held, Keys, LargeDocuments
from jaxcomp.runtime import errors, paths

LARGE = 1 << 28  # bytes of text, not compressed, above which documents are read by row group
_OPEN = 8  # files that stay open
_AT_ONCE = 16  # footers read together


def load(files: Sequence[Path], field: str, fingerprint: str) -> Documents | LargeDocuments:
    """Documents of the text column `field`, after a look at every footer.

    Raises DataError: a file that is cut or no parquet, a missing field, one that is not text; text
    that is not UTF-8 (of a large set: when its row group is read); StorageError of a bucket.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        groups = [g for found in pool.map(lambda f: _groups(f, field), files) for g in found]
    if not sum(g.rows for g in groups):
        raise DataError(f"{files[0]}: no text in {len(files)} parquet file(s)")
    if sum(g.size for g in groups) > LARGE:
        return LargeDocuments(groups, Held(_Columns(field), groups), fingerprint)
    return _in_memory(files, field, fingerprint)


def rows(
    file: Path, needed: Sequence[str] = (), more: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, fields) of every row: those `needed`, and of `more` (None: all) what the file has.

    Raises DataError as `load` does.
    """
    number = 0
    with _reading(file), _open(file) as opened:
        names = _names(file, opened, None if more is None else (*needed, *more))
        for name in needed:
            if name not in names:
                raise DataError(
                    f"{file}: schema: no field {name!r}; found {', '.join(names) or 'none'}; "
                    f"expected {', '.join(needed)}"
                )
        wanted = names if more is None else [n for n in (*needed, *more) if n in names]
        for batch in opened.iter_batches(batch_size=256, columns=wanted):
            yield from enumerate(_python(file, batch, number), number)
            number += batch.num_rows


def _python(file: Path | str, batch: pa.RecordBatch | pa.Table, first: int) -> list[dict[str, Any]]:
    """The rows of a batch. Raises DataError where one holds what is no value of Python's."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 from row {first} on ({error})") from error
    except (ValueError, TypeError, OverflowError, LookupError) as error:  # dates and time zones
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file}: from row {first} on, the columns {', '.join(batch.schema.names)} cannot be "
            f"read ({said}); expected text or numbers"
        ) from error


def _names(file: Path, opened: pq.ParquetFile, wanted: Sequence[str] | None) -> list[str]:
    """The columns of a file. Raises DataError where a `wanted` one (None: any) is there twice."""
    names = opened.schema_arrow.names
    for name in names if wanted is None else wanted:
        if names.count(name) > 1:
            raise DataError(
                f"{file}: has {names.count(name)} columns named {name!r}; expected one: rename the "
                "others"
            )
    return names


def _groups(file: Path, field: str) -> list[Group]:
    with _reading(file), _open(file) as opened:
        footer, schema = opened.metadata, opened.schema_arrow
        _names(file, opened, (field, "id", "source", *WORK_FIELDS))
        _check_field(file, field, schema)
        names = [footer.schema.column(i).path for i in range(footer.num_columns)]
        at = names.index(field)
        out, first = [], 0
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            size = group.column(at).total_uncompressed_size
            out.append(Group(os.fspath(file), number, group.num_rows, size, first))
            first += group.num_rows
        return out


def _check_field(file: Path, field: str, schema: pa.Schema) -> None:
    if field not in schema.names:
        raise no_field(file, "schema", field, schema.names)
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{file}: field {field!r} is {kind}; expected text (set data.text_field)")


@contextmanager
def _reading(file: Path | str) -> Iterator[None]:
    try:
        yield
    except (DataError, errors.StorageError):
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: the name of a column is not UTF-8 ({error}); write the file again with others"
        ) from error
    except (pa.ArrowException, OSError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        if paths.is_remote(file) and "Forbidden" in said:
            raise _explained(file, error) from error
        raise DataError(
            f"{file}: not a readable parquet file ({said}); is it complete? Download or write it "
            "again"
        ) from error
    except Exception as error:
        if paths.is_remote(file):  # the network's errors come through pyarrow as they are
            raise _explained(file, error) from error
        raise


def _explained(file: Path | str, error: Exception) -> errors.StorageError:
    from jaxcomp.runtime import gs

    return gs.explained(file, error)


def _open(file: Path | str) -> pq.ParquetFile:
    """To be closed; call it within `_reading`."""
    if not paths.is_remote(file):
        return pq.ParquetFile(file)
    from jaxcomp.runtime import gs

    raw: Any = gs.files().open(os.fspath(file), "rb", cache_type="none")
    return pq.ParquetFile(raw, pre_buffer=True)


def _in_memory(files: Sequence[Path], field: str, fingerprint: str) -> Documents:
    chunks: list[pa.Array] = []
    found: list[About] = []
    known: set[str] = set()
    former: list[dict[str, Any]] = []  # rows that versions before `described` counted
    for file in files:
        with phases.phase(f"reading {file.name}"), _reading(file), _open(file) as opened:
            names = opened.schema_arrow.names
            wanted = [n for n in ("id", "source", *WORK_FIELDS) if n in names]
            table = opened.read(columns=list(dict.fromkeys([field, *wanted])))
            for name in table.column_names:
                _check_text(file, name, table[name])
            texts = table[field].cast(pa.large_string())
            says = _python(file, table.select(wanted), 0) if wanted else [{}] * len(texts)
            written = [text.as_py() or "" for text in texts]
            former += [fields for fields, text in zip(says, written, strict=True) if text]
            full = [bool(text.strip()) for text in written]
            found += [
                about(fields, f"{file.stem}-{row}")
                for row, (fields, keep) in enumerate(zip(says, full, strict=True))
                if keep
            ]
            chunks += texts.filter(pa.array(full)).chunks
            known.update(wanted)
    if not found:
        raise DataError(f"{files[0]}: no text in {len(files)} parquet file(s)")

    def column(*names: str) -> list[str] | None:
        name = next((n for n in names if n in known), None)
        return None if name is None else [word(row.get(name)) for row in former]

    columns = column("id"), column("source"), column(*WORK_FIELDS)
    return described(str(files[0]), pa.chunked_array(chunks), found, fingerprint, columns)


def _check_text(file: Path | str, field: str, column: pa.ChunkedArray, first: int = 0) -> None:
    """Raises DataError that names the row whose field is not UTF-8."""
    try:
        column.validate(full=True)
        return
    except pa.ArrowInvalid:
        pass
    for row, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: row {first + row}: not UTF-8 at byte {error.start} of its field "
                f"{field!r}; write the file again with text that is"
            ) from error
    raise DataError(f"{file}: the column {field!r} is damaged; write the file again")


class _Columns:
    """`large.Reader` of parquet files."""

    def __init__(self, field: str):
        self.field = field
        self._opened = functools.lru_cache(maxsize=_OPEN)(self._open)

    def texts(self, group: Group) -> Sequence[Any]:
        found = self._read(group, [self.field])[self.field].combine_chunks()
        texts = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
        _check_text(group.file, self.field, texts, group.first)
        return texts

    def keys(self, group: Group) -> Keys | None:
        names = self._opened(group.file).schema_arrow.names
        work = [n for n in WORK_FIELDS if n in names][:1]
        wanted = work + ["source"] * ("source" in names)
        if not wanted:
            return None
        table = self._read(group, wanted)
        columns = [pc.fill_null(pc.cast(table[n], pa.string()), "").to_numpy() for n in wanted]
        if (columns[0] == "").any():
            return None
        joined = columns[0] if len(columns) == 1 else columns[0] + "\0" + columns[1]
        found, of_row = np.unique(joined, return_inverse=True)
        return Keys(found.tolist(), of_row, 3 if work else MANY_SOURCES)

    def _read(self, group: Group, columns: list[str]) -> pa.Table:
        with _reading(group.file):
            return self._opened(group.file).read_row_group(group.number, columns=columns)

    def _open(self, file: str) -> pq.ParquetFile:
        with _reading(file):
            return _open(file)
