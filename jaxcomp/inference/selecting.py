"""Texts reduced to the parts that matter for their questions, without training (SAGE).

`select` reduces one text, `requests` reads files of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcomp.data import readers
from jaxcomp.data.documents import DataError
from jaxcomp.data.sentences import sentences
from jaxcomp.data.tokenizer import TokenizerError
from jaxcomp.inference.documents import files_of
from jaxcomp.inference.sage import Scorer, Seen, contrasts, differences, load_scorer
from jaxcomp.inference.windows import SelectError, Spans, check_share, keep, keep_units, tokens_of

UNITS = ("window", "sentence")


class Span(NamedTuple):
    """Characters [start, end) of a text, and the mean score of their tokens."""

    start: int
    end: int
    score: float


class Selected(NamedTuple):
    """A text reduced for a question.

    Attributes:
      question: the question.
      text: the kept spans in the order of the text, one below the other.
      spans: their places in the text.
      tokens, kept: of the text and of the spans, in the scorer's tokens.
      subtracted: the question whose score was subtracted; "" for none.
      offsets: the characters [start, end) of each of the text's W tokens.
      score_W: the score of each token.
    """

    question: str
    text: str
    spans: list[Span]
    tokens: int
    kept: int
    subtracted: str
    offsets: list[tuple[int, int]]
    score_W: np.ndarray


def select(
    text: str,
    questions: str | Sequence[str],
    scorer: Scorer | str | Path,
    *,
    budget: float = 0.1,
    variant: str = "farthest",
    unit: str = "window",
    embedder: Scorer | None = None,
    seen: Seen | None = None,
) -> list[Selected]:
    """Reduce a text for each question about it (SAGE, arXiv 2604.15583).

    Args:
      text: of any length.
      questions: one, or all that are known of this text.
      scorer: of `load_scorer`, or the folder or hub id of a language model.
      budget: share of the text's tokens to keep, above 0 and at most 1.
      variant: "raw", "baseline" or "farthest"; with a single question `farthest` is `baseline`.
      unit: "window" (2% of the text) or "sentence".
      embedder: decides which question is the farthest; default: character trigrams.
      seen: is called with (tokens scored, tokens in all) after each chunk.

    Returns:
      The reduced text of each question, with spans and scores.

    Raises:
      SelectError: a setting is wrong, the text has no token, or a question is too long.
      TokenizerError: the scorer's tokenizer has no token for a character.

    Example:
      >>> from jaxcomp.training.pretrained import ASSETS
      >>> text, base = "The goat looked small. Alice lived in Rome.", ASSETS / "bases/llama-24-s0"
      >>> len(jaxcomp.select(text, "Alice lived in", base, budget=0.5, unit="sentence"))
      1
    """
    check_share(budget)
    if unit not in UNITS:
        raise SelectError(f"unit is {unit!r}; expected one of {', '.join(UNITS)}")
    questions = [questions] if isinstance(questions, str) else list(questions)
    if not questions or not all(question.strip() for question in questions):
        raise SelectError("no question, or a blank one; expected at least one, each with text")
    if not text.strip():
        raise SelectError("the text is empty; expected some text")
    others = contrasts(variant, questions, embedder)
    scorer = scorer if isinstance(scorer, Scorer) else load_scorer(scorer)
    asked = list(zip(questions, others, strict=True))
    offsets, score_QW = differences(scorer, text, asked, seen)
    tokens = tokens_of(budget, len(offsets))
    out = []
    for (question, other), score_W in zip(asked, score_QW, strict=True):
        if unit == "window":
            kept = keep(score_W, tokens)
        else:
            kept = keep_units(score_W, sentence_of(offsets, sentences(text)), tokens)
        spans = [
            Span(offsets[first][0], offsets[end - 1][1], float(score_W[first:end].mean()))
            for first, end in kept
        ]
        count = sum(end - first for first, end in kept)
        joined = joined_text(text, offsets, kept)
        out.append(Selected(question, joined, spans, len(offsets), count, other, offsets, score_W))
    return out


def joined_text(
    text: str, offsets: Sequence[tuple[int, int]], kept: Spans, between: str = "\n"
) -> str:
    """Token spans of a text without the spaces around them, joined by `between`."""
    parts = (text[offsets[first][0] : offsets[end - 1][1]].strip() for first, end in kept)
    return between.join(filter(None, parts))


def sentence_of(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """The sentence of each token's last character: its first may be the space before it."""
    last = [max(start, end - 1) for start, end in offsets]
    return np.searchsorted([start for start, _ in spans], last, side="right") - 1


# --- files ----------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A text, and of each of its questions the name of its row and the question."""

    text: str
    asked: list[tuple[str, str]]

    def key(self, number: int) -> tuple[str, str, str]:
        """What names the row of question `number` in an output file."""
        document = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        return (self.asked[number][0], document, self.asked[number][1])


def requests(
    inputs: Sequence[str | Path], field: str = "text", questions: Sequence[str] = ()
) -> list[Request]:
    """The texts of files and folders with their questions.

    A .txt file is one text. A row of a .jsonl[.gz] or .parquet file has the text in `field`, and
    may have `question` (a text), `questions` (a list) and `id`; rows of one text are one request.
    `questions` are put to every text besides.

    Raises DataError for a file that cannot be read, SelectError for a text without a question.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for file in (file for name in inputs for file in files_of(Path(name))):
        for name, text, own in _rows(file, field):
            every = [*own, *questions]
            if text.strip() and not every:
                raise SelectError(
                    f"{name}: no question; give --question=TEXT, or rows with a field `question` "
                    "or `questions`"
                )
            found.setdefault(text, []).extend((name, question) for question in every)
    return [Request(text, list(dict.fromkeys(asked))) for text, asked in found.items()]


def _rows(file: Path, field: str) -> Iterator[tuple[str, str, list[str]]]:
    if file.suffix == ".txt":
        yield str(file), readers.decode(file, file.read_bytes()), []
        return
    for number, row in readers.rows(file):
        place = f"{file}: {readers.place_of(file, number)}"
        own = row.get("questions")
        own = ([] if own is None else own) if row.get("question") is None else row["question"]
        own = [own] if isinstance(own, str) else own
        if not isinstance(row.get(field), str):
            raise DataError(
                f"{place}: field {field!r} is {str(row.get(field))[:40]}; found "
                f"{', '.join(map(str, row)) or 'none'}; expected text (--field names another)"
            )
        if not isinstance(own, list) or not all(isinstance(q, str) and q.strip() for q in own):
            raise DataError(f"{place}: expected text in `question`, or a list of it in `questions`")
        yield str(row.get("id", place)), row[field], own


def refused(request: Request, scorer: Scorer) -> str:
    """Why a text is left out, if it is: it is empty, or the scorer's tokenizer cannot say it."""
    if not request.text.strip():
        return "no text"
    try:
        scorer.tok.encode_batch([request.text, *(question for _, question in request.asked)])
    except TokenizerError:
        return "a text or question that the scorer's tokenizer cannot say"
    return ""
