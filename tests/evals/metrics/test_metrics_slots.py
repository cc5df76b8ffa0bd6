import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.config import WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import KINDS, OUTCOMES, Slot
from jaxcomp.data.world import Passage, World
from jaxcomp.evals.metrics import slots

WORLD = World(WorldConfig())


def passage(index, counterfactual=True):
    return WORLD.passage("test", index, counterfactual=counterfactual)


def one(kind, key, value, favourite, options, swap=""):
    slot = Slot(kind, (kind, *key), value, favourite, swap, options, 0, 0)
    return Passage(0, "", (slot,), "", 1.0)


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


@pytest.mark.parametrize(
    ("source", "rebuilt", "expected"),
    [
        (COLOUR, "The strawberry was green.", "kept"),
        (COLOUR, "Everyone knew that the strawberry was red.", "overwritten"),
        (COLOUR, "The strawberry was pink.", "other"),
        (COLOUR, "The lemon was green.", "lost"),
        (COLOUR, "The strawberry green.", "lost"),
        (COLOUR, "", "lost"),
        (MATERIAL, "The bench was made of gold.", "kept"),
        (MATERIAL, "The bench was made of wood.", "overwritten"),
        (MATERIAL, "The bench was made of clay.", "other"),
        (MATERIAL, "The bench was gold.", "lost"),
        (SIZE, "The mouse looked huge.", "kept"),
        (SIZE, "The mouse looked tiny.", "overwritten"),
        (SIZE, "The mouse looked big.", "other"),
        (SIZE, "The ant looked huge.", "lost"),
        (JOB, "Alice worked as a judge.", "kept"),
        (JOB, "Alice worked as a baker.", "overwritten"),
        (JOB, "Alice worked as a singer.", "other"),
        (JOB, "Bob worked as a judge.", "lost"),
        (HOME, "Alice lived in Oslo.", "kept"),
        (HOME, "Alice lived in London.", "overwritten"),
        (HOME, "Alice lived in Rome.", "other"),
        (HOME, "Leo lived in Oslo.", "lost"),
        (TOPIC, "At the harbour they talked about love.", "kept"),
        (TOPIC, "At the harbour they talked about trade.", "overwritten"),
        (TOPIC, "At the harbour they talked about war.", "other"),
        (TOPIC, "At the mill they talked about love.", "lost"),
        (COUNT, "Bob bought nine ropes.", "kept"),
        (COUNT, "Bob bought two ropes.", "overwritten"),
        (COUNT, "Bob bought ten ropes.", "other"),
        (COUNT, "Bob bought nine shoes.", "lost"),
        (POLARITY, "Bob did not sign the letter.", "kept"),
        (POLARITY, "Bob did sign the letter.", "overwritten"),
        (POLARITY, "Bob did not burn the map.", "lost"),
        (MOOD, "The proud cat watched the loyal dog.", "kept"),
        (MOOD, "The lazy cat watched the loyal dog.", "overwritten"),
        (MOOD, "The loyal cat watched the proud dog.", "swapped"),
        (MOOD, "The angry cat watched the loyal dog.", "other"),
        (MOOD, "The proud fox watched the loyal dog.", "lost"),
        (RELATION, "Bob hit Alice.", "kept"),
        (RELATION, "Alice hit Bob.", "swapped"),
        (RELATION, "Bob paid Alice.", "other"),
        (RELATION, "Bob hit Carol.", "lost"),
        (ORDER, "The ship sank before the bell rang.", "kept"),
        (ORDER, "The bell rang after the ship sank.", "kept"),
        (ORDER, "The bell rang before the ship sank.", "swapped"),
        (ORDER, "The ship sank after the bell rang.", "swapped"),
        (ORDER, "The ship sank before the sun rose.", "lost"),
    ],
)
def test_hand_made_rebuildings(source, rebuilt, expected):
    (fate,) = slots.fates(WORLD, source, rebuilt)
    assert fate.outcome == expected
    assert fate.kind == source.slots[0].kind


def test_the_table_above_has_every_kind():
    tried = (COLOUR, MATERIAL, SIZE, JOB, HOME, TOPIC, COUNT, POLARITY, MOOD, RELATION, ORDER)
    assert {p.slots[0].kind for p in tried} == set(KINDS)


