"""What became of every fact of a passage of the controlled world.

The world knows each slot of the source and reads the rebuilt text back into facts, so each slot has
exactly one outcome (`jaxcomp.data.facts.outcome`): kept, overwritten (the prior's favourite came
back instead), swapped (the two arguments exchanged), other, lost. Counts are returned per passage
too, so that intervals and tests can be made later from what was really counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.data.facts import KINDS, OUTCOMES, outcome
from jaxcomp.data.world import Passage, World

GROUPS = ("slots", "nonfavourite")  # every slot; those whose value is not the prior's favourite


class Fate(NamedTuple):
    """One slot of the source and what the rebuilt text says in its place (None: nothing)."""

    kind: str
    value: str
    favourite: str
    rebuilt: str | None
    outcome: str

    @property
    def is_favourite(self) -> bool:
        return self.value == self.favourite

    @property
    def to_prior(self) -> bool:
        """The rebuilt fact is the prior's favourite where the source said something else."""
        return not self.is_favourite and self.rebuilt == self.favourite


def fates(world: World, passage: Passage, rebuilt: str) -> list[Fate]:
    """One `Fate` for each slot of `passage`, in the order of its slots."""
    facts = world.read(rebuilt)
    return [
        Fate(slot.kind, slot.value, slot.favourite, facts.get(slot.key), outcome(slot, facts))
        for slot in passage.slots
    ]


def counts(passage_fates: Sequence[Fate]) -> dict[str, int]:
    """Counts of one passage, named `<group>/<kind>/<outcome>`; names with a zero are left out.

    Groups are `slots` and `nonfavourite`; kinds are the world's and `all`. `to_prior` counts beside
    the outcomes the non-favourite slots that came back as the favourite under whatever outcome.
    """
    out: Counter[str] = Counter()
    for fate in passage_fates:
        for group in GROUPS if not fate.is_favourite else GROUPS[:1]:
            for kind in (fate.kind, "all"):
                out[f"{group}/{kind}/{fate.outcome}"] += 1
                if group == "nonfavourite" and fate.to_prior:
                    out[f"{group}/{kind}/to_prior"] += 1
    return dict(out)


def rates(passage_counts: Sequence[dict[str, int]]) -> dict[str, float | int | None]:
    """Rates over all slots of all passages (sum over sum); None where the denominator is 0.

    For each group and kind: `n`, the number of slots, and each outcome divided by that n. Over all
    kinds: `overwriting` (overwritten / non-favourite slots), `to_prior` (came back as the favourite
    / non-favourite slots) and `drift` ((swapped + other) / all slots).
    """
    total: Counter[str] = Counter()
    for one in passage_counts:
        total.update(one)
    out: dict[str, float | int | None] = {}
    for group in GROUPS:
        for kind in ("all", *KINDS):
            name = f"{group}/{kind}"
            n = sum(total[f"{name}/{o}"] for o in OUTCOMES)
            out[f"{name}/n"] = n
            for o in OUTCOMES:
                out[f"{name}/{o}"] = total[f"{name}/{o}"] / n if n else None
    moved = total["slots/all/swapped"] + total["slots/all/other"]
    n, odd = out["slots/all/n"], out["nonfavourite/all/n"]
    out["drift"] = moved / n if n else None
    out["overwriting"] = total["nonfavourite/all/overwritten"] / odd if odd else None
    out["to_prior"] = total["nonfavourite/all/to_prior"] / odd if odd else None
    return out
