"""Files of questions and passages (.jsonl[.gz], .parquet), each row checked by its schema.

Fields of a question set, by which `read` finds its schema; further ones are ignored:

    conflicts    question, context, context_answer, prior_answer    (a user's own, nq_conflicts)
    faitheval    question, context, choices {text, label}, answerKey      (FaithEval-counterfactual)
    conflictqa   question, ground_truth, memory_answer, counter_answer, counter_memory  (ConflictQA)
    squad        question, context, answers                               (SQuAD 1.1's gold answers)
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

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
    path: Path, limit: int | None, made: Callable[[str, dict[str, Any]], tuple[str, Made]]
) -> list[Made]:
    """What `made` makes of the first `limit` rows (None: all), each with an id of its own; what is
    beyond is not looked at. Raises EvalError for an id that was there before."""
    check_limit(limit)
    out: list[Made] = []
    places: dict[str, str] = {}
    for place, values in itertools.islice(rows(path), limit):
        name, one = made(place, values)
        if name in places:
            raise EvalError(
                f"{path}: {place}: id {name!r} is that of {places[name]} too; expected every row "
                "once, with an id of its own"
            )
        places[name] = place
        out.append(one)
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
    def item(self, name: str) -> Item: ...


class Conflicts(Schema):
    question: Text
    context: Text
    context_answer: Text
    prior_answer: Text

    def item(self, name: str) -> Item:
        sides = (self.context_answer,), (self.prior_answer,)
        return Item(name, self.question, self.context, *sides)


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

    def item(self, name: str) -> Item:
        texts, at = self.choices.text, self.choices.label.index(self.answerKey)
        others = texts[:at] + texts[at + 1 :]
        return Item(name, self.question, self.context, (texts[at],), (), others)


class Conflictqa(Schema):
    """An LLM's own answer against that of a passage written to contradict it. The truth is on
    either side: where a true answer stands in the passage's, all of them are the passage's."""

    question: Text
    ground_truth: Texts
    memory_answer: Text
    counter_answer: Text
    counter_memory: Text

    def item(self, name: str) -> Item:
        answers, world = (self.counter_answer,), (self.memory_answer,)
        if any(holds(self.counter_answer, (true,)) for true in self.ground_truth):
            answers += self.ground_truth
        else:
            world += self.ground_truth
        return Item(name, self.question, self.counter_memory, answers, world)


class Squad(Schema):
    task: ClassVar[str] = QA
    question: Text
    context: Text
    answers: Texts

    def item(self, name: str) -> Item:
        return Item(name, self.question, self.context, self.answers)


SCHEMAS = (Conflicts, Faitheval, Conflictqa, Squad)


def read(path: Path, limit: int | None = None, *, task: str = OVERWRITING) -> list[Item]:
    """The first `limit` items (None: all) of a file, in its order; what is beyond is not looked at.

    Raises EvalError as `rows` and `row_of`, and for a schema that is unknown or of another task, an
    id that was there before, a limit below 1.
    """
    schema: type[Schema] | None = None

    def made(place: str, values: dict[str, Any]) -> tuple[str, Item]:
        nonlocal schema
        where = f"{path}: {place}"
        schema = schema or _schema(values, where, task)
        row = row_of(schema, values, where)
        return row.id or place, row.item(row.id or place)

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
