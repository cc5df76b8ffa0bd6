"""Question sets about passages, written by a strong language model: files to send and to check.

`export` writes one prompt per passage; a model of your choice replies; `read` keeps the questions
that can be checked without a judge. Workflow: docs/how-to/measure-drift.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, StrictBool, ValidationError

from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.pairs.minimal_pairs import Passage
from jaxcomp.evals.qa import squad
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.readers import Id, Text, check_limit, row_of, rows
from jaxcomp.evals.qa.resumable import reasons
from jaxcomp.runtime import paths, strict_json

UNANSWERABLE = "unanswerable"
ASKED_ABOUT = (*DIMENSIONS, UNANSWERABLE)
PER_PASSAGE = 20

PROMPT = Path(__file__).with_name("prompt.txt").read_text(encoding="utf-8")


class Reply(BaseModel):
    passage_id: Id
    passage: Text
    reply: str


class Written(BaseModel):
    """A question as it was written. `options`: wrong answers; the right one may be among them."""

    id: Id
    passage_id: Id
    passage: Text
    dimension: Text
    question: Text
    answer: str | None
    unanswerable: StrictBool
    options: tuple[Text, ...] | None = None


FIELDS = tuple(name for name, field in Written.model_fields.items() if field.is_required())


class Question(NamedTuple):
    """A question that passed the checks of `read`. `answer` is "" where it is unanswerable;
    `options` are wrong answers that compete with it, or none."""

    id: str
    passage_id: str
    passage: str
    dimension: str
    question: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def unanswerable(self) -> bool:
        return self.dimension == UNANSWERABLE


class QuestionSet(NamedTuple):
    """`refused`: rows left out, by reason; `rows` are all that were read, a reply without a list
    counting as one. `passages`: those that a row names, kept or not. `uneven`: of them those that
    kept more or fewer than PER_PASSAGE questions; `bare`: those that kept none."""

    questions: list[Question]
    rows: int
    refused: dict[str, int]
    counts: dict[str, int]  # questions kept, by dimension
    passages: int
    uneven: int
    bare: int

    def summary(self) -> str:
        """What was read and what was left out, as one sentence."""
        counts = ", ".join(f"{self.counts[name]} {name}" for name in ASKED_ABOUT)
        return (
            f"{len(self.questions):,} of {self.rows:,} questions kept ({counts}), about "
            f"{self.passages:,} passages, {self.uneven:,} of them with another number than "
            f"{PER_PASSAGE}, {self.bare:,} with none; refused: {reasons(self.refused) or 'none'}"
        )


def export(passages: Sequence[Passage], path: Path, *, n: int = PER_PASSAGE) -> int:
    """Write {"passage_id", "passage", "prompt"}, one passage per line, and return their number.

    Send each `prompt` to a model and store its answer as {"passage_id", "passage", "reply"}.

    Raises:
      EvalError: the file exists, or there is no passage.
    """
    if not passages:
        raise EvalError("no passage to ask about; expected at least one")
    if path.exists():
        raise EvalError(f"{path} is there already; name another file or remove it")
    made = [
        {"passage_id": p.id, "passage": p.text, "prompt": PROMPT.format(n=n, passage=p.text)}
        for p in passages
    ]
    lines = (f"{json.dumps(row, ensure_ascii=False)}\n" for row in made)
    paths.write_bytes(path, "".join(lines).encode())
    return len(passages)


def are_questions(path: Path) -> bool:
    """Whether the first row is a question or a reply, and not a passage. Raises EvalError."""
    _, row = next(rows(path))
    return bool({"question", "reply"} & row.keys())


def read(path: Path, limit: int | None = None) -> QuestionSet:
    """The first `limit` questions (None: all) of a .jsonl[.gz] or .parquet file that pass.

    A row is a question with the fields of `Written`, or a model's reply with those of `Reply`. A
    question is refused, and counted, where a field is blank or of another kind, its dimension is
    not one of ASKED_ABOUT, its answer does not stand in the passage (whole words after SQuAD's
    normalisation), it is unanswerable and has an answer or is so by one field only, its id was
    there before, its passage_id stood with another passage, or two options normalise to the same; a
    reply where it holds no JSON list of objects, or is the second that does about a passage.

    Raises EvalError for a file of another schema, a row without one of the fields, a file of
    which nothing is kept, a limit below 1.
    """
    check_limit(limit)
    kept: dict[str, Question] = {}
    refused: Counter[str] = Counter()
    seen: dict[str, str] = {}  # passages by their ids
    total = 0
    for found in _rows(path, seen):
        total += 1
        question = found if isinstance(found, str) else _checked(found)
        if isinstance(question, str):
            refused[question] += 1
        elif question.id in kept:
            refused["an id that was there before"] += 1
        else:
            kept[question.id] = question
            if len(kept) == limit:
                break
    if not kept:
        raise EvalError(f"{path}: none of {total} questions is kept: {reasons(refused)}")
    per_passage = Counter(q.passage_id for q in kept.values())
    dimensions = Counter(q.dimension for q in kept.values())
    return QuestionSet(
        list(kept.values()),
        total,
        dict(refused),
        {name: dimensions[name] for name in ASKED_ABOUT},
        len(seen),
        sum(per_passage[name] != PER_PASSAGE for name in seen),
        len(seen) - len(per_passage),
    )


def _rows(path: Path, seen: dict[str, str]) -> Iterator[dict[str, Any] | str]:
    """Rows of questions; of a reply each of its questions, or why it has none. `seen` gets the
    passages by their ids."""
    replied: set[str] = set()
    for place, row in rows(path):
        reply = None
        if "reply" in row and "question" not in row:
            reply = row_of(Reply, row, f"{path}: {place}")
            name, passage = reply.passage_id, reply.passage
        else:
            if lacking := [f for f in FIELDS if f not in row]:
                raise EvalError(
                    f"{path}: {place}: no field {lacking[0]!r}; found {', '.join(row) or 'none'}; "
                    f"expected {', '.join(FIELDS)}"
                )
            name, passage = str(row["passage_id"]), row["passage"]
            if not isinstance(passage, str) or type(row["passage_id"]) not in (str, int):
                yield row  # refused, and of no passage
                continue
        if seen.setdefault(name, passage) != passage:
            yield "a passage_id that stood with another passage"
        elif reply is None:
            yield row
        elif not (listed := _listed(reply.reply)):
            yield "a reply that is no JSON list"
        elif name in replied:
            yield "a second reply about one passage"
        else:
            replied.add(name)
            for number, one in enumerate(listed, 1):
                own = {"id": f"{name}/{number}", "passage_id": name, "passage": passage}
                is_object = isinstance(one, dict)
                yield one | own if is_object else "a question of a reply that is no object"


def _listed(reply: str) -> list[Any]:
    """The first JSON list with an object in it; models put fences and words around it, and words
    may hold brackets. Empty where there is none."""
    decoder, start = json.JSONDecoder(), reply.find("[")
    while start >= 0:
        try:
            _, end = decoder.raw_decode(reply, start)
            found = strict_json.parse(reply[start:end], "a reply", list)
        except RecursionError:
            return []
        except ValueError:
            found = []
        if any(isinstance(one, dict) for one in found):
            return found
        start = reply.find("[", start + 1)
    return []


def _checked(row: dict[str, Any]) -> Question | str:
    """The question, or why it is refused."""
    try:
        found = Written.model_validate(row)
    except ValidationError as error:
        return f"a field {str(error.errors()[0]['loc'][0])!r} that is blank or of another kind"
    answer, options = (found.answer or "").strip(), found.options or ()
    if found.dimension not in ASKED_ABOUT:
        return "an unknown dimension"
    if found.unanswerable != (found.dimension == UNANSWERABLE):
        return 'a dimension that contradicts "unanswerable"'
    if found.unanswerable and answer:
        return "an answer where there is none"
    rivals = ()
    if not found.unanswerable:
        plain, mine = [squad.normalise(option) for option in options], squad.normalise(answer)
        if not mine or not squad.holds(found.passage, [answer]):
            return "an answer that is not in the passage"
        if len(set(plain)) < len(plain) or "" in plain:
            return "options that normalise to the same or to nothing"
        rivals = tuple(o for o, p in zip(options, plain, strict=True) if p != mine)
    texts = found.passage_id, found.passage, found.dimension, found.question
    return Question(found.id, *texts, answer, rivals)
