"""Files of questions and passages (.jsonl[.gz], .parquet), each row checked by its schema.

Fields of a question set, by which `read` finds its schema; further ones are ignored:

    conflicts    question, context, context_answer, prior_answer    (a user's own, nq_conflicts)
    faitheval    question, context, choices {text, label}, answerKey      (FaithEval-counterfactual)
    conflictqa   question, ground_truth, memory_answer, counter_answer, counter_memory  (ConflictQA)
    squad        question, context, answers                               (SQuAD 1.1's gold answers)
    longbench    input, context, answers, dataset           (LongBench's sets that are scored by F1)
    mrqa         context, qas [{question, answers}]         (MRQA 2019; its header line is skipped)
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from jaxcomp.data import readers
from jaxcomp.data.documents import DataError
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.squad import holds

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
OVERWRITING, QA = "overwriting", "qa"


def _whole(text: str) -> str:
    if not text.strip():
        raise ValueError("expected text that is not blank")
    return text


def _listed(value: Any) -> Any:
    """A list of texts, or one; also as the `text` of a struct, as in Hugging Face files."""
    value = value.get("text") if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_whole)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
Id = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Row = TypeVar("Row", bound=BaseModel)
Made = TypeVar("Made")


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("line 3", the object there) of every row. Raises EvalError for a file that is not there, not
    whole, empty or of another kind, and a line that is no object."""
    if not path.name.endswith(SUFFIXES):
        raise EvalError(f"{path}: unsupported kind; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise EvalError(f"{path}: no such file")
    number = None
    try:
        for number, row in readers.rows(path):
            yield readers.place_of(path, number), row
    except DataError as error:
        raise EvalError(str(error)) from error
    if number is None:
        raise EvalError(f"{path}: empty; expected an object a row")


def row_of(kind: type[Row], values: dict[str, Any], where: str) -> Row:
    """A row as `kind`. Raises EvalError that names `where` and the first wrong field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        raise EvalError(
            f"{where}: no field {name!r}; found {', '.join(map(str, values)) or 'none'}; expected "
            f"{', '.join(_fields(kind))}"
        )
    said = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    raise EvalError(f"{where}: field {name!r} is {repr(found['input'])[:60]}: {said}")


def named(
    path: Path, limit: int | None, made: Callable[[str, dict[str, Any]], Iterable[tuple[str, Made]]]
) -> list[Made]:
    """The first `limit` (None: all) that `made` makes of the rows, each with an id of its own; what
    is beyond is not looked at. Raises EvalError for an id that was there before, and for none."""
    check_limit(limit)
    every = ((place, *one) for place, values in rows(path) for one in made(place, values))
    out: list[Made] = []
    places: dict[str, str] = {}
    for place, name, one in itertools.islice(every, limit):
        if name in places:
            raise EvalError(
                f"{path}: {place}: id {name!r} is that of {places[name]} too; expected every row "
                "once, with an id of its own"
            )
        places[name] = place
        out.append(one)
    if not out:
        raise EvalError(f"{path}: no question in it; expected at least one")
    return out


def check_limit(limit: int | None) -> None:
    """Raises EvalError for a limit below 1."""
    if limit is not None and limit < 1:
        raise EvalError(f"limit is {limit}; expected at least 1 (leave --limit out for all)")


class Schema(BaseModel, ABC):
    """A row of a question set; without an `id` its place is one."""

    task: ClassVar[str] = OVERWRITING
    id: Id | None = None

    @abstractmethod
    def items(self, name: str) -> list[Item]: ...


class Conflicts(Schema):
    question: Text
    context: Text
    context_answer: Text
    prior_answer: Text

    def items(self, name: str) -> list[Item]:
        sides = (self.context_answer,), (self.prior_answer,)
        return [Item(name, self.question, self.context, *sides)]


class _Choices(BaseModel):
    text: Annotated[tuple[Text, ...], Field(min_length=2)]
    label: tuple[str, ...]


class Faitheval(Schema):
    question: Text
    context: Text
    choices: _Choices
    answerKey: Text

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        labels = self.choices.label
        if len(labels) != len(self.choices.text) or labels.count(self.answerKey) != 1:
            raise ValueError(
                f"expected a label for each text of 'choices', one of them {self.answerKey!r}"
            )
        return self

    def items(self, name: str) -> list[Item]:
        texts, at = self.choices.text, self.choices.label.index(self.answerKey)
        others = texts[:at] + texts[at + 1 :]
        return [Item(name, self.question, self.context, (texts[at],), (), others)]


class Conflictqa(Schema):
    """An LLM's own answer against that of a passage written to contradict it. The truth is on
    either side: where a true answer stands in the passage's, all of them are the passage's."""

    question: Text
    ground_truth: Texts
    memory_answer: Text
    counter_answer: Text
    counter_memory: Text

    def items(self, name: str) -> list[Item]:
        answers, world = (self.counter_answer,), (self.memory_answer,)
        if any(holds(self.counter_answer, (true,)) for true in self.ground_truth):
            answers += self.ground_truth
        else:
            world += self.ground_truth
        return [Item(name, self.question, self.counter_memory, answers, world)]


class Squad(Schema):
    task: ClassVar[str] = QA
    question: Text
    context: Text
    answers: Texts

    def items(self, name: str) -> list[Item]:
        return [Item(name, self.question, self.context, self.answers)]


class Longbench(Schema):
    """A row of LongBench (Bai et al. 2024, arXiv 2308.14508); its `input` is the question."""

    task: ClassVar[str] = QA
    id: Id | None = Field(None, alias="_id")
    input: Text
    context: Text
    answers: Texts
    dataset: Literal[
        "narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa"
    ]  # the others are scored otherwise than by F1 of English words

    def items(self, name: str) -> list[Item]:
        return [Item(name, self.input, self.context, self.answers)]


class _Asked(BaseModel):
    qid: Id | None = None
    question: Text
    answers: Texts


class Mrqa(Schema):
    """A row of MRQA 2019 (Fisch et al., arXiv 1910.09753): a context and its questions."""

    task: ClassVar[str] = QA
    id: str | None = None  # "" in most files; questions have their own
    context: Text
    qas: tuple[_Asked, ...]

    def items(self, name: str) -> list[Item]:
        return [
            Item(one.qid or f"{name}, question {n}", one.question, self.context, one.answers)
            for n, one in enumerate(self.qas, 1)
        ]


SCHEMAS = (Conflicts, Faitheval, Conflictqa, Squad, Longbench, Mrqa)


def read(path: Path, limit: int | None = None, *, task: str = OVERWRITING) -> list[Item]:
    """The first `limit` items (None: all) of a file, in its order; what is beyond is not looked at.

    Raises EvalError as `rows` and `row_of`, and for a schema that is unknown or of another task, an
    id that was there before, a limit below 1.
    """
    schema: type[Schema] | None = None

    def made(place: str, values: dict[str, Any]) -> list[tuple[str, Item]]:
        nonlocal schema
        if not schema and values.keys() == {"header"}:
            return []  # the first line of MRQA's files
        where = f"{path}: {place}"
        schema = schema or _schema(values, where, task)
        row = row_of(schema, values, where)
        return [(item.id, item) for item in row.items(row.id or place)]

    return named(path, limit, made)


def _schema(values: dict[str, Any], where: str, task: str) -> type[Schema]:
    known = " or ".join(f"{_name(s)} ({', '.join(_fields(s))})" for s in SCHEMAS if s.task == task)
    for schema in SCHEMAS:
        if values.keys() >= set(_fields(schema)):
            if schema.task == task:
                return schema
            raise EvalError(
                f"{where}: the fields are those of {_name(schema)}, which is for "
                f"--task={schema.task}; --task={task} takes rows with the fields of {known}"
            )
    raise EvalError(
        f"{where}: the fields are {', '.join(map(str, values)) or 'none'}; --task={task} takes "
        f"rows with the fields of {known}"
    )


def _name(schema: type[Schema]) -> str:
    return schema.__name__.lower()


def _fields(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.is_required()]
