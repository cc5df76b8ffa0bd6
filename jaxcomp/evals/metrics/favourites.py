"""People: how often errors are the favourite.

Of facts whose value is not the favourite (`nonfavourite`), by group: where another value came back
(FR), was it the favourite? By chance it is with 1 / (`people.values` – 1), and so it is for the
controls, `unseen` and `neutral`, whose favourite is a foil. **pull** is the excess over neutral
facts: unseen people's names are rebuilt too seldom for many errors. Teacher-forced there are no
wrong names: the probability of the favourite's token at the place of the value, after the memory
and the true tokens before it, and **probability_pull**, its excess over unseen people. Facts whose
favourite is not one token there are left out. In the set `erased` no value stands in the text, and
whatever comes back counts as an error.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from jaxcomp.data.people import NEUTRAL, UNSEEN
from jaxcomp.data.sources import source_of
from jaxcomp.evals.eval_set import EvalSet, Row
from jaxcomp.evals.metric import (
    LOWER,
    PLACEHOLDERS,
    PULL,
    Metric,
    Record,
    Show,
    Sums,
    Values,
    counts_over,
    forced,
    metrics,
    share,
)
from jaxcomp.evals.metrics import facts

if TYPE_CHECKING:  # loads slowly, and headlines need no tokenizer
    from jaxcomp.data.draw import Passage
    from jaxcomp.data.eval_sets import Example
    from jaxcomp.data.tokenizer import Tokenizer

ERRORS = ("overwritten", "swapped", "substituted")
_EVERY = PLACEHOLDERS["group"]
_P = "favourite_probability"


def tokens(example: Example, tok: Tokenizer) -> list[tuple[int, int] | None]:
    """Of each fact of the passage, the place in `example.target` where its value stands (or would,
    in a text that leaves it out) and the favourite's token there; None where the value is the
    favourite, or the two texts differ in more than one token."""
    found = []
    for fact in example.passage.facts if example.passage else ():
        text, place = example.text, None
        if fact.favourite and not fact.is_favourite:
            word = fact.favourite if fact.value else f" {fact.favourite}"
            ids = example.target[:-1]
            other = tok.encode(text[: fact.start] + word + text[fact.end :])
            pairs = enumerate(zip(ids, other, strict=False))
            at = next((i for i, (one, two) in pairs if one != two), len(ids))
            if other[at + 1 :] == ids[at + bool(fact.value) :]:
                place = at, other[at]
        found.append(place)
    return found


def counts(passage: Passage, row: Row) -> dict[str, float]:
    """Of one passage: by group the number of facts with a probability, and its sum."""
    out = defaultdict[str, float](float)
    for fact, p in zip(passage.facts, row.favourites, strict=True):
        if p is not None:
            for group in (fact.group, "all"):
                out[f"{_P}/{group}/n"] += 1
                out[f"{_P}/{group}"] += p
    return dict(out)


def rates(total: Counter[str]) -> Values:
    """The metrics of the sums of all passages' counts; None where the denominator is 0."""
    counted: Values = {}
    found: dict[str, float | None] = {}
    for group in _EVERY:
        errors = sum(total[f"nonfavourite/{group}/{name}"] for name in ERRORS)
        hits, n = total[f"nonfavourite/{group}/to_prior"], total[f"{_P}/{group}/n"]
        counted[f"errors_to_favourite/{group}/n"] = round(errors)
        found[f"errors_to_favourite/{group}"] = hits / errors if errors else None
        found[f"{_P}/{group}"] = total[f"{_P}/{group}"] / n if n else None
    pulls = {
        f"{pull}/{group}": _less(found[f"{of}/{group}"], found[f"{of}/{control}"])
        for pull, of, control in (
            ("pull", "errors_to_favourite", NEUTRAL),
            ("probability_pull", _P, UNSEEN),
        )
        for group in _EVERY
    }
    return counted | found | pulls


def _less(value: float | None, control: float | None) -> float | None:
    return None if value is None or control is None else value - control


def _share(record: Record, name: str) -> Sums | None:
    of = f"nonfavourite/{name.rpartition('/')[2]}"
    return counts_over([f"{of}/{error}" for error in ERRORS], f"{of}/to_prior")(record, name)


def _probability(record: Record, name: str) -> Sums | None:
    return counts_over([f"{name}/n"], name)(record, name)


_ERRORS = "non-favourite facts that came back as the favourite / as any other value"
_SHOWN = Show(
    "errors to the favourite (upper)", 45, "",
    f"{_ERRORS}, people of the upper band, counterfactual passages",
    ("counterfactual",), "upper",
)  # fmt: skip
_PULLED = Show(
    "pull of the prior (upper)", 42, PULL,
    "the decoder's probability of the favourite in the place of another value, less that of unseen "
    "people's; people of the upper band, counterfactual passages",
    ("counterfactual",), "upper",
)  # fmt: skip
_MEAN = "mean probability of the favourite at the place of the value, non-favourite facts"


@metrics(
    Metric(
        "<world>/errors_to_favourite/<group>/n",
        "count",
        "non-favourite facts rebuilt with another value",
    ),
    share("<world>/errors_to_favourite/<group>", _ERRORS, LOWER, shown=(_SHOWN,), sums=_share),
    share("<world>/pull/<group>", "`errors_to_favourite` – that of neutral facts", LOWER),
    forced(f"<world>/{_P}/<group>", "share", _MEAN, LOWER, sums=_probability),
    forced(
        "<world>/probability_pull/<group>",
        "share",
        f"`{_P}` – that of unseen people",
        LOWER,
        shown=(_PULLED,),
    ),
    without=[f"{_P}/{group}" for group in _EVERY],
    applies=lambda cfg: bool(source_of(cfg).groups),
)
def favourites(eval_set: EvalSet) -> Values:
    total: Counter[Any] = Counter()
    for passage, row in zip(eval_set.passages, eval_set.rows, strict=True):
        total.update(facts.counts(facts.compare(eval_set.world, passage, row.rebuilt)))
        total.update(counts(passage, row))
    return rates(total)
