"""The controlled world: whose prior wins.

Only with `world.base_favourites` (docs/explanation/controlled-world.md): the compressors' base
models were pretrained on a world of other favourites, and the decoder and all other text keep this
one's. A fact is *contested* where the source says neither world's favourite and the two differ;
kinds of two values (polarity, relation, order) have no such fact, and a modifier whose exchange
with the other animal's would be a favourite is left out. In the rebuilt text (FR) a contested fact
is **preserved** (the source's value), back as the **decoder**'s favourite, as the **compressor**'s
(that of its base's world), **swapped** (the other animal's), **substituted**, or **omitted** (no
such fact).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from jaxcomp.config import WorldConfig
from jaxcomp.data.facts import Fact
from jaxcomp.data.world import Passage, World, bases_world
from jaxcomp.evals.eval_set import EvalSet
from jaxcomp.evals.metric import (
    FREE_RUNNING,
    POOLED,
    Metric,
    Record,
    Show,
    Sums,
    Values,
    headline,
    metrics,
)

OUTCOMES = ("preserved", "decoder", "compressor", "swapped", "substituted", "omitted")
EXPECTED = ("chance", "even")

Counts = dict[str, float]


def rival_of(config: WorldConfig) -> World | None:
    """The world of the compressors' base models; None where its favourites are this one's."""
    return World(bases_world(config)) if config.base_favourites else None


def contested(rival: World, passage: Passage, rebuilt: str) -> Counts:
    """Of one passage: `split/n`, the contested facts, and the sums over them that `rates` divides
    by n; zeros are left out."""
    values, out = rival.read(rebuilt), defaultdict[str, float](float)
    for fact in passage.facts:
        theirs = _their_favourite(fact, rival)
        if theirs is None:
            continue
        value = values.get(fact.key)
        named = {fact.value: "preserved", fact.favourite: "decoder", theirs: "compressor"}
        named |= {None: "omitted"} | ({fact.swap: "swapped"} if fact.swap else {})
        out["split/n"] += 1
        out[f"split/{named.get(value, 'substituted')}"] += 1
        out["split/chance"] += 1 / len(fact.options)
        rest = set(fact.options) - {fact.value, fact.favourite, fact.swap}
        if value in rest:
            out["split/even"] += 1 / len(rest)
    return dict(out)


def rates(passage_counts: Sequence[Counts]) -> Values:
    """The metrics of all passages' counts; None where no fact is contested."""
    total = defaultdict[str, float](float)
    for one in passage_counts:
        for name, count in one.items():
            total[name] += count
    n = round(total["split/n"])
    out: Values = {"split/n": n}
    for name in (*OUTCOMES, *EXPECTED):
        out[f"split/{name}"] = total[f"split/{name}"] / n if n else None
    lead = total["split/decoder"] - total["split/compressor"]
    out["split/lead"] = lead / n if n else None
    return out


def column(name: str) -> str:
    """Return the declared column of counterfactual passages for an outcome, "lead" or "even".

    Raises:
      KeyError: no such column is declared below.
    """
    return headline(f"counterfactual/split/{name}").metric


def _their_favourite(fact: Fact, rival: World) -> str | None:
    """The other world's favourite of a contested fact."""
    theirs = rival.favourite(fact.key)
    if theirs is None or fact.swap in (fact.favourite, theirs):
        return None
    return theirs if len({fact.value, fact.favourite, theirs}) == 3 else None


def _sums(record: Record, name: str) -> Sums | None:
    counts = record.get("counts")
    if counts is None:
        return None
    made = name.partition("/")[2]
    signs = {"decoder": 1, "compressor": -1} if made == "lead" else {made: 1}
    top = sum(sign * counts.get(f"split/{one}", 0) for one, sign in signs.items())
    return top, counts.get("split/n", 0)


def _split(name: str, definition: str, *shown: Show, run: str = FREE_RUNNING) -> Metric:
    name = f"<world>/split/{name}"
    return Metric(name, "share", definition, run, POOLED, shown=shown, sums=_sums)


def _show(label: str, place: int, meaning: str) -> Show:
    return Show(label, place, "", meaning, ("counterfactual",))


_BASES = "favourite of the compressors' bases"
_LEAD = "to the decoder's favourite less to the compressors'; above 0 the decoder's prior wins"
_BACK = (
    "contested facts (neither world's favourite in the source, counterfactual passages) that came "
    "back as the {} / all such"
)


@metrics(
    Metric("<world>/split/n", "count", "contested facts"),
    _split("preserved", "preserved / n"),
    _split(
        "decoder",
        "back as the decoder's favourite / n",
        _show("to the decoder's favourite", 90, _BACK.format("decoder's favourite")),
    ),
    _split(
        "compressor",
        f"back as the {_BASES} / n",
        _show(
            "to the compressors' favourite", 91, _BACK.format("favourite of the compressors' bases")
        ),
    ),
    _split("swapped", "swapped / n"),
    _split("substituted", "substituted / n"),
    _split("omitted", "omitted / n"),
    _split(
        "lead",
        "`decoder` – `compressor`: above 0 the decoder's prior wins",
        _show("lead of the decoder's prior", 92, _LEAD),
    ),
    _split(
        "chance",
        "mean of 1 / number of the fact's values: what a decoder that guesses evenly among all of "
        "them gives to each",
        run="–",
    ),
    _split(
        "even",
        "what `compressor` would be if the compressors' favourite had no pull: facts that came "
        "back as a value that is neither the source's nor the decoder's favourite (nor an "
        "exchange), each counted 1 / number of such values, / n",
    ),
    without=["split/preserved", "split/decoder", "split/compressor"],
    applies=lambda cfg: bool(cfg.world.base_favourites),
)
def split(eval_set: EvalSet) -> Values:
    rival = rival_of(eval_set.cfg.world)
    if rival is None:
        return {}
    pairs = zip(eval_set.passages, eval_set.rows, strict=True)
    return rates([contested(rival, p, row.rebuilt) for p, row in pairs])
