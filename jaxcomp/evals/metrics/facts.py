"""The controlled world: what became of each fact.

A fact has one value in the source passage. The rebuilt text (FR) is read back
into facts by the world's own parser (the first mention of a fact counts), and each fact has exactly
one outcome: **preserved** (the same value), **swapped** (the two arguments exchanged; kinds
relation, modifier and order), **overwritten** (the prior's favourite instead of another value),
**substituted** (another value), **omitted** (no such fact). The first that applies, in this order,
is the outcome; so for relation and order, which have two values each, falling back to the usual
order of the arguments is a swap. `to_prior` counts beside the outcomes every non-favourite fact
that came back as the favourite, swaps included. `facts/` is over all facts, `nonfavourite/` over
those whose source value is not the prior's favourite: predictable facts cannot flatter there, and
only they can be overwritten.

The generator knows the probability of each passage, so what a memory must carry is known exactly
(`passage_bits`).

In the people world facts are also counted by group (in place of a kind in the column): the band of
their person's rank by exposure (head, upper, middle, tail), `unseen` people, of whom no text was,
and `neutral` facts, for which nobody has a favourite; both are controls, whose `favourite` is a
foil that no text prefers. An attribute counts as swapped where it has the value that another person
of the passage has. Relations have no favourite. In the set `erased` one attribute's value is left
out of the text: preserved is then that none comes back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.data.draw import FactWorld, Passage
from jaxcomp.data.facts import KINDS, OUTCOMES, outcome
from jaxcomp.data.sources import source_of
from jaxcomp.evals.eval_set import EvalSet
from jaxcomp.evals.metric import (
    DRIFT,
    HIGHER,
    LOWER,
    OVERWRITING,
    PASSAGES,
    POOLED,
    PRIMARY,
    Metric,
    Record,
    Show,
    Sums,
    Values,
    counts_over,
    metrics,
    share,
)

GROUPS = ("facts", "nonfavourite")  # every fact; those whose value is not the prior's favourite


class FactOutcome(NamedTuple):
    """One fact of the source and what the rebuilt text says in its place (None: nothing)."""

    kind: str
    value: str
    favourite: str
    rebuilt: str | None
    outcome: str
    group: str = ""  # Fact.group

    @property
    def is_favourite(self) -> bool:
        return self.value == self.favourite

    @property
    def to_prior(self) -> bool:
        """The rebuilt fact is the prior's favourite where the source said something else."""
        return not self.is_favourite and self.rebuilt == self.favourite


def compare(world: FactWorld, passage: Passage, rebuilt: str) -> list[FactOutcome]:
    """One `FactOutcome` for each fact of `passage`, in the order of its facts."""
    values = world.read(rebuilt)
    return [
        FactOutcome(f.kind, f.value, f.favourite, values.get(f.key), outcome(f, values), f.group)
        for f in passage.facts
    ]


def counts(passage_outcomes: Sequence[FactOutcome]) -> dict[str, int]:
    """Counts of one passage, named `<group>/<kind>/<outcome>`, or `.../to_prior`; names with a zero
    are left out."""
    out: Counter[str] = Counter()
    for one in passage_outcomes:
        odd = one.favourite and not one.is_favourite
        for group in GROUPS if odd else GROUPS[:1]:
            for kind in filter(None, (one.kind, one.group, "all")):
                out[f"{group}/{kind}/{one.outcome}"] += 1
                if group == "nonfavourite" and one.to_prior:
                    out[f"{group}/{kind}/to_prior"] += 1
    return dict(out)


def rates(passage_counts: Sequence[dict[str, int]], kinds: Sequence[str] = KINDS) -> Values:
    """The metrics of `outcomes` of all passages' counts; None where the denominator is 0. `kinds`
    of facts, and their groups."""
    total = sum(map(Counter, passage_counts), Counter[str]())
    out: Values = {}
    for group in GROUPS:
        for kind in ("all", *kinds):
            name = f"{group}/{kind}"
            n = sum(total[f"{name}/{o}"] for o in OUTCOMES)
            out[f"{name}/n"] = n
            for o in OUTCOMES:
                out[f"{name}/{o}"] = total[f"{name}/{o}"] / n if n else None
    moved = total["facts/all/swapped"] + total["facts/all/substituted"]
    n, odd = out["facts/all/n"], out["nonfavourite/all/n"]
    out["drift"] = moved / n if n else None
    out["overwriting"] = total["nonfavourite/all/overwritten"] / odd if odd else None
    out["to_prior"] = total["nonfavourite/all/to_prior"] / odd if odd else None
    return out


