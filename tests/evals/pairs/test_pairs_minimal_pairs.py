"""Twins differ from their text in one spot, and say something else."""

import itertools
import random
import re

import pytest
from inference.inference_runs import config

from jaxcomp.data.world import World
from jaxcomp.evals.metrics.edits import names
from jaxcomp.evals.pairs.changes import Change, changed
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS, TwinRules
from jaxcomp.evals.pairs.minimal_pairs import Passage, make

WORLD = World(config().world)
WORDS = re.compile(r"\w+")

# Made up, one sentence a rule.
SENTENCES = {
    "relation/verb": ("So they accepted the offer.", {"So they rejected the offer."}),
    "role/pronouns": ("Then he told her that it was.", {"Then she told him that it was."}),
    "role/active": ("But the king attacked the army.",
                    {"But the king was attacked by the army."}),
    "role/passive": ("The mill was founded by the monks.", {"The mill founded the monks."}),
    "modifier/adjective": ("They bought a large boat.", {"They bought a small boat."}),
    "polarity/contrary": ("Such a thing is possible there.", {"Such a thing is impossible there."}),
    "polarity/negated": ("The boat was late.", {"The boat was not late."}),
    "polarity/affirmed": ("The boat was not late.", {"The boat was late."}),
    "quantity/quantifier": ("They saw many boats.", {"They saw few boats."}),
    "order/turned": ("They met before the war.", {"They met after the war."}),
    "order/ordinal": ("They wrote the first letter.",
                      {f"They wrote the {n} letter." for n in ("second", "third", "last")}),
    "order/years": ("Born in 1812, she left in 1830.", {"Born in 1830, she left in 1812."}),
}  # fmt: skip


def foils(text, dimension, others=(), seed=0):
    rules = TwinRules([text, *others], seed)
    return {
        (spot.rule, changed(text, spot.changes))
        for spot in rules.spots(0, dimension, random.Random(seed))
    }


@pytest.mark.parametrize("name", SENTENCES)
def test_a_rule_makes_the_foil_it_should(name):
    dimension, rule = name.split("/")
    text, expected = SENTENCES[name]
    found = {foil for one, foil in foils(text, dimension) if one == rule}
    assert found
    assert found <= expected


def test_an_article_stays_right():
    for text in ("He kept an old horse.", "It is an easy way.", "She had a common name."):
        for _, foil in foils(text, "modifier"):
            words = foil.rstrip(".").split()
            for article, after in itertools.pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (after[0] in "aeiou")
    # "a old" would follow from an exchange.
    found = foils("He sold the old horse for a cold drink.", "modifier")
    assert {rule for rule, _ in found} == {"adjective"}
    assert foils("He sold the new horse for a cold drink.", "modifier") >= {
        ("exchanged", "He sold the cold horse for a new drink.")
    }


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("They look after the war memorial.", "order"),
        ("He stayed from 1812 to 1830.", "order"),
        ("In the 1980s, between 1812 and 1830, it grew.", "order"),
        ("The first time and the first time again.", "order"),
        ("There were as many boats.", "quantity"),
        ("They left a few boats.", "quantity"),
        ("She told her brother.", "role"),
        ("He told him that.", "role"),
        ("There was no large boat and the large boat.", "modifier"),
        ("The house was accepted the.", "relation"),
        ("There was no wind.", "polarity"),
    ],
)
def test_rules_would_rather_find_nothing(text, dimension):
    assert foils(text, dimension) == set()


def test_a_topic_is_replaced_everywhere_by_one_of_another_text():
    text = "We know that Martha came. They say that Martha left the bridge, so the bridge was shut."
    others = ["And then Robert spoke, but Robert left the treaty, and then the treaty was signed."]
    assert names([text, *others]) == ["Martha", "Robert"]
    found = dict(foils(text, "topic", others))
    assert found == {
        "name": text.replace("Martha", "Robert"),
        "theme": text.replace("bridge", "treaty"),
    }


def test_numbers_stay_possible():
    for seed in range(20):
        for rule, foil in foils("So in 1912 the ship sailed.", "quantity", seed=seed):
            year = int(foil.split()[2])
            assert rule == "year"
            assert 1900 <= year < 1943
            assert year != 1912
    assert foils("He came on January 28, they say.", "quantity") == set()
    assert foils("They met at eight o'clock.", "quantity") == set()


# --- the controlled world ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world_pairs():
    drawn = [WORLD.passage("test", i, counterfactual=i % 2 == 0) for i in range(40)]
    passages = [Passage(f"p{p.id}", p.text, "made", p) for p in drawn]
    return {p.id: p for p in passages}, make(passages, lambda text: [])


def test_a_foil_of_the_world_changes_facts_of_its_dimension_only(world_pairs):
    passages, pairs = world_pairs
    assert {p.dimension for p in pairs} == set(DIMENSIONS)
    kinds = {
        "topic": {"topic"}, "relation": {"relation", "profession", "home"}, "role": {"relation"},
        "modifier": {"modifier", "colour", "material", "size"}, "polarity": {"polarity"},
        "quantity": {"quantity"}, "order": {"order"},
    }  # fmt: skip
    for pair in pairs:
        true, foil = WORLD.read(pair.text), WORLD.read(pair.foil)
        assert pair.text == passages[pair.id.split("/")[0]].text
        assert true.keys() == foil.keys()
        other = {key for key in true if true[key] != foil[key]}
        assert len(other) == (2 if pair.rule == "exchanged" and pair.dimension == "modifier" else 1)
        assert {key[0] for key in other} <= kinds[pair.dimension]
        if pair.rule == "exchanged":  # no word comes or goes
            words = [sorted(WORDS.findall(text.lower())) for text in (pair.text, pair.foil)]
            assert words[0] == words[1]


def test_a_passage_gives_one_pair_a_dimension_whatever_stands_beside_it(world_pairs):
    passages, pairs = world_pairs
    assert len({p.id for p in pairs}) == len(pairs)
    backwards = make(list(passages.values())[::-1], lambda text: [])
    assert sorted(backwards) == sorted(pairs)
    assert make(list(passages.values()), lambda text: [], seed=1) != pairs


def test_changes_are_what_differs(world_pairs):
    _, pairs = world_pairs
    text = " ".join(sentence for sentence, _ in SENTENCES.values())
    pairs = pairs + make([Passage("a", text, "made")], lambda text: [text])
    assert sum(p.id.startswith("a/") for p in pairs) == 6  # no topic in it
    for pair in pairs:
        back, shift = [], 0
        for start, end, new in pair.changes:
            back.append(Change(start + shift, start + shift + len(new), pair.text[start:end]))
            shift += len(new) - (end - start)
        assert pair.foil != pair.text
        assert changed(pair.foil, back) == pair.text


def test_pairs_of_real_text_come_from_the_window_that_holds_them():
    rest = "Nothing at all stands here."
    made = make(
        [Passage("a", "whatever", "made"), Passage("b", "none", "made")],
        lambda text: [rest, "They met before the war.", rest] if text == "whatever" else [],
    )
    assert [(p.id, p.text, p.foil) for p in made] == [
        ("a/order", "They met before the war.", "They met after the war.")
    ]
