"""Rows of .parquet files, one after another, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxcomp.data.documents import DataError, no_field
from jaxcomp.runtime import errors

_ROWS = 256  # that are made Python's together


def rows(
    file: Path,
    needed: Sequence[str],
    more: Sequence[str] | None,
    seen: Callable[[float], None],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `readers.rows`, of one .parquet file."""
    number = 0
    with _reading(file), file.open("rb") as raw, pq.ParquetFile(raw, pre_buffer=True) as opened:
        names, total = opened.schema_arrow.names, max(1, opened.metadata.num_rows)
        for name in names if more is None else (*needed, *more):
            if names.count(name) > 1:
                raise DataError(
                    f"{file}: has {names.count(name)} columns named {name!r}; expected one: rename "
                    "the others"
                )
        for name in needed:
            if name not in names:
                raise DataError(
                    f"{file}: schema: no field {name!r}; found {', '.join(names) or 'none'}; "
                    f"expected {', '.join(needed)}"
                )
        wanted = names if more is None else [n for n in (*needed, *more) if n in names]
        for batch in opened.iter_batches(batch_size=_ROWS, columns=list(dict.fromkeys(wanted))):
            yield from enumerate(_python(file, batch, number), number)
            number += batch.num_rows
            seen(number / total)


def check_text_column(file: Path, field: str) -> None:
    """Raises DataError where a parquet file has no column of text of that name."""
    with _reading(file), file.open("rb") as raw, pq.ParquetFile(raw) as opened:
        schema = opened.schema_arrow
        if field not in schema.names:
            raise no_field(file, "schema", field, schema.names)
        # Of two columns of the name, which `rows` refuses, the first.
        kind = schema.types[schema.names.index(field)]
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"{file}: field {field!r} is {kind}; expected text (set data.text_field)"
            )


def _python(file: Path, batch: pa.RecordBatch, first: int) -> list[dict[str, Any]]:
    """The rows of a batch. Raises DataError where one holds what is no value of Python's."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for row, value in enumerate(column):
                try:
                    value.as_py()
                except UnicodeDecodeError as found:
                    raise DataError(
                        f"{file}: row {first + row}: not UTF-8 at byte {found.start} of its field "
                        f"{name!r}; write the file again with text that is"
                    ) from found
        raise DataError(f"{file}: not UTF-8 from row {first} on ({error})") from error
    except (ValueError, TypeError, OverflowError, LookupError) as error:  # dates and time zones
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file}: from row {first} on, the columns {', '.join(batch.schema.names)} cannot be "
            f"read ({said}); expected text or numbers"
        ) from error


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
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
        raise DataError(
            f"{file}: not a readable parquet file ({said}); is it complete? Download or write it "
            "again"
        ) from error
