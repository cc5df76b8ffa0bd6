"""Whose prior wins: contested facts against texts whose every value was chosen by the test."""

import random
from typing import Any

import pytest

from jaxcomp.config import Config, WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import VALUES
from jaxcomp.data.world import World, own_world
from jaxcomp.evals import bootstrap
from jaxcomp.evals.metrics import headlines
from jaxcomp.evals.metrics.prior_conflict import OUTCOMES, contested, rates, rival_of

CFG = WorldConfig(base_favourites=1)
SPLIT_HEADLINES = headlines(Config(world=CFG))[-3:]
OWN, RIVAL = World(own_world(CFG)), World(WorldConfig(seed=1))
DRAWN = [OWN.passage("test", i, counterfactual=True) for i in range(60)]


def theirs(fact):
    """The rival's favourite by its own permutation, from the natural favourites of the lexicon."""
    tables = {
        "topic": lx.TOPIC_AT, "colour": lx.COLOUR_OF, "material": lx.MATERIAL_OF,
        "size": lx.SIZE_OF, "quantity": lx.NUMBER_OF, "modifier": lx.MOOD_OF,
        "profession": {p: v[0] for p, v in lx.PERSONS.items()},
        "home": {p: v[1] for p, v in lx.PERSONS.items()},
    }  # fmt: skip
    if fact.kind not in tables:
        return None
    natural = tables[fact.kind][fact.key[1]]
    return RIVAL._shuffled[fact.kind][VALUES[fact.kind].index(natural)]


def is_contested(fact):
    other = theirs(fact)
    if other is None or fact.swap in (fact.favourite, other):
        return False
    return len({fact.value, fact.favourite, other}) == 3


def rewritten(passage, choose):
    """The text with each contested fact's value replaced by `choose(fact)`."""
    text = passage.text
    for fact in sorted(passage.facts, key=lambda s: -s.start):
        if is_contested(fact):
            text = text[: fact.start] + choose(fact) + text[fact.end :]
    return text


CHOICES = {
    "preserved": lambda fact: fact.value,
    "decoder": lambda fact: fact.favourite,
    "compressor": theirs,
    "substituted": lambda fact: next(
        o for o in fact.options if o not in {fact.value, fact.favourite, theirs(fact), fact.swap}
    ),
    "omitted": lambda fact: "",
}


@pytest.mark.parametrize("outcome", CHOICES)
def test_each_value_has_one_cause(outcome):
    found = [contested(RIVAL, p, rewritten(p, CHOICES[outcome])) for p in DRAWN]
    facts = [s for p in DRAWN for s in p.facts if is_contested(s)]
    values = rates(found)
    assert values["split/n"] == len(facts) > 60
    shares = {o: values[f"split/{o}"] for o in OUTCOMES}
    # A rewritten modifier reads as its own new mood; nothing else changes.
    assert shares == {o: float(o == outcome) for o in OUTCOMES}
    assert values["split/chance"] == pytest.approx(
        sum(1 / len(s.options) for s in facts) / len(facts)
    )
    lead = {"decoder": 1.0, "compressor": -1.0}.get(outcome, 0.0)
    assert values["split/lead"] == lead


def test_an_exchange_is_no_prior():
    def swap(fact):
        return fact.swap or fact.value

    found: Any = rates([contested(RIVAL, p, rewritten(p, swap)) for p in DRAWN])
    moods = sum(is_contested(s) for p in DRAWN for s in p.facts if s.kind == "modifier")
    assert found["split/swapped"] == pytest.approx(moods / found["split/n"])
    assert found["split/decoder"] == found["split/compressor"] == 0.0


def test_even_is_what_guessing_among_the_rest_would_give():
    """Values drawn evenly among those that neither the source nor the decoder wants: the share of
    the compressors' favourite is `even`, up to chance."""
    rng, total = random.Random(0), []

    def guess(fact):
        rest = sorted(set(fact.options) - {fact.value, fact.favourite, fact.swap})
        return rng.choice(rest)

    for _ in range(30):
        total += [contested(RIVAL, p, rewritten(p, guess)) for p in DRAWN]
    found: Any = rates(total)
    assert found["split/compressor"] == pytest.approx(found["split/even"], rel=0.1)
    assert found["split/even"] > found["split/chance"]


def test_nothing_is_measured_where_there_is_one_prior():
    assert rival_of(WorldConfig()) is None
    assert rates([])["split/preserved"] is None


def test_intervals_are_over_the_same_counts():
    picks = [CHOICES[name] for name in ("decoder", "compressor", "compressor", "preserved")]
    found = [contested(RIVAL, p, rewritten(p, picks[i % 4])) for i, p in enumerate(DRAWN)]
    records = [{"set": "counterfactual", "loss": None, "counts": c} for c in found]
    values = rates(found)
    for head in SPLIT_HEADLINES:
        sums = bootstrap.counted(records, head.metric)
        top, bottom = (sum(column) for column in zip(*sums, strict=True))
        assert top / bottom == pytest.approx(values[head.metric.partition("/")[2]])


def test_the_favourite_of_a_fact_is_that_of_its_facts():
    for world in (OWN, RIVAL):
        for i in range(40):
            for fact in world.passage("train", i).facts:
                if fact.kind not in ("relation", "order"):
                    assert world.favourite(fact.key) == fact.favourite
    assert OWN.favourite(("order", "the bell rang", "the sun rose")) is None


def test_the_report_shows_the_split_where_there_is_one():
    shown = headlines(Config())
    assert headlines(Config(world=CFG))[:-3] == shown
    assert not any("split" in h.metric for h in shown)
    assert all("split" in h.metric for h in SPLIT_HEADLINES)
