"""Read documents from .jsonl and .txt files."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcomp.data import phases
from jaxcomp.data.documents import About, DataError, about, no_field
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.files import digest, matching

if TYPE_CHECKING:
    pass


SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")


TXT_CHARS = 4000  # a .txt file is cut at blank lines into documents of about this many characters


def files_of(path: str) -> list[Path]:
    files = [paths.path(f) for f in matching(path)]
    if not files:
        folder = not paths.is_remote(path) and os.path.isdir(os.path.expanduser(path))
        what = "is a folder" if folder else "no such file"
        raise DataError(f"data.path = {path!r}: {what}; expected a {', '.join(SUFFIXES)} file or a "
                        "glob such as 'folder/*.jsonl'")  # fmt: skip
    for file in files:
        suffix_of(file)
    return files


def fingerprint(files: list[Path], field: str) -> str:
    """What names the text field of these files: by names, sizes and contents."""
    return hashlib.sha256("\n".join([field, *map(digest, files)]).encode()).hexdigest()[:16]


def suffix_of(file: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if file.name.endswith(suffix):
            return suffix
    raise DataError(f"{file}: unsupported kind; expected one of {', '.join(SUFFIXES)}")


def _read(file: Path) -> bytes:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); is it complete?") from error
    if not raw.strip():
        raise DataError(f"{file}: empty; expected text")
    return raw


def decode(file: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: not UTF-8 at line {line}, byte {error.start} (0x{raw[error.start]:02x}); "
            f"convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error


def json_rows(file: Path, progress: phases.Phase) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of its line, object) of every line that is not blank."""
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    lines = decode(file, _read(file)).split("\n")
    progress.total = len(lines)
    for number, line in enumerate(lines, 1):
        progress.done = number
        if line.strip():
            yield number, json_row(line, f"{file}: line {number}", DataError)


def json_row(line: str, where: str, kind: type[ValueError]) -> dict[str, Any]:
    """The object of one line of JSON. Raises `kind`."""
    try:
        return strict_json.parse(line, where, dict)
    except strict_json.JsonError as error:
        more = "" if "expected" in str(error) else "; expected one object a line"
        raise kind(f"{error}{more}") from error


def _jsonl(file: Path, field: str, progress: phases.Phase) -> Iterator[tuple[str, About, str]]:
    for number, row in json_rows(file, progress):
        if field not in row:
            raise no_field(file, f"line {number}", field, sorted(row))
        text = row[field]
        if not isinstance(text, str):
            raise DataError(f"{file}: line {number}: field {field!r} is {type(text).__name__}; "
                            "expected text (set data.text_field)")  # fmt: skip
        place = f"{file.stem}-{number}"
        yield text, about(row, place), str(row.get("id", place))


def _txt(file: Path) -> Iterator[tuple[str, About, str]]:
    """Documents of about TXT_CHARS characters, cut at blank lines (or, failing that, at lines)."""
    text = decode(file, _read(file))
    start = number = 0
    while start < len(text):
        end = start + TXT_CHARS
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                at = text.rfind(mark, start + TXT_CHARS // 2, end)
                if at >= 0:
                    end = at + len(mark)
                    break
        place = f"{file.stem}-{number}"
        yield text[start:end], About(None, place, file.stem, ""), place
        start, number = end, number + 1
