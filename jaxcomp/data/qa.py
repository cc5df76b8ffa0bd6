"""Training questions: (context, question, answer) from a file or from a world passage.

A file has SQuAD's fields, as `evals/qa/readers.py` knows them: `question`, `context`, `answers` (a
text, a list, or a struct of `text`), one question a row. Rows about one context need not stand
together. The decoder is asked as `inference.Pair.ask` and the tasks ask it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.config import DataConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.documents import WORK_FIELDS, DataError, Documents, no_field, word, work_of
from jaxcomp.data.draw import Passage
from jaxcomp.data.readers import files_of, place_of, rows, suffix_of
from jaxcomp.data.sources import Question
from jaxcomp.runtime import live
from jaxcomp.runtime.files import digest

QUESTION = "\nQuestion: {question}\nAnswer:"
FIELDS = ("question", "context", "answers")
# Kinds of facts whose value is one word of the text.
ASKED = (
    "topic", "colour", "material", "size", "profession", "home", "quantity", "modifier", "pet",
    "food", "subject",
)  # fmt: skip


class Questions(NamedTuple):
    """A file's questions by the id of their context, and the contexts as documents."""

    documents: Documents
    about: dict[str, tuple[Question, ...]]


def contexts(data: DataConfig, options: Any = None) -> Documents:
    """The contexts as documents; raises as `load`."""
    return load(data.path).documents


def about(data: DataConfig, options: Any = None) -> dict[str, tuple[Question, ...]]:
    """The questions about each context, by its id; raises as `load`."""
    return load(data.path).about


def load(path: str) -> Questions:
    """The questions of a .jsonl[.gz] or .parquet file, or of a glob of them.

    Each distinct context is one document, so that splits hold out whole contexts, and with a field
    `title` (or `work`, `book`) all contexts of a work together; among those, one without is a work
    of its own. Read once a process.

    Raises DataError: no such file, another kind, a row that lacks a field or holds another type, a
    blank context or question, no answer in any row.
    """
    files = tuple(files_of(path))
    return _load(path, files, tuple(map(digest, files)))


@functools.lru_cache(maxsize=2)
def _load(path: str, files: tuple[Path, ...], digests: tuple[str, ...]) -> Questions:
    found: dict[str, list[Question]] = {}
    first: dict[str, tuple[str, str]] = {}  # of a context: the first source and work named
    unanswered = not_stated = 0
    with live.phase(f"reading {path}"):
        for where, row in (r for f in files for r in _rows(f)):
            context, question, answers = _fields(row, where)
            if not answers:
                unanswered += 1
                continue
            stated = [a for a in answers if _plain(a) in _plain(context)]
            not_stated += not stated
            source, work = first.get(context, ("", ""))
            first[context] = source or word(row.get("source")), work or work_of(row)
            found.setdefault(context, []).append(Question(question, (stated or answers)[0]))
    if not found:
        raise DataError(
            f"{path}: {unanswered} rows, none with an answer; expected rows with the fields "
            f"{', '.join(FIELDS)}, and at least one answer"
        )
    count = sum(map(len, found.values()))
    logging.getLogger(__name__).info(
        "%s: %d questions about %d contexts; %d rows without an answer left out; %d answers do not "
        "stand in their context word for word, and are kept",
        path, count, len(found), unanswered, not_stated,
    )  # fmt: skip
    ids = [_name(context) for context in found]
    sources, works = (list(column) for column in zip(*first.values(), strict=True))
    if any(works):
        works = [work or name for work, name in zip(works, ids, strict=True)]
    seen = hashlib.sha256(json.dumps([*digests, list(FIELDS)]).encode()).hexdigest()[:16]
    documents = Documents(list(found), ids, sources, works, seen)
    about = {i: tuple(asked) for i, asked in zip(ids, found.values(), strict=True)}
    return Questions(documents, about)


def _name(context: str) -> str:
    """By what it says, so that its place in a file does not matter to its split. No
    number at the end, which would make contexts consecutive pieces of one work (`splits`)."""
    return f"{hashlib.sha256(context.encode()).hexdigest()[:16]}-context"


def of_passage(passage: Passage) -> tuple[Question, ...]:
    """A question about every fact of a passage whose value is one word (ASKED): its sentence
    without that word, which the world's tokenizer can say. "The strawberry was white." gives "The
    strawberry was" and "white"; "Bob bought seven candles." gives "Bob bought candles"."""
    found = []
    for fact in passage.facts:
        if fact.kind not in ASKED:
            continue
        text, before = passage.text, passage.text.rfind(". ", 0, fact.start)
        start = before + 2 if before >= 0 else 0
        parts = text[start : fact.start], text[fact.end : text.index(".", fact.end)]
        clause = " ".join(" ".join(parts).split())
        for opening in lx.OPENINGS:
            clause = clause.removeprefix(f"{opening} ")
        found.append(Question(clause[0].upper() + clause[1:], text[fact.start : fact.end]))
    return tuple(found)


def _fields(row: dict[str, Any], where: str) -> tuple[str, str, list[str]]:
    for name in FIELDS:
        if name not in row:
            file, _, place = where.rpartition(": ")
            raise no_field(file, place, name, row, f"expected {', '.join(FIELDS)} (data.source=qa)")
    context, question = (_text(row[name], name, where) for name in ("context", "question"))
    answers = row["answers"]
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise DataError(
            f"{where}: field 'answers' is {type(row['answers']).__name__}; expected a text, a list "
            "of texts, or a struct with such a `text`"
        )
    return context, question, [_text(a, "answers", where) for a in answers if a.strip()]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "blank" if isinstance(value, str) else type(value).__name__
        raise DataError(f"{where}: field {name!r} is {what}; expected text")
    return value


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if suffix_of(file) == ".txt":
        raise DataError(f"{file}: a .txt file holds no questions; expected .jsonl[.gz] or .parquet")
    found = rows(file, FIELDS, ("source", *WORK_FIELDS))
    return ((f"{file}: {place_of(file, number)}", row) for number, row in found)
