"""RULER: `jaxcomp eval --task=ruler --length=4096`.

Nine of RULER's thirteen tasks (Hsieh et al. 2024, arXiv 2404.06654), generated from a seed
(`jaxcomp/evals/qa/ruler.py`): eight of needles in a haystack and variable tracking, `vt`. Not made:
common and frequent words, and the questions of SQuAD and HotpotQA. The decoder reads each context
in the conditions of `overwriting`, then the question and the beginning of an answer.

- **length**: most tokens of a context in the compressor's tokenizer, the request to remember
  included, the question not. One more sentence or needle would exceed it. RULER's length counts
  question and answer too.
- **recall** (FR): of the expected texts, the share that stands in the greedy answer (at most 128
  tokens, until the end token), in any case; RULER's `string_match_all`. Of a task the mean over its
  items, over all the mean over items, so over tasks if none was left out. 95% intervals: bootstrap,
  as of `overwriting`.
- **haystack**: essays from `--data=FILE`, otherwise five sentences repeated, which is easier;
  then `niah_single_2`, which would equal `niah_single_1`, is left out.
- **answerable**, **known**: all expected texts found from `text`, from `nothing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxcomp.evals.evaluation import LENGTH, Report, Request, evaluation
from jaxcomp.evals.qa import ask
from jaxcomp.evals.qa import ruler as generated
from jaxcomp.evals.qa.ask import Task, head, shown
from jaxcomp.evals.qa.conditions import Prepared, Reading, in_order
from jaxcomp.evals.qa.filters import Record
from jaxcomp.evals.qa.items import Item
from jaxcomp.evals.qa.scoring import average
from jaxcomp.inference.documents import read

DEFAULT = 4096  # tokens of a context
MAX_NEW = 128  # tokens of an answer
_CHARS = 16  # of an essay, at most so many a token are read


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`conditions`: by condition the mean `recall`, and by task that of its items."""
    tasks = [t for t in generated.TASKS if any(generated.task_of(r["id"]) == t for r in records)]

    def recall(condition: str, task: str = "") -> dict[str, Any]:
        some = [r for r in records if task in ("", generated.task_of(r["id"]))]
        return average([r["conditions"][condition]["recall"] for r in some])

    return {
        "conditions": {
            c: {"recall": recall(c), "tasks": {task: recall(c, task) for task in tasks}}
            for c in in_order(records[0]["conditions"])
        }
    }


def table(result: dict[str, Any]) -> str:
    """A result as text: a row a condition, a column a task."""
    found = result["conditions"]
    lines, width = head(result), max(12, *map(len, found))
    tasks = [task for task in generated.TASKS if task in found["text"]["tasks"]]
    columns = "".join(f"{task.removeprefix('niah_'):>12}" for task in tasks)
    lines.append(f"{'answer from':{width}}{columns}{'mean':>22}")
    for condition in in_order(found):
        means = [found[condition]["tasks"][task]["mean"] for task in tasks]
        each = "".join(f"{100 * mean:>11.1f}%" for mean in means)
        lines.append(f"{condition:{width}}{each}{shown(found[condition]['recall']):>22}")
    lines += [
        "",
        "Share of the expected texts found (RULER's string match). 95% intervals: bootstrap",
    ]
    return "\n".join(lines)


def _scored(prepared: Prepared, readings: dict[str, Reading]) -> Record:
    conditions = {
        name: {
            "answer": readings[name].answer,
            "recall": generated.recall(readings[name].answer, prepared.item.answers),
        }
        for name in in_order(readings)
    }
    return {"conditions": conditions}


def _all_found(condition: str):
    return lambda record: record["conditions"][condition]["recall"] == 1


TASK = Task(
    "ruler", 1, _scored, rates, _all_found("text"), _all_found("nothing"), max_new=MAX_NEW, stop=""
)


@evaluation(
    "ruler",
    about="are needles found in a generated text of --length tokens?",
    options=(LENGTH, *ask.OPTIONS),
)
def ruler(request: Request) -> Report:
    length = request.length or DEFAULT

    def items() -> list[Item]:
        essay, pair = "", request.pair
        for text in read([str(request.data)]) if request.data else []:
            essay += f"{text.text}\n"
            if len(essay) > _CHARS * length:
                break
        essay = pair.dec_tok.respell([essay[: _CHARS * length]])[0]
        count = request.limit or generated.PER_TASK
        return generated.items(pair.comp_tok, length, count, essay=essay)

    stem = "-".join([str(length), *([request.stem] if request.data else [])])
    return ask.asked(TASK, request, table, items, stem)
