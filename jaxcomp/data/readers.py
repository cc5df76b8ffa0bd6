"""Rows of .jsonl[.gz], .parquet and .txt files, one after another, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.data.documents import DataError
from jaxcomp.runtime import errors, paths, strict_json
from jaxcomp.runtime.files import matching

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
TXT_CHARS = 4000  # a .txt file is cut at blank lines into documents of about this many characters
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


def rows(
    file: Path,
    needed: Sequence[str] = (),
    more: Sequence[str] | None = None,
    seen: Callable[[float], None] = lambda share: None,
) -> Iterator[Row]:
    """Every row of a .jsonl[.gz] or .parquet file. Of parquet only the columns `needed`, and those
    of `more` (None: all) that it has. `seen` is called with the share of the file that was read.

    Raises DataError: a file that is cut or of another kind, a line that is no object, text
    that is not UTF-8; of parquet also a column that is not there or is there twice. StorageError
    of a bucket.
    """
    if suffix_of(file) == ".parquet":
        from jaxcomp.data import parquet  # pyarrow takes long to import

        return parquet.rows(file, needed, more, seen)
    return _jsonl(file, seen)


def _jsonl(file: Path, seen: Callable[[float], None]) -> Iterator[Row]:
    for number, line in _lines(file, seen):
        yield number, json_row(line, f"{file}: line {number}", DataError)


def json_row(line: str, where: str, kind: type[ValueError]) -> dict[str, Any]:
    """The object of one line of JSON. Raises `kind`."""
    try:
        return strict_json.parse(line, where, dict)
    except strict_json.JsonError as error:
        more = "" if "expected" in str(error) else "; expected one object a line"
        raise kind(f"{error}{more}") from error


def _lines(file: Path, seen: Callable[[float], None]) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank."""
    with _opened(file) as (raw, size, content):
        before = 0
        # Lines of bytes end at \n alone: JSON strings may hold U+2028 and its like unescaped.
        for number in itertools.count(1):
            line = _read(file, content.readline)
            if not line:
                break
            if number % 1000 == 0:
                seen(raw.tell() / size)
            text = decode(file, line, before, number)
            before += len(line)
            if text.strip():
                yield number, text


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, int, Any]]:
    """The file, its size in bytes, and its content, unpacked."""
    with _read(file, lambda: file.open("rb")) as raw:
        size = max(1, raw.seek(0, os.SEEK_END))
        raw.seek(0)
        yield raw, size, gzip.GzipFile(fileobj=raw) if file.name.endswith(".gz") else raw


def _read(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except errors.StorageError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); is it complete?") from error


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
    with _opened(file) as (_, _, content):
        text = decode(file, _read(file, content.read))
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