@metrics(
    Metric(
        "<world>/passage_bits",
        "bits",
        "–log2 p(text) under the world's `prior_strength`",
        average=PASSAGES,
    ),
    Metric(
        "<world>/passage_bits_per_byte",
        "bits/byte",
        "Σ –log2 p(text) / bytes: what bits_per_byte would be with full knowledge of the world and "
        "no memory",
        average=POOLED,
    ),
    Metric(
        "<world>/passage_bits_per_vector",
        "bits/vector",
        "Σ –log2 p(text) / vectors",
        average=POOLED,
    ),
)
def entropy(eval_set: EvalSet) -> Values:
    bits = math.fsum(p.bits for p in eval_set.passages)
    return {
        "passage_bits": bits / len(eval_set.passages),
        "passage_bits_per_byte": bits / sum(len(p.text.encode()) for p in eval_set.passages),
        "passage_bits_per_vector": bits / eval_set.vectors if eval_set.vectors else None,
    }


def _every(group: str) -> list[str]:
    return [f"{group}/{outcome}" for outcome in OUTCOMES]


def _share(record: Record, name: str) -> Sums | None:
    return counts_over(_every(name.rpartition("/")[0]), name)(record, name)


_OFF = "facts whose value is not the prior's favourite"
_KEPT = f"{_OFF}, preserved in the rebuilt text / all such"
_PRIMARY = f"primary endpoint: {_KEPT}, counterfactual passages"
_RARE = f"{_KEPT}, ordinary passages"
_BACK = f"{_OFF} that came back as the favourite / all such, counterfactual passages"
_SHOWN = {
    "nonfavourite/preserved": (
        Show("counterfactual facts preserved", 30, PRIMARY, _PRIMARY, ("counterfactual",)),
        Show("rare facts preserved", 50, "", _RARE, ("ordinary",)),
    )
}


def _outcomes(group: str, what: str, n: str) -> list[Metric]:
    """The metrics of one group, by kind."""
    better = {"preserved": HIGHER}
    return [
        Metric(f"<world>/{group}/<kind>/n", "count", what),
        *(
            share(
                f"<world>/{group}/<kind>/{outcome}",
                f"{outcome} / {n}",
                better.get(outcome, LOWER),
                shown=_SHOWN.get(f"{group}/{outcome}", ()),
                sums=_share,
            )
            for outcome in OUTCOMES
        ),
    ]


@metrics(
    *_outcomes("facts", "facts of that kind", "n"),
    *_outcomes("nonfavourite", "facts of that kind whose value is not the favourite", "that n"),
    share(
        "<world>/overwriting",
        "**overwriting**: overwritten / non-favourite facts, over all kinds",
        LOWER,
        shown=(Show("overwriting", 40, OVERWRITING, _BACK, ("counterfactual",)),),
        sums=counts_over(_every("nonfavourite/all"), "nonfavourite/all/overwritten"),
    ),
    share(
        "<world>/to_prior",
        "non-favourite facts that came back as the favourite, swapped or overwritten / "
        "non-favourite facts",
        LOWER,
    ),
    share(
        "<world>/drift",
        "**drift**: (swapped + substituted) / all facts",
        LOWER,
        shown=(
            Show(
                "drift",
                60,
                DRIFT,
                "(swapped + substituted) / all facts, ordinary passages",
                ("ordinary",),
            ),
        ),
        sums=counts_over(_every("facts/all"), "facts/all/swapped", "facts/all/substituted"),
    ),
    without=[f"{group}/all/preserved" for group in GROUPS] + ["overwriting", "to_prior", "drift"],
)
def outcomes(eval_set: EvalSet) -> Values:
    pairs = zip(eval_set.passages, eval_set.rows, strict=True)
    row, world = source_of(eval_set.cfg), eval_set.world
    found = [counts(compare(world, p, rebuilt.rebuilt)) for p, rebuilt in pairs]
    return rates(found, (*row.kinds, *row.groups))
