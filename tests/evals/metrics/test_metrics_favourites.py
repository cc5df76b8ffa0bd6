"""Errors that are the favourite, by group: planted rebuilds are counted as planted."""

import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from jaxcomp.config import Config, DataConfig, PeopleConfig
from jaxcomp.data.eval_sets import Example
from jaxcomp.data.people import GROUPS, NEUTRAL, UNSEEN, People
from jaxcomp.data.tokenizer import world_tokenizer
from jaxcomp.evals.eval_set import Row
from jaxcomp.evals.metric import headlines, sums
from jaxcomp.evals.metrics import facts, favourites

PEOPLE = People(PeopleConfig(people=256, unseen=64))
PASSAGES = [PEOPLE.passage("test", i, counterfactual=True) for i in range(120)]
ERASED = [PEOPLE.passage("test", i, erased=True) for i in range(60)]
CFG = Config(data=DataConfig(source="people"))


def row(text="", probabilities=()):
    return Row("", text, [], [], 0.0, 0, 0, probabilities)


def planted(passage, rng):
    """A rebuilt text, and by group [errors, of which the favourite] that were planted in it."""
    text, found = passage.text, defaultdict(lambda: [0, 0])
    for fact in sorted(passage.facts, key=lambda f: -f.start):
        what = rng.choice(("keep", "favourite", "other"))
        if fact.kind == "relation" or what == "keep":
            continue
        others = [o for o in fact.options if o not in (fact.value, fact.favourite)]
        value = fact.favourite if what == "favourite" else rng.choice(others)
        text = text[: fact.start] + ("" if fact.value else " ") + value + text[fact.end :]
        if not fact.is_favourite:
            for group in (fact.group, "all"):
                found[group][0] += 1
                found[group][1] += what == "favourite"
    return text, found


@pytest.mark.parametrize("passages", [PASSAGES, ERASED], ids=["counterfactual", "erased"])
def test_errors_are_counted_as_they_were_planted(passages):
    rng, total, expected = random.Random(0), Counter(), defaultdict(lambda: [0, 0])
    for passage in passages:
        text, made = planted(passage, rng)
        counts = facts.counts(facts.compare(PEOPLE, passage, text))
        total.update(counts)
        for group, (errors, hits) in made.items():
            expected[group][0] += errors
            expected[group][1] += hits
            record = {"counts": counts}
            column = f"counterfactual/errors_to_favourite/{group}"
            assert sums(record, column) == (hits, errors)
    values: Any = favourites.rates(total)
    assert expected.keys() == {*GROUPS, "all"}
    for group, (errors, hits) in expected.items():
        assert values[f"errors_to_favourite/{group}/n"] == errors
        share = values[f"errors_to_favourite/{group}"]
        assert share == pytest.approx(hits / errors)
        control = expected[NEUTRAL][1] / expected[NEUTRAL][0]
        assert values[f"pull/{group}"] == pytest.approx(share - control)


def test_groups_are_counted_beside_kinds_and_relations_have_no_favourite():
    counts = [facts.counts(facts.compare(PEOPLE, p, p.text)) for p in PASSAGES]
    found: Any = facts.rates(counts, (*PEOPLE.kinds, "relation", *GROUPS))
    every = [f for p in PASSAGES for f in p.facts]
    for group in GROUPS:
        mine = [f for f in every if f.group == group]
        assert found[f"facts/{group}/n"] == len(mine)
        assert found[f"nonfavourite/{group}/n"] == sum(not f.is_favourite for f in mine)
        assert found[f"facts/{group}/preserved"] == 1.0
    assert found["facts/relation/n"] > 0 == found["nonfavourite/relation/n"]
    attributes = found["facts/all/n"] - found["facts/relation/n"]
    assert sum(found[f"facts/{group}/n"] for group in GROUPS) == attributes


def test_without_errors_there_is_no_share():
    values: Any = favourites.rates(Counter())
    assert set(values.values()) == {0, None}
    assert values["errors_to_favourite/upper"] is values["pull/upper"] is None


def test_chance_is_one_of_the_other_values():
    rng, total = random.Random(1), Counter()
    for i in range(1000):
        passage = PEOPLE.passage("test", i, counterfactual=True)
        text = passage.text
        for fact in sorted(passage.facts, key=lambda f: -f.start):
            if fact.kind != "relation":
                value = rng.choice([o for o in fact.options if o != fact.value])
                text = text[: fact.start] + value + text[fact.end :]
        total.update(facts.counts(facts.compare(PEOPLE, passage, text)))
    values: Any = favourites.rates(total)
    n = values["errors_to_favourite/all/n"]
    assert n > 4000
    assert values["errors_to_favourite/all"] == pytest.approx(1 / 15, abs=4 * (1 / 15 / n) ** 0.5)


def test_tokens_are_where_the_value_stands(tmp_path):
    tok = world_tokenizer(PEOPLE.words(), tmp_path)
    for p in PASSAGES[:30] + ERASED[:30]:
        ids = tok.encode(p.text)
        example = Example("", p.text, [ids], [*ids, tok.eos_id], [], p)
        for fact, place in zip(p.facts, favourites.tokens(example, tok), strict=True):
            assert (place is None) == (fact.is_favourite or fact.kind == "relation")
            if place is not None:
                at, token = place
                before = p.text[: fact.start] + ("" if fact.value else " ")
                assert tok.decode([*ids[:at], token]) == before + fact.favourite


def test_a_text_of_a_user_has_no_known_facts(tmp_path):
    tok = world_tokenizer(PEOPLE.words(), tmp_path)
    ids = tok.encode("Ada Stone lived in Rome.")
    assert favourites.tokens(Example("", "Ada Stone lived in Rome.", [ids], ids, []), tok) == []


def test_probabilities_are_means_by_group():
    rng, total, expected = random.Random(2), Counter(), defaultdict(list)
    for passage in PASSAGES:
        drawn = [None if f.is_favourite or not f.favourite else rng.random() for f in passage.facts]
        counts = favourites.counts(passage, row("", drawn))
        total.update(counts)
        for fact, p in zip(passage.facts, drawn, strict=True):
            if p is not None:
                expected[fact.group].append(p)
        top, n = sums({"counts": counts}, "counterfactual/favourite_probability/all") or (0, 0)
        told = [p for p in drawn if p is not None]
        assert (top, n) == (pytest.approx(sum(told)), len(told))
    values: Any = favourites.rates(total)
    for group, told in expected.items():
        mean = sum(told) / len(told)
        assert values[f"favourite_probability/{group}"] == pytest.approx(mean)
        pull = mean - sum(expected[UNSEEN]) / len(expected[UNSEEN])
        assert values[f"probability_pull/{group}"] == pytest.approx(pull)


def test_headlines_of_people_show_the_upper_band_and_others_do_not():
    shown = [head.metric for head in headlines(CFG)]
    assert "counterfactual/errors_to_favourite/upper" in shown
    assert "counterfactual/nonfavourite/all/preserved" in shown
    assert not any("errors_to_favourite" in head.metric for head in headlines(Config()))
