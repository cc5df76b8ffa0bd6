"""Facts read back: a passage's own are kept, every planted change has its name."""

import re
from collections import defaultdict

import pytest

from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import KINDS, outcome
from jaxcomp.data.world import World

WORLD = World()
ATTRIBUTES = ("topic", "colour", "material", "size", "profession", "home", "quantity")
# What can become of a fact: an order has two values and they are each other's exchange; a relation
# between two persons can besides change its deed; yes and no cannot be exchanged.
POSSIBLE = {
    **{
        kind: {"preserved", "overwritten", "substituted", "omitted"}
        for kind in (*ATTRIBUTES, "polarity")
    },
    "relation": {"preserved", "swapped", "substituted", "omitted"},
    "modifier": {"preserved", "overwritten", "swapped", "substituted", "omitted"},
    "order": {"preserved", "swapped", "omitted"},
}


@pytest.fixture(scope="module")
def ordinary():
    return [WORLD.passage("train", i) for i in range(500)]


@pytest.fixture(scope="module")
def counterfactual():
    return [WORLD.passage("train", i, counterfactual=True) for i in range(500)]


@pytest.fixture(scope="module")
def passages(ordinary, counterfactual):
    return ordinary + counterfactual


# Reading


def test_a_passage_reads_back_as_exactly_its_own_facts(passages):
    for p in passages:
        facts = WORLD.read(p.text)
        assert facts == {s.key: s.value for s in p.facts}, p.text
        assert {outcome(s, facts) for s in p.facts} == {"preserved"}
        assert len({s.key for s in p.facts}) == len(p.facts)
    assert {s.kind for p in passages for s in p.facts} == set(KINDS)


def test_the_first_mention_of_a_fact_counts():
    text = "The lemon was yellow. Bob lived in Rome. The lemon was blue."
    assert WORLD.read(text) == {("colour", "lemon"): "yellow", ("home", "Bob"): "Rome"}


def test_spans_hold_the_value(passages):
    for p in passages:
        for s in p.facts:
            said = p.text[s.start : s.end]
            if s.kind == "polarity":
                assert said == {"yes": "did", "no": "did not"}[s.value]
            elif s.kind == "order":
                events = re.split(" before | after ", said.lower())
                assert sorted(events) == sorted(s.options)
                assert events[" after " in said] == s.value
            else:
                assert said == s.value
            assert s.value in s.options
            assert s.favourite in s.options


# Planted changes


def cut(text, start, end, new):
    return text[:start] + new + text[end:]


def without_sentence(text, at):
    start = text.rfind(".", 0, at) + 1
    return cut(text, start, text.index(".", at) + 1, "")


def rival(fact, *taken):
    """An option that is neither the value nor the favourite nor among `taken`."""
    return next(o for o in fact.options if o not in (fact.value, fact.favourite, *taken))


def plants(p, fact):
    """(planned outcome, changed text) for every change that `fact` can suffer."""
    a, b, said = fact.start, fact.end, p.text[fact.start : fact.end]
    yield "omitted", without_sentence(p.text, a)
    if fact.kind in ATTRIBUTES:
        if not fact.is_favourite:
            yield "overwritten", cut(p.text, a, b, fact.favourite)
        yield "substituted", cut(p.text, a, b, rival(fact))
        yield "substituted", cut(p.text, a, b, "nonsense")
    elif fact.kind == "polarity":
        turned = cut(p.text, a, b, "did not" if fact.value == "yes" else "did")
        yield "substituted" if fact.is_favourite else "overwritten", turned
    elif fact.kind == "relation":
        agent, deed, patient = said.split()
        yield "swapped", cut(p.text, a, b, f"{patient} {deed} {agent}")
        yield (
            "substituted",
            cut(p.text, a, b, f"{agent} {'hit' if deed != 'hit' else 'paid'} {patient}"),
        )
        stranger = next(n for n in lx.PERSONS if n not in p.text)
        yield "omitted", cut(p.text, a, b, f"{agent} {deed} {stranger}")
    elif fact.kind == "order":
        turn = {" before ": " after ", " after ": " before "}
        yield "swapped", cut(p.text, a, b, re.sub("|".join(turn), lambda m: turn[m[0]], said))
        yield "omitted", cut(p.text, a, b, re.sub(fact.value, "the cow moved", said, flags=re.I))
    elif fact.kind == "modifier":
        i = p.facts.index(fact)
        partner = next(s for s in p.facts[max(0, i - 1) : i + 2] if s.value == fact.swap)
        one, two = sorted((fact, partner), key=lambda s: s.start)
        both = cut(p.text, two.start, two.end, one.value)
        yield "swapped", cut(both, one.start, one.end, two.value)
        yield "substituted", cut(p.text, a, b, rival(fact, partner.value))
        if not fact.is_favourite and fact.favourite != partner.value:
            yield "overwritten", cut(p.text, a, b, fact.favourite)


def test_every_planted_change_has_its_name_and_touches_nothing_else(counterfactual):
    seen = defaultdict(set)
    for p in counterfactual[:200]:
        for fact in p.facts:
            seen[fact.kind].add(outcome(fact, WORLD.read(p.text)))
            for planned, text in plants(p, fact):
                facts = WORLD.read(text)
                assert outcome(fact, facts) == planned, (fact, text)
                seen[fact.kind].add(planned)
                others = [s for s in p.facts if s.key != fact.key]
                if fact.kind == "modifier":  # two facts share its sentence
                    others = [s for s in others if s.kind != "modifier"]
                assert {outcome(s, facts) for s in others} <= {"preserved"}, (fact, text)
    assert dict(seen) == POSSIBLE
