"""The controlled world: facts read back, planted changes have their names, bits are exact."""

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any, cast

import pytest
from scipy.stats import binom

from jaxcomp.config import WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data import world
from jaxcomp.data.facts import ATTRIBUTES, KINDS
from jaxcomp.data.world import World

WORLD = World()


def draws(split, count, world=WORLD, **options):
    return [world.passage(split, i, **options) for i in range(count)]


def words_of(text):
    return re.findall(r"[A-Za-z]+|\.", text)


@pytest.fixture(scope="module")
def ordinary():
    return draws("train", 500)


@pytest.fixture(scope="module")
def counterfactual():
    return draws("train", 500, counterfactual=True)


@pytest.fixture(scope="module")
def passages(ordinary, counterfactual):
    return ordinary + counterfactual


# Priors


def within_binomial_bounds(hits, count, p, alpha=1e-6):
    low, high = binom.ppf([alpha / 2, 1 - alpha / 2], count, p)
    return low <= hits <= high


def favourites(passages):
    """kind -> [facts at the favourite, facts]; of two moods only the first is drawn freely."""
    count = defaultdict(lambda: [0, 0])
    for p in passages:
        before = None
        for s in p.facts:
            second = s.kind == "modifier" and before is not None and before.swap == s.value
            before = s if s.kind == "modifier" and not second else None
            if not second:
                count[s.kind][0] += s.is_favourite
                count[s.kind][1] += 1
    return dict(count)


@pytest.mark.parametrize("strength", [0.95, 0.6])
def test_favourites_occur_at_the_prior_strength(strength):
    found = favourites(draws("train", 400, prior_strength=strength))
    assert found.keys() == set(KINDS)
    for kind, (hits, count) in found.items():
        assert count > 150, kind
        assert within_binomial_bounds(hits, count, strength), (kind, hits, count)
    hits, count = map(sum, zip(*found.values(), strict=True))
    assert within_binomial_bounds(hits, count, strength)


def test_half_of_the_facts_of_a_counterfactual_passage_are_not_the_favourite(counterfactual):
    found = favourites(counterfactual)
    for kind, (hits, count) in found.items():
        assert within_binomial_bounds(hits, count, 0.5), (kind, hits, count)
    hits, count = map(sum, zip(*found.values(), strict=True))
    assert within_binomial_bounds(hits, count, 0.5)


# Splits and seeds


@pytest.mark.parametrize("length", [12, 24])
def test_splits_share_no_text(length):
    """So short that texts repeat often: 320 sentences can be written in 12 words."""
    texts = {
        split: {p.text for p in draws(split, count, max_words=length)}
        for split, count in (("train", 3000), ("val", 300), ("test", 300))
    }
    assert not texts["train"] & texts["val"]
    assert not texts["train"] & texts["test"]
    assert not texts["val"] & texts["test"]
    facing = {p.text for p in draws("test", 200, counterfactual=True, max_words=length)}
    assert not facing & (texts["train"] | texts["val"])
    if length == 12:
        assert max(map(len, texts.values())) <= 320


def digest(passages):
    return hashlib.sha256("\n".join(map(repr, passages)).encode()).hexdigest()[:16]


