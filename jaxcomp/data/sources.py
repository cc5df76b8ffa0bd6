"""Documents by number, from .jsonl[.gz], .parquet and .txt files, globs of them, and TFDS.

Everything a later room needs to know about where text came from is here: its id, its source and,
where the data says so, its work, so that `splits.py` can keep whole works apart.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxcomp import storage, strict_json
from jaxcomp.config import DataConfig
from jaxcomp.data import phases
from jaxcomp.data.files import digest, matching

if TYPE_CHECKING:
    from jaxcomp.data.large import LargeDocuments

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
TXT_CHARS = 4000  # a .txt file is cut at blank lines into documents of about this many characters
WORK_FIELDS = ("work", "book", "title")
MANY_SOURCES = 20  # from so many on, whole sources are held out
Columns = tuple[Sequence[str] | None, Sequence[str] | None, Sequence[str] | None]


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


def load_documents(data: DataConfig) -> Documents | LargeDocuments:
    """All documents that `data.source`, `path`, `text_field` (or `tfds_*`) name; of "qa" the
    contexts that its questions are about.

    jsonl and txt are held in memory (take parquet or TFDS for more text than fits); so are parquet
    columns, in Arrow, up to 256 MiB of text, above which they are read by row group; TFDS is read
    on access. Empty documents are left out of files that are held in memory.

    Raises:
      DataError: no such file, an unsupported suffix, no document, text that is not UTF-8, a
        missing field, a field that is not text, an unprepared TFDS data set.
      StorageError: a bucket that is not there or may not be read.
    """
    if data.source == "tfds":
        from jaxcomp.data import tfds

        return tfds.load(data)
    if data.source == "qa":
        from jaxcomp.data import questions

        return questions.load(data.path).documents
    files, field = files_of(data.path), data.text_field
    known = fingerprint(files, field)
    if all(suffix_of(f) == ".parquet" for f in files):
        from jaxcomp.data import parquet

        return parquet.load(files, field, known)
    if any(suffix_of(f) == ".parquet" for f in files):
        raise DataError(f"{data.path}: mixes .parquet with other kinds; give one kind at a time")
    texts: list[str] = []
    found: list[About] = []
    former: list[str] = []
    for file in files:
        with phases.phase(f"reading {file.name}", unit="lines") as seen:
            rows = _txt(file) if suffix_of(file) == ".txt" else _jsonl(file, field, seen)
            for text, says, id_before in rows:
                if text.strip():
                    texts.append(text)
                    found.append(says)
                    former.append(id_before)
    if not texts:
        raise DataError(f"{data.path}: no text in {len(files)} file(s); expected documents with "
                        "text in them")  # fmt: skip
    columns = former, [a.source for a in found], [a.work for a in found]
    return described(data.path, texts, found, known, columns)


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


def files_of(path: str) -> list[Path]:
    files = [storage.path(f) for f in matching(path)]
    if not files:
        folder = not storage.is_remote(path) and os.path.isdir(os.path.expanduser(path))
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


def no_field(file, place: str, field: str, found) -> DataError:
    return DataError(
        f"{file}: {place}: no field {field!r}; found {', '.join(map(str, found)) or 'none'}; "
        "set data.text_field"
    )


def word(value: Any) -> str:
    return "" if value is None else str(value)
