"""Documents by number, from .jsonl[.gz], .parquet and .txt files, globs of them, and TFDS.

What later packages need to know about where text came from is here: its id, its source and, where
the data says so, its work, so that `splits.py` can keep whole works apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxcomp.config import DataConfig
from jaxcomp.data import phases
from jaxcomp.data.documents import About, DataError, Documents, described
from jaxcomp.data.readers import _jsonl, _txt, files_of, fingerprint, suffix_of

if TYPE_CHECKING:
    from jaxcomp.data.large import LargeDocuments


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
        from jaxcomp.data import qa

        return qa.load(data.path).documents
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
