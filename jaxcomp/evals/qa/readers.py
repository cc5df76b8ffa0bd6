"""Files of items: which of the known schemas a file is of, and its rows as items.

    conflicts    question, context, context_answer, prior_answer    (a user's own, nq_conflicts)
    faitheval    question, context, choices {text, label}, answerKey      (FaithEval-counterfactual)
    conflictqa   question, ground_truth, memory_answer, counter_answer, counter_memory  (ConflictQA)
    squad        question, context, answers                               (SQuAD 1.1's gold answers)

The fields of the first row say which; further fields are ignored. Where a row has no `id`, its
place in the file is one. Any of them may be .jsonl, .jsonl.gz or .parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.data.documents import DataError
from jaxcomp.data.readers import place_of, rows
from jaxcomp.evals.qa import jsonl
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.squad import holds

SUFFIXES = (*jsonl.SUFFIXES, ".parquet")
OVERWRITING, QA = "overwriting", "qa"


class Row(NamedTuple):
    """One row of a file; `place` is its line or its number there, `where` names the file too."""

    file: Path
    place: str
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}: {self.place}"

    def text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str):
            raise EvalError(f"{self.where}: field {name!r} is {_kind(value)}; expected text")
        return self._whole(name, value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, or one; also as the `text` of a struct, as in Hugging Face files."""
        value = self._value(name)
        if isinstance(value, dict):
            value = value.get("text")
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
            raise EvalError(
                f"{self.where}: field {name!r} is {_kind(value)}; expected a list of texts"
            )
        return tuple(self._whole(name, v) for v in found)

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise EvalError(
                f"{self.where}: no field {name!r}, which the first row has; found "
                f"{', '.join(map(str, self.values)) or 'none'}"
            )
        return self.values[name]

    def _whole(self, name: str, value: str) -> str:
        return jsonl.whole(value, name, self.where)


class Schema(NamedTuple):
    """`fields` are those that every row must have; an `id` may be there too."""

    name: str
    task: str
    fields: tuple[str, ...]
    item: Callable[[str, Row], Item]


def _conflict(name: str, row: Row) -> Item:
    answers, world = (row.text("context_answer"),), (row.text("prior_answer"),)
    return Item(name, row.text("question"), row.text("context"), answers, world)


def _faitheval(name: str, row: Row) -> Item:
    texts, key = row.texts("choices"), row.text("answerKey")
    struct = row.values["choices"]
    labels = struct.get("label") if isinstance(struct, dict) else None
    if not isinstance(labels, list) or len(labels) != len(texts) or len(texts) < 2:
        raise EvalError(
            f"{row.where}: field 'choices' is {_kind(struct)}; expected a struct of two lists of "
            "the same length, at least 2: text and label"
        )
    if labels.count(key) != 1:
        raise EvalError(
            f"{row.where}: field 'answerKey' is {key!r}; expected one of the labels of 'choices', "
            f"found {', '.join(map(str, labels))}"
        )
    at = labels.index(key)
    others = texts[:at] + texts[at + 1 :]
    return Item(name, row.text("question"), row.text("context"), (texts[at],), (), others)


def _conflictqa(name: str, row: Row) -> Item:
    """An LLM's own answer against that of a passage written to contradict it. The truth is on
    either side: where a true answer stands in the passage's, all of them are the passage's."""
    answers, world = (row.text("counter_answer"),), (row.text("memory_answer"),)
    truth = row.texts("ground_truth")
    if any(holds(answers[0], (true,)) for true in truth):
        answers += truth
    else:
        world += truth
    return Item(name, row.text("question"), row.text("counter_memory"), answers, world)


def _squad(name: str, row: Row) -> Item:
    return Item(name, row.text("question"), row.text("context"), row.texts("answers"))


SCHEMAS = (
    Schema(
        "conflicts", OVERWRITING,
        ("question", "context", "context_answer", "prior_answer"), _conflict,
    ),
    Schema("faitheval", OVERWRITING, ("question", "context", "choices", "answerKey"), _faitheval),
    Schema(
        "conflictqa", OVERWRITING,
        ("question", "ground_truth", "memory_answer", "counter_answer", "counter_memory"),
        _conflictqa,
    ),
    Schema("squad", QA, ("question", "context", "answers"), _squad),
)  # fmt: skip


def read(path: Path, limit: int | None = None, *, task: str = OVERWRITING) -> list[Item]:
    """The first `limit` items (None: all) of a file, in its order; what is beyond is not looked at.

    Raises EvalError for a file that is not there, not whole, empty, of another kind, of a schema
    that is unknown or of another task; a field that is missing, blank or of another type; an id
    that was there before; text that is not UTF-8; a limit below 1.
    """
    jsonl.check_limit(limit)
    items: list[Item] = []
    places: dict[str, str] = {}
    schema = None
    for row in _rows(path):
        schema = schema or _schema(row, task)
        name = _id(row)
        if name in places:
            raise EvalError(
                f"{row.where}: id {name!r} is that of {places[name]} too; expected every item "
                "once, with an id of its own"
            )
        places[name] = row.place
        items.append(schema.item(name, row))
        if len(items) == limit:
            break
    if not items:
        raise EvalError(f"{path}: empty; expected rows {_known(task)}")
    return items


def _schema(row: Row, task: str) -> Schema:
    for schema in SCHEMAS:
        if set(schema.fields) <= set(row.values):
            if schema.task == task:
                return schema
            raise EvalError(
                f"{row.where}: the fields are those of {schema.name}, which is for "
                f"--task={schema.task}; --task={task} takes rows {_known(task)}"
            )
    raise EvalError(
        f"{row.where}: the fields are {', '.join(map(str, row.values)) or 'none'}; "
        f"--task={task} takes rows {_known(task)}"
    )


def _known(task: str) -> str:
    found = [f"{s.name} ({', '.join(s.fields)})" for s in SCHEMAS if s.task == task]
    return "with the fields of " + " or ".join(found)


def _id(row: Row) -> str:
    value = row.values.get("id")
    if value is None:
        return row.place
    if type(value) is int:
        return str(value)
    return row.text("id")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)} ({', '.join(sorted({type(v).__name__ for v in value}))})"
    return type(value).__name__


def _rows(path: Path) -> Iterator[Row]:
    if not path.name.endswith(SUFFIXES):
        raise EvalError(f"{path}: unsupported kind; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise EvalError(f"{path}: no such file; expected one item a row")
    try:
        for number, values in rows(path):
            yield Row(path, place_of(path, number), values)
    except DataError as error:
        raise EvalError(str(error)) from error
