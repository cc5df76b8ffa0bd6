"""Whose prior wins, where the compressors' base models read a world of other favourites.

`world.base_favourites` gives the text that they were pretrained on the favourites of another world;
the decoder, and all text to train on and to rebuild, keep this one's. A slot is *contested* where
the source says neither world's favourite, and the two differ: then each of three values has one
cause. So no slot of a kind with two values is. Modifiers whose exchange with the other animal's
would be one of the favourites are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from jaxcomp.config import WorldConfig
from jaxcomp.data.facts import Slot
from jaxcomp.data.world import Passage, World, bases_world

OUTCOMES = ("kept", "decoder", "compressor", "swapped", "other", "lost")
EXPECTED = ("chance", "even")
FLOOR = ("kept", "decoder", "compressor")

Counts = dict[str, float]


def rival_of(config: WorldConfig) -> World | None:
    """The world of the compressors' base models; None where its favourites are this one's."""
    return World(bases_world(config)) if config.base_favourites else None


def contested(rival: World, passage: Passage, rebuilt: str) -> Counts:
    """Of one passage: `split/n`, the contested slots, and `split/<outcome>`; zeros are left out.

    Beside the outcomes, sums over those slots of what to expect: `chance`, 1 / its options; `even`,
    where the rebuilt value is an option that is not the source's, the decoder's favourite or the
    exchanged one, 1 / the number of such options.
    """
    facts, out = rival.read(rebuilt), defaultdict[str, float](float)
    for slot in passage.slots:
        theirs = _their_favourite(slot, rival)
        if theirs is None:
            continue
        value = facts.get(slot.key)
        out["split/n"] += 1
        out[f"split/{_outcome(slot, theirs, value)}"] += 1
        out["split/chance"] += 1 / len(slot.options)
        rest = set(slot.options) - {slot.value, slot.favourite, slot.swap}
        if value in rest:
            out["split/even"] += 1 / len(rest)
    return dict(out)


def rates(passage_counts: Sequence[Counts]) -> dict[str, float | int | None]:
    """`split/n`, and each outcome, `chance`, `even` and `lead` (decoder - compressor) over that n,
    sums over sums; None where no slot is contested."""
    total = defaultdict[str, float](float)
    for one in passage_counts:
        for name, count in one.items():
            total[name] += count
    n = round(total["split/n"])
    out: dict[str, float | int | None] = {"split/n": n}
    for name in (*OUTCOMES, *EXPECTED):
        out[f"split/{name}"] = total[f"split/{name}"] / n if n else None
    lead = total["split/decoder"] - total["split/compressor"]
    out["split/lead"] = lead / n if n else None
    return out


def measured(
    config: WorldConfig, passages: Sequence[Passage], rebuilt: Sequence[str], floor: Sequence[str]
) -> dict[str, float | int | None]:
    """`rates` of the rebuilt texts, and `floor/` some of them without memory; empty for a world
    whose bases read its own favourites."""
    other = rival_of(config)
    if other is None:
        return {}
    found, bare = (
        rates([contested(other, p, text) for p, text in zip(passages, texts, strict=True)])
        for texts in (rebuilt, floor)
    )
    return found | {f"floor/split/{name}": bare[f"split/{name}"] for name in FLOOR}


def _their_favourite(slot: Slot, rival: World) -> str | None:
    """The other world's favourite of a contested slot."""
    theirs = rival.favourite(slot.key)
    if theirs is None or slot.swap in (slot.favourite, theirs):
        return None
    return theirs if len({slot.value, slot.favourite, theirs}) == 3 else None


def _outcome(slot: Slot, theirs: str, value: str | None) -> str:
    if value is None:
        return "lost"
    named = {slot.value: "kept", slot.favourite: "decoder", theirs: "compressor"}
    if slot.swap:
        named[slot.swap] = "swapped"
    return named.get(value, "other")