def test_a_passage_depends_on_seed_split_and_index_alone():
    late = World().passage("val", 7)
    assert late == draws("val", 8)[7]
    assert late != WORLD.passage("val", 8)
    assert late.text != WORLD.passage("test", 7).text
    code = (
        "from jaxcomp.data.world import World; import hashlib; w = World();"
        "p = [w.passage('train', i) for i in range(20)];"
        "print(hashlib.sha256('\\n'.join(map(repr, p)).encode()).hexdigest()[:16])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == digest(draws("train", 20)), out.stderr


def test_the_world_that_the_shipped_models_learned_is_still_the_same():
    """A change of grammar or lexicon asks for new base models: their cards cannot notice it."""
    texts = "\n".join(p.text + p.continuation for p in draws("train", 50))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "04b9cd23d2de574e"


def usual(passages):
    """key -> favourite; of a relation, who usually acts (its deed is drawn freely)."""
    facts = [s for p in passages for s in p.facts]
    return {s.key: s.favourite.split()[0] if s.kind == "relation" else s.favourite for s in facts}


def test_another_seed_is_another_prior_in_the_same_words():
    mine, moved = usual(draws("train", 200)), Counter()
    for seed in (1, 2, 3):
        other = World(WorldConfig(seed=seed))
        assert other.words() == WORLD.words()
        theirs = draws("train", 100, other)
        for p in theirs:
            assert other.read(p.text) == {s.key: s.value for s in p.facts}
        favoured = usual(theirs)
        shared = mine.keys() & favoured.keys()
        moved.update(k[0] for k in shared if mine[k] != favoured[k])
        hits, count = map(sum, zip(*favourites(theirs).values(), strict=True))
        assert within_binomial_bounds(hits, count, 0.95)
    assert set(moved) == set(KINDS)


# Words and lengths


def test_a_continuation_repeats_facts_and_never_contradicts_them(passages):
    repeated = 0
    for p in passages:
        facts, more = WORLD.read(p.text), WORLD.read(p.continuation)
        same = facts.keys() & more.keys()
        repeated += len(same)
        assert all(facts[k] == more[k] for k in same), (p.text, p.continuation)
    assert repeated > len(passages)


def test_words_are_exactly_those_that_are_written(passages):
    more = draws("train", 300, prior_strength=0.2)
    written = {w for p in passages + more for w in words_of(p.text + " " + p.continuation)}
    assert written == set(WORLD.words())
    assert WORLD.words() == sorted(set(WORLD.words()))


@pytest.mark.parametrize("length", [12, 13, 31, 64, 100])
def test_passages_fit_and_leave_no_room_for_a_longest_sentence(length):
    for p in draws("train", 150, max_words=length, prior_strength=0.5):
        for text in (p.text, p.continuation):
            assert length - 12 < len(words_of(text)) <= length


# Information: p(text) by going through every way to draw it


class Script:
    """A random generator that draws what `path` says, and knows how probable that is."""

    def __init__(self, path):
        self.path, self.taken, self.p = path, [], 1.0

    def random(self):
        return self

    def __mul__(self, count):
        return self.branch([1 / count] * count)

    def __lt__(self, share):
        return self.branch([share, 1 - share]) == 0

    def branch(self, shares):
        at = len(self.taken)
        choice = self.path[at] if at < len(self.path) else 0
        self.taken.append((choice, len(shares)))
        self.p *= shares[choice]
        return choice


def assert_bits_are_exact(make, prior=0.6):
    """`make(draw)` gives a text: the bits of every draw are -log2 of all draws of that text."""
    share, bits, path = defaultdict(float), defaultdict(set), []
    while True:
        rng = Script(path)
        draw = world.Draw(cast(Any, rng), prior, prior)
        text = make(draw)
        share[text] += rng.p
        bits[text].add(round(draw.bits, 9))
        while rng.taken and rng.taken[-1][0] + 1 == rng.taken[-1][1]:
            rng.taken.pop()
        if not rng.taken:
            break
        path = [choice for choice, _ in rng.taken]
        path[-1] += 1
    assert sum(share.values()) == pytest.approx(1.0)
    for text, found in bits.items():
        assert [*found] == [pytest.approx(-math.log2(share[text]), abs=1e-6)], text


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_a_sentence_are_its_exact_information(kind):
    assert_bits_are_exact(lambda draw: WORLD._makers[kind](draw).clause)


def test_bits_of_a_text_are_its_exact_information():
    """Of two sentences, where most entities are used up already."""
    tables = {kind: list(table) for kind, (table, _, _) in ATTRIBUTES.items()}
    left = dict.fromkeys(("topic", "colour"), 1) | {"relation": 2, "polarity": 1, "order": 2}
    tables |= {"relation": list(lx.PERSONS), "modifier": list(lx.SIZE_OF)}
    tables |= {"polarity": list(lx.ACTION_IS), "order": list(lx.EVENTS)}

    def make(draw):
        draw.used = {kind: set(table[left.get(kind, 0) :]) for kind, table in tables.items()}
        return WORLD._write(draw, 23)[0]

    assert_bits_are_exact(make)


def test_prompts_are_the_beginnings_of_passages():
    """Whose next word is the favourite, in words that the world writes; a topic stands first."""
    world = World(WorldConfig(seed=3))
    found = world.prompts()
    for p in found:
        facts = world.facts(f"{p.text} {p.favourite}.")
        first, fact = facts[0], facts[-1]
        assert (fact.favourite, fact.options) == (p.favourite, p.options)
        assert first.kind == "topic"
        assert len(facts) == 1 + (fact.kind != "topic")
    ends = {p.text.rpartition(". ")[2] for p in found}
    assert {"The strawberry was", "Alice lived in"} < ends
    assert len(found) == len(ends) == 10 + 24 + 12 + 12 + 24 + 24
