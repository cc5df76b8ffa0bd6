"""Rows of .jsonl[.gz], .parquet and .txt files, one after another, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.data.documents import DataError, no_field
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.files import matching

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
TXT_CHARS = 4000  # a .txt file is cut at blank lines into documents of about this many characters
_BATCH = 256  # rows of parquet that are made Python's together
Row = tuple[int, dict[str, Any]]  # a row's number (a line counts from 1, a row from 0), its fields


def files_of(path: str) -> list[Path]:
    """The files that a path or glob names, each of a known kind. Raises DataError."""
    files = [paths.path(f) for f in matching(path)]
    if not files:
        folder = not paths.is_remote(path) and os.path.isdir(os.path.expanduser(path))
        what = "is a folder" if folder else "no such file"
        raise DataError(f"data.path = {path!r}: {what}; expected a {', '.join(SUFFIXES)} file or a "
                        "glob such as 'folder/*.jsonl'")  # fmt: skip
    for file in files:
        suffix_of(file)
    return files


def suffix_of(file: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if file.name.endswith(suffix):
            return suffix
    raise DataError(f"{file}: unsupported kind; expected one of {', '.join(SUFFIXES)}")


def place_of(file: Path, number: int) -> str:
    """A row in messages: "line 3", "row 2"."""
    return f"{'row' if suffix_of(file) == '.parquet' else 'line'} {number}"


@contextlib.contextmanager
def _readable(file: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raise DataError for what a file that is cut or of another kind raises."""
    try:
        yield
    except (OSError, EOFError, *kinds) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file}: cannot be read ({said}); is it complete? Download or write it again"
        ) from error


def rows(
    file: Path, needed: Sequence[str] = (), more: Sequence[str] | None = None
) -> Iterator[Row]:
    """Every row of a .jsonl[.gz] or .parquet file. Of parquet only the columns `needed`, and those
    of `more` (None: all) that it has.

    Raises DataError: a file that is cut or of another kind, a line that is no object, text
    that is not UTF-8; of parquet also a column that is not there or is there twice. StorageError
    of a bucket.
    """
    if suffix_of(file) == ".parquet":
        return _parquet(file, needed, more)
    return _jsonl(file)


def _jsonl(file: Path) -> Iterator[Row]:
    before = 0
    with _opened(file) as content:
        # Lines of bytes end at \n alone: JSON strings may hold U+2028 and its like unescaped.
        for number, line in enumerate(content, 1):
            text = decode(file, line, before, number)
            before += len(line)
            if text.strip():
                yield number, _object(text, f"{file}: line {number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        return strict_json.parse(line, where, dict)
    except strict_json.JsonError as error:
        more = "" if "expected" in str(error) else "; expected one object a line"
        raise DataError(f"{error}{more}") from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The content of a file, unpacked."""
    with _readable(file, zlib.error), file.open("rb") as raw:
        yield gzip.GzipFile(fileobj=raw) if file.name.endswith(".gz") else raw


def decode(file: Path, raw: bytes, before: int = 0, line: int = 0) -> str:
    """UTF-8 as text; `before` bytes of the file stand before it, and it is `line` (0: all lines).
    Raises DataError."""
    try:
        return raw.decode("utf-8" if before else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = line or raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: not UTF-8 at line {line}, byte {before + error.start} "
            f"(0x{raw[error.start]:02x}); convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error


def texts_of(file: Path) -> Iterator[str]:
    """The text of a .txt file in parts of about TXT_CHARS characters, cut at blank lines (or,
    failing that, at lines)."""
    with _opened(file) as content:
        text = decode(file, content.read())
    start = 0
    while start < len(text):
        end = start + TXT_CHARS
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                at = text.rfind(mark, start + TXT_CHARS // 2, end)
                if at >= 0:
                    end = at + len(mark)
                    break
        yield text[start:end]
        start = end


@contextlib.contextmanager
def _table(file: Path) -> Iterator[Any]:
    """A .parquet file, opened."""
    import pyarrow as pa  # takes long, and most runs need none
    import pyarrow.parquet as pq

    with (
        _readable(file, pa.ArrowException, UnicodeDecodeError),
        file.open("rb") as raw,
        pq.ParquetFile(raw, pre_buffer=True) as opened,
    ):
        yield opened


def _parquet(file: Path, needed: Sequence[str], more: Sequence[str] | None) -> Iterator[Row]:
    number = 0
    with _table(file) as opened:
        names = opened.schema_arrow.names
        wanted = names if more is None else [n for n in (*needed, *more) if n in names]
        for name in needed:
            if name not in names:
                raise no_field(file, "schema", name, names, f"expected {', '.join(needed)}")
        for name in wanted:
            if names.count(name) > 1:
                raise DataError(
                    f"{file}: has {names.count(name)} columns named {name!r}; expected one: rename "
                    "the others"
                )
        for batch in opened.iter_batches(batch_size=_BATCH, columns=list(dict.fromkeys(wanted))):
            yield from enumerate(_python(file, batch, number), number)
            number += batch.num_rows


def _python(file: Path, batch: Any, first: int) -> list[dict[str, Any]]:
    """The rows of a batch. Raises DataError where one holds what is no value of Python's: text that
    is not UTF-8, odd dates and time zones."""
    try:
        return batch.to_pylist()
    except (ValueError, TypeError, OverflowError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file}: in rows {first} to {first + batch.num_rows - 1}, the columns "
            f"{', '.join(batch.schema.names)} cannot be read ({said}); expected text in UTF-8 or "
            "numbers"
        ) from error


def check_text_column(file: Path, field: str) -> None:
    """Raises DataError where a parquet file has no column of text of that name."""
    with _table(file) as opened:
        kinds = dict(zip(opened.schema_arrow.names, opened.schema_arrow.types, strict=True))
        if field not in kinds:
            raise no_field(file, "schema", field, kinds)
        if str(kinds[field]) not in ("string", "large_string"):
            raise DataError(
                f"{file}: field {field!r} is {kinds[field]}; expected text (set data.text_field)"
            )
