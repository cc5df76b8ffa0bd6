import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.config import WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import KINDS, OUTCOMES, Fact
from jaxcomp.data.world import Passage, World
from jaxcomp.evals.metrics import facts

WORLD = World(WorldConfig())


def passage(index, counterfactual=True):
    return WORLD.passage("test", index, counterfactual=counterfactual)


def one(kind, key, value, favourite, options, swap=""):
    fact = Fact(kind, (kind, *key), value, favourite, swap, options, 0, 0)
    return Passage(0, "", (fact,), "", 1.0)


COLOUR = one("colour", ("strawberry",), "green", "red", lx.COLOURS)
MATERIAL = one("material", ("bench",), "gold", "wood", lx.MATERIALS)
SIZE = one("size", ("mouse",), "huge", "tiny", lx.SIZES)
JOB = one("profession", ("Alice",), "judge", "baker", lx.PROFESSIONS)
HOME = one("home", ("Alice",), "Oslo", "London", lx.HOMES)
TOPIC = one("topic", ("harbour",), "love", "trade", lx.TOPICS)
COUNT = one("quantity", ("ropes",), "nine", "two", lx.NUMBERS)
POLARITY = one("polarity", ("Bob", "sign the letter"), "no", "yes", lx.POLARITIES)
MOOD = one("modifier", ("cat",), "proud", "lazy", lx.MOODS, swap="loyal")
DEEDS = ("Alice hit Bob", "Bob hit Alice")
RELATION = one("relation", ("Alice", "Bob"), DEEDS[1], DEEDS[0], DEEDS, swap=DEEDS[0])
BELL, SHIP = "the bell rang", "the ship sank"
ORDER = one("order", (BELL, SHIP), SHIP, BELL, (BELL, SHIP), swap=BELL)


# Of each kind of one value: a sentence, and another with the same value of another entity.
SENTENCES = [
    (COLOUR, "The strawberry was {}.", "The lemon was green.", "pink"),
    (MATERIAL, "The bench was made of {}.", "The bench was gold.", "clay"),
    (SIZE, "The mouse looked {}.", "The ant looked huge.", "big"),
    (JOB, "Alice worked as a {}.", "Bob worked as a judge.", "singer"),
    (HOME, "Alice lived in {}.", "Leo lived in Oslo.", "Rome"),
    (TOPIC, "At the harbour they talked about {}.", "At the mill they talked about love.", "war"),
    (COUNT, "Bob bought {} ropes.", "Bob bought nine shoes.", "ten"),
    (MOOD, "The {} cat watched the loyal dog.", "The proud fox watched the loyal dog.", "angry"),
]
OTHERS = [
    (COLOUR, "The strawberry green.", "omitted"),
    (COLOUR, "", "omitted"),
    (POLARITY, "Bob did not sign the letter.", "preserved"),
    (POLARITY, "Bob did sign the letter.", "overwritten"),
    (POLARITY, "Bob did not burn the map.", "omitted"),
    (MOOD, "The loyal cat watched the proud dog.", "swapped"),
    (RELATION, "Bob hit Alice.", "preserved"),
    (RELATION, "Alice hit Bob.", "swapped"),
    (RELATION, "Bob paid Alice.", "substituted"),
    (RELATION, "Bob hit Carol.", "omitted"),
    (ORDER, "The ship sank before the bell rang.", "preserved"),
    (ORDER, "The bell rang after the ship sank.", "preserved"),
    (ORDER, "The bell rang before the ship sank.", "swapped"),
    (ORDER, "The ship sank after the bell rang.", "swapped"),
    (ORDER, "The ship sank before the sun rose.", "omitted"),
]
CASES = OTHERS + [
    case
    for source, text, elsewhere, other in SENTENCES
    for case in (
        (source, text.format(source.facts[0].value), "preserved"),
        (source, text.format(source.facts[0].favourite), "overwritten"),
        (source, text.format(other), "substituted"),
        (source, elsewhere, "omitted"),
    )
]


@pytest.mark.parametrize(("source", "rebuilt", "expected"), CASES)
def test_hand_made_rebuildings(source, rebuilt, expected):
    (fact_outcome,) = facts.compare(WORLD, source, rebuilt)
    assert fact_outcome.outcome == expected
    assert fact_outcome.kind == source.facts[0].kind


def test_the_table_above_has_every_kind():
    assert {source.facts[0].kind for source, *_ in CASES} == set(KINDS)


# No deadline: a busy machine is no failure.
@settings(deadline=None, max_examples=60)
@given(index=st.integers(0, 30), seed=st.integers(0, 10**6), damage=st.floats(0, 1))
def test_whatever_comes_back_each_slot_has_exactly_one_outcome(index, seed, damage):
    p = passage(index, counterfactual=bool(seed % 2))
    rng = random.Random(seed)
    words = p.text.split()
    for i in range(len(words)):
        if rng.random() < damage:
            words[i] = rng.choice([rng.choice(WORLD.words()), "", words[rng.randrange(len(words))]])
    found = facts.compare(WORLD, p, " ".join(words))
    for fact, fact_outcome in zip(p.facts, found, strict=True):
        assert (fact_outcome.outcome == "omitted") == (fact_outcome.rebuilt is None)
        assert (fact_outcome.outcome == "preserved") == (fact_outcome.rebuilt == fact.value)
        if fact_outcome.outcome == "overwritten":
            assert fact_outcome.rebuilt == fact.favourite != fact.value
        if fact_outcome.outcome == "swapped":
            assert fact_outcome.rebuilt == fact.swap != ""
    got = facts.counts(found)
    odd = sum(not s.is_favourite for s in p.facts)
    for group, n in (("facts", len(p.facts)), ("nonfavourite", odd)):
        assert sum(got.get(f"{group}/all/{o}", 0) for o in OUTCOMES) == n
        by_kind = (got.get(f"{group}/{k}/{o}", 0) for k in KINDS for o in OUTCOMES)
        assert sum(by_kind) == n


def test_rates_have_the_stated_denominators():
    ordinary = one("colour", ("lemon",), "yellow", "yellow", lx.COLOURS)
    pairs = [
        (COLOUR, "The strawberry was green."),  # preserved
        (COLOUR, "The strawberry was red."),  # overwritten
        (COLOUR, "The strawberry was pink."),  # substituted
        (RELATION, "Alice hit Bob."),  # swapped, and to the prior
        (ordinary, "The lemon was yellow."),  # preserved, and the favourite
        (ordinary, "The lemon was black."),  # substituted
    ]
    out = facts.rates([facts.counts(facts.compare(WORLD, p, text)) for p, text in pairs])
    assert out["facts/all/n"] == 6
    assert out["nonfavourite/all/n"] == 4
    assert out["facts/all/preserved"] == pytest.approx(2 / 6)
    assert out["nonfavourite/all/preserved"] == pytest.approx(1 / 4)
    assert out["overwriting"] == pytest.approx(1 / 4)
    assert out["to_prior"] == pytest.approx(2 / 4)
    assert out["drift"] == pytest.approx(3 / 6)
    assert out["facts/colour/n"] == 5
    assert out["facts/colour/substituted"] == pytest.approx(2 / 5)
    assert out["facts/relation/swapped"] == 1.0
    assert out["facts/home/n"] == 0
    assert out["facts/home/preserved"] is None
    assert facts.rates([])["overwriting"] is facts.rates([])["drift"] is None