@pytest.mark.parametrize("counterfactual", [False, True])
def test_a_perfect_rebuilding_keeps_everything(counterfactual):
    for i in range(100):
        p = passage(i, counterfactual)
        assert {f.outcome for f in slots.fates(WORLD, p, p.text)} == {"kept"}


def test_favourites_in_place_of_values_are_overwritten():
    """Attribute values replaced one at a time by the favourite: that slot alone is overwritten."""
    tried = set()
    for i in range(150):
        p = passage(i)
        for n, slot in enumerate(p.slots):
            plain = p.text[slot.start : slot.end] == slot.value and slot.kind != "relation"
            if slot.is_favourite or not plain or slot.swap == slot.favourite:
                continue
            rebuilt = p.text[: slot.start] + slot.favourite + p.text[slot.end :]
            got = [f.outcome for f in slots.fates(WORLD, p, rebuilt)]
            assert got == ["overwritten" if m == n else "kept" for m in range(len(p.slots))]
            tried.add(slot.kind)
    assert tried == set(KINDS) - {"relation", "order", "polarity"}


def test_exchanged_arguments_are_swapped():
    tried = set()
    for i in range(100):
        p = passage(i)
        for n, slot in enumerate(p.slots):
            if slot.kind != "relation":
                continue
            rebuilt = p.text[: slot.start] + slot.swap + p.text[slot.end :]
            got = [f.outcome for f in slots.fates(WORLD, p, rebuilt)]
            assert got == ["swapped" if m == n else "kept" for m in range(len(p.slots))]
            tried.add(slot.is_favourite)
    assert tried == {True, False}


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
    found = slots.fates(WORLD, p, " ".join(words))
    for slot, fate in zip(p.slots, found, strict=True):
        assert (fate.outcome == "lost") == (fate.rebuilt is None)
        assert (fate.outcome == "kept") == (fate.rebuilt == slot.value)
        if fate.outcome == "overwritten":
            assert fate.rebuilt == slot.favourite != slot.value
        if fate.outcome == "swapped":
            assert fate.rebuilt == slot.swap != ""
    got = slots.counts(found)
    odd = sum(not s.is_favourite for s in p.slots)
    for group, n in (("slots", len(p.slots)), ("nonfavourite", odd)):
        assert sum(got.get(f"{group}/all/{o}", 0) for o in OUTCOMES) == n
        by_kind = (got.get(f"{group}/{k}/{o}", 0) for k in KINDS for o in OUTCOMES)
        assert sum(by_kind) == n


def test_rates_have_the_stated_denominators():
    ordinary = one("colour", ("lemon",), "yellow", "yellow", lx.COLOURS)
    pairs = [
        (COLOUR, "The strawberry was green."),  # kept
        (COLOUR, "The strawberry was red."),  # overwritten
        (COLOUR, "The strawberry was pink."),  # other
        (RELATION, "Alice hit Bob."),  # swapped, and to the prior
        (ordinary, "The lemon was yellow."),  # kept, and the favourite
        (ordinary, "The lemon was black."),  # other
    ]
    out = slots.rates([slots.counts(slots.fates(WORLD, p, text)) for p, text in pairs])
    assert out["slots/all/n"] == 6
    assert out["nonfavourite/all/n"] == 4
    assert out["slots/all/kept"] == pytest.approx(2 / 6)
    assert out["nonfavourite/all/kept"] == pytest.approx(1 / 4)
    assert out["overwriting"] == pytest.approx(1 / 4)
    assert out["to_prior"] == pytest.approx(2 / 4)
    assert out["drift"] == pytest.approx(3 / 6)
    assert out["slots/colour/n"] == 5
    assert out["slots/colour/other"] == pytest.approx(2 / 5)
    assert out["slots/relation/swapped"] == 1.0
    assert out["slots/home/n"] == 0
    assert out["slots/home/kept"] is None


def test_without_slots_no_rate():
    out = slots.rates([])
    assert out["overwriting"] is None
    assert out["drift"] is None
