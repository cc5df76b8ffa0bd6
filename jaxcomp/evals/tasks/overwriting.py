"""Overwriting on real text: `jaxcomp eval --task=overwriting`.

Does an answer from the memory follow the passage or the world? Of each item, from four conditions
with the same question tokens: `nothing` (the question alone, closed book), `text` (the passage as
plain text, then the question), `memory` (the passage's memory alone, the marker of continuing, the
question), `rebuilt` (the text that `reconstruct` makes of that memory, greedy, then read like
`text`).

- **options**: what a likelihood chooses among is the first answer of either side and every further
  option: the tokens that " " and the answer add to the question's. By schema: `conflicts`
  (nq_conflicts, a user's own): `context_answer`; `prior_answer`. `faitheval`: the choice that
  `answerKey` names; of the others the *world's answer* has the highest mean ln p from `nothing`,
  one for all conditions and scorings. `conflictqa`: `counter_answer`; `memory_answer`, which an LLM
  said closed book.
- **outcomes**: `passage`, `world`, `other`; they sum to 1.
- `mean` (TF, the primary scoring): the option with the highest mean of ln p per token, given the
  tokens before; no end token. A tie for the highest: `other`. `sum` (TF): the same with the sum,
  which falls with each further token of a name, so its rates differ between tokenizers. Read both.
- `exact` (FR): the greedy answer (at most 24 tokens, until the end token; its first line) *is* an
  answer of that side, by SQuAD's exact match. `holds` (FR): an answer of that side stands in it as
  whole words. Both sides or neither: `other`. **F1** (FR): SQuAD's, the best of a side's answers;
  mean over items. All normalise as SQuAD's evaluate-v1.1.py does.
- **rate**: items with that outcome / items counted, with Wilson's 95% interval; a mean has the
  percentiles of 2,000 bootstrap means over items (seed 0). Questions about one passage are taken
  together: a share's interval is Wilson's of n / deff × (z / t)² items, deff = the variance of the
  share over the C passages, C / (C – 1) × Σ (hits – rate × items)² / n², by that of n independent
  items, at least 1; z = 1.96, t = Student's 97.5% quantile of C – 1 degrees (Korn and Graubard
  1998; Franco et al. 2019); a mean draws whole passages. Of 1,000 simulated sets of 20 passages of
  20 questions (correlation 0.3 within one, a share of 0.3) such intervals hold the truth in 96%,
  Wilson's of independent items in 55%.
- **overwriting rate**: by each scoring, items with `world` from the memory / items with `passage`
  from the full text; the same from the rebuilt text. Not measurable where the denominator is 0.
- **can be asked**: items read, less those left out, which are counted by reason.
- **filter**: rules in this order, with the number left after each: `max_tokens=N` (the passage has
  at most N decoder tokens), `stated` (an answer of the passage stands in it as whole words),
  `answerable` (`text` gives the passage's answer, by `mean`), `known` (`nothing` gives the world's
  answer, by `mean`). By default every item that can be asked is counted.
- **not_stated**: items counted whose passage does not hold its answer word for word.
  **world_in_question**: whose question holds an answer of the world's. **beyond_training**: whose
  memory has more segments than an example of the training. **rebuilt_cut**: whose rebuilt text lost
  its end. All of them are in the rates.
- **select**: further conditions, read like `text`, from parts of the passage: as many decoder
  tokens as the memory has vectors (`lead`), or a share of the passage's (`lead 5%`), rounded down.
  `lead`: the first sentences, until the next no longer fits. `random`: in an order drawn for each
  item (seed: its id). `bm25`: by BM25 (k1 = 1.5, b = 0.75) for the question's words. Always at
  least one whole sentence; what is kept stands in the passage's order. `sage`, `sage-baseline`,
  `sage-raw`: windows of 2% of the passage by SAGE (arXiv 2604.15583), with the score of the least
  similar other question about the passage, of a neutral request, or nothing subtracted; spans are
  joined by spaces. The scorer is `--scorer`, or the pair's decoder.
- **attention-sentences**: sentences, the most relevant first. Relevance: the mean over a sentence's
  tokens of the attention from the question (mean over the decoder's layers, heads and the tail's
  tokens) less that from an empty question.
- **tokens** (of a selection): decoder tokens kept, mean over items counted.

The result file: `about` (what decides the records), `filter`, `items`, `conditions`,
`overwriting` (each share as `count`, `n`, `rate`, `low`, `high`) and `records`, one an item.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jaxcomp.evals.evaluation import Report, Request, evaluation
from jaxcomp.evals.qa import ask, squad
from jaxcomp.evals.qa.ask import Task, head, shown
from jaxcomp.evals.qa.conditions import Prepared, Reading, in_order
from jaxcomp.evals.qa.filters import Record
from jaxcomp.evals.qa.scoring import (
    OUTCOMES,
    PASSAGE,
    PRIMARY,
    SCORINGS,
    WORLD,
    average,
    likelier,
    proportion,
    said,
)

SIDES = (PASSAGE, WORLD)
FROM_MEMORY = ("memory", "rebuilt")


def rates(records: Sequence[Record]) -> dict[str, Any]:
    """`conditions`: by condition the share of each outcome by scoring, and the mean `f1` with
    either side's answers. `overwriting`: from the memory and from the rebuilt text, by scoring,
    the share with the world's answer among those with the passage's answer from the full text."""
    contexts = [r["context"] for r in records]
    conditions = {
        condition: {
            scoring: {
                outcome: proportion(
                    [r["conditions"][condition][scoring] == outcome for r in records], contexts
                )
                for outcome in OUTCOMES
            }
            for scoring in SCORINGS
        }
        | {
            "f1": {
                side: average([r["conditions"][condition]["f1"][side] for r in records], contexts)
                for side in SIDES
            }
        }
        for condition in in_order(records[0]["conditions"])
    }
    overwriting = {condition: {} for condition in FROM_MEMORY}
    for scoring in SCORINGS:
        right = [r for r in records if r["conditions"]["text"][scoring] == PASSAGE]
        about = [r["context"] for r in right]
        for condition in FROM_MEMORY:
            lost = [r["conditions"][condition][scoring] == WORLD for r in right]
            overwriting[condition][scoring] = proportion(lost, about)
    return {"conditions": conditions, "overwriting": overwriting}


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    lines, width = head(result), max(12, *map(len, result["conditions"]))
    lines.append(
        f"{'answer from':{width}} {'scored by':10}" + "".join(f"{o:>26}" for o in OUTCOMES)
    )
    for condition in in_order(result["conditions"]):
        found = result["conditions"][condition]
        for scoring in SCORINGS:
            each = "".join(f"{shown(found[scoring][outcome]):>26}" for outcome in OUTCOMES)
            lines.append(f"{condition:{width}} {scoring:10}{each}")
        each = "".join(f"{shown(found['f1'][side]):>26}" for side in SIDES)
        lines.append(f"{condition:{width}} {'mean F1':10}{each}")
    lines += ["", "overwriting: the world's answer, where the full text's was the passage's"]
    for condition in FROM_MEMORY:
        for scoring in SCORINGS:
            found = result["overwriting"][condition][scoring]
            count = f"{found['count']}/{found['n']}"
            primary = "  (primary)" if (condition, scoring) == ("memory", PRIMARY) else ""
            lines.append(f"{condition:{width}} {scoring:10}{shown(found):>26}  {count}{primary}")
    lines += ["", "95% intervals: Wilson's; of F1 bootstrap. Definitions: the metrics page"]
    return "\n".join(lines)


def _scored(prepared: Prepared, readings: dict[str, Reading]) -> Record:
    """One world's answer in every condition: the file's, else the rival that the decoder finds
    the likeliest from nothing."""
    item, world = prepared.item, 1
    if not item.world:
        means = [score.nats / score.tokens for score in readings["nothing"].options]
        world = min(range(1, len(means)), key=means.__getitem__)
    sides = item.answers, item.world or (item.options[world],)
    conditions = {}
    for name in in_order(readings):
        options, answer = readings[name].options, readings[name].answer
        conditions[name] = {
            "nats": [score.nats for score in options],
            "answer": answer,
            **{scoring: likelier(options, world, scoring) for scoring in ("mean", "sum")},
            **{how: said(answer, *sides, how) for how in ("exact", "holds")},
            "f1": dict(zip(SIDES, (squad.f1(answer, golds) for golds in sides), strict=True)),
        }
    return {"world": world, "conditions": conditions}


def _answerable(record: Record) -> bool:
    return record["conditions"]["text"][PRIMARY] == PASSAGE


def _known(record: Record) -> bool:
    return record["conditions"]["nothing"][PRIMARY] == WORLD


TASK = Task("overwriting", 2, _scored, rates, _answerable, _known)
run = functools.partial(ask.run, TASK)


@evaluation(
    "overwriting",
    about="an answer in the passage was replaced: does the passage's or the world's come?",
    options=ask.OPTIONS,
    needs=("data",),
)
def overwriting(request: Request) -> Report:
    return ask.asked_of_file(TASK, request, table)
