"""The controlled world: facts read back, planted changes have their names, bits are exact."""

import dataclasses
import functools
import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import permutations, product

import pytest
from scipy.stats import binom

from jaxcomp.config import ConfigError, WorldConfig
from jaxcomp.data import lexicon as lx
from jaxcomp.data.facts import KINDS
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
    """kind -> [slots at the favourite, slots]; of two moods only the first is drawn freely."""
    count = defaultdict(lambda: [0, 0])
    for p in passages:
        before = None
        for s in p.slots:
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


def test_what_is_not_the_favourite_is_uniform_among_the_rest(counterfactual):
    count = Counter(
        s.options.index(s.value) - (s.options.index(s.value) > s.options.index(s.favourite))
        for p in counterfactual
        for s in p.slots
        if s.kind == "home" and not s.is_favourite
    )
    total = sum(count.values())
    assert set(count) == set(range(9))
    for n in count.values():
        assert within_binomial_bounds(n, total, 1 / 9)


@pytest.mark.parametrize("name", ["prior_strength", "train_prior_strength"])
@pytest.mark.parametrize("strength", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_prior_that_is_no_probability_is_refused(name, strength):
    with pytest.raises(ConfigError, match=rf"world\.{name}"):
        World(dataclasses.replace(WorldConfig(), **{name: strength}))


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


def test_full_passages_do_not_repeat(ordinary):
    texts = [p.text for p in ordinary + draws("val", 60) + draws("test", 60)]
    assert len(set(texts)) == len(texts)


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
    slots = [s for p in passages for s in p.slots]
    return {s.key: s.favourite.split()[0] if s.kind == "relation" else s.favourite for s in slots}


def test_another_seed_is_another_prior_in_the_same_words():
    mine, moved = usual(draws("train", 200)), Counter()
    for seed in (1, 2, 3):
        other = World(WorldConfig(seed=seed))
        assert other.words() == WORLD.words()
        theirs = draws("train", 100, other)
        for p in theirs:
            assert other.read(p.text) == {s.key: s.value for s in p.slots}
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


def test_a_long_passage_ends_when_its_entities_are_used_up():
    """A kind that is used up is no longer drawn; drawing from nothing was an error once."""
    for p in draws("train", 2, max_words=1500):
        count = Counter(s.kind for s in p.slots)
        assert count["order"] == len(lx.EVENTS) // 2
        assert count["modifier"] == len(lx.SIZE_OF)  # two slots a sentence
        assert count["home"] == len(lx.PERSONS)
        assert count["topic"] == 1
        assert len(words_of(p.text)) < 1500 - 12 < len(words_of(p.continuation))
        assert WORLD.read(p.text) == {s.key: s.value for s in p.slots}


# Information: p(text) derived again, by listing every way to write each sentence


def valued(favourite, options, prior):
    rest = (1 - prior) / (len(options) - 1)
    return [(o, prior if o == favourite else rest) for o in options]


def simple(form, table, options):
    def ways(used, prior):
        free = [e for e in table if e not in used]
        for e in free:
            for v, p in valued(table[e], options, prior):
                yield form.format(e=e, v=v), p / len(free), {e}

    return ways


def persons(column):
    return {name: row[column] for name, row in lx.PERSONS.items()}


def quantity(used, prior):
    for rest, p, entities in simple("bought {v} {e}", lx.NUMBER_OF, lx.NUMBERS)(used, prior):
        for who in lx.PERSONS:
            yield f"{who} {rest}", p / len(lx.PERSONS), entities


def polarity(used, prior):
    free = [a for a in lx.ACTION_IS if a not in used]
    for who, action in product(lx.PERSONS, free):
        for v, p in valued(lx.ACTION_IS[action], ("yes", "no"), prior):
            words = "did" if v == "yes" else "did not"
            yield f"{who} {words} {action}", p / len(lx.PERSONS) / len(free), {action}


def relation(used, prior):
    names = list(lx.PERSONS)
    free = [n for n in names if n not in used]
    for pair in permutations(free, 2):
        weaker, stronger = sorted(pair, key=names.index, reverse=True)
        for deed in lx.DEEDS:
            p = 1 / len(free) / (len(free) - 1) / len(lx.DEEDS)
            yield f"{stronger} {deed} {weaker}", p * prior, set(pair)
            yield f"{weaker} {deed} {stronger}", p * (1 - prior), set(pair)


def order(used, prior):
    free = [e for e in lx.EVENTS if e not in used]
    for pair in permutations(free, 2):
        early, late = sorted(pair, key=lx.EVENTS.index)
        for first, second, p in ((early, late, prior), (late, early, 1 - prior)):
            p = p / len(free) / (len(free) - 1) / 2
            yield f"{first} before {second}", p, set(pair)
            yield f"{second} after {first}", p, set(pair)


def modifier(used, prior):
    free = [a for a in lx.MOOD_OF if a not in used]
    for one, two in permutations(free, 2):
        for mood, p in valued(lx.MOOD_OF[one], lx.MOODS, prior):
            left = [m for m in lx.MOODS if m != mood]
            even = [(m, 1 / len(left)) for m in left]
            taken = lx.MOOD_OF[two] == mood
            for other, q in even if taken else valued(lx.MOOD_OF[two], left, prior):
                for gaze in lx.GAZES:
                    clause = f"the {mood} {one} {gaze} the {other} {two}"
                    share = p * q / len(free) / (len(free) - 1) / len(lx.GAZES)
                    yield clause, share, {one, two}


WAYS = {
    "topic": simple("at the {e} they talked about {v}", lx.TOPIC_AT, lx.TOPICS),
    "colour": simple("the {e} was {v}", lx.COLOUR_OF, lx.COLOURS),
    "material": simple("the {e} was made of {v}", lx.MATERIAL_OF, lx.MATERIALS),
    "size": simple("the {e} looked {v}", lx.SIZE_OF, lx.SIZES),
    "profession": simple("{e} worked as a {v}", persons(0), lx.PROFESSIONS),
    "home": simple("{e} lived in {v}", persons(1), lx.HOMES),
    "quantity": quantity,
    "relation": relation,
    "modifier": modifier,
    "polarity": polarity,
    "order": order,
}


@functools.lru_cache(maxsize=256)
def listed(kind, used, prior):
    """clause in lower case -> [(probability, entities used up)], every way to write it."""
    out = defaultdict(list)
    for clause, p, entities in WAYS[kind](used, prior):
        out[clause.lower()].append((p, frozenset(entities)))
    mass = sum(p for ways in out.values() for p, _ in ways)
    assert not out or math.isclose(mass, 1.0, rel_tol=1e-9), kind
    return out


def derived_bits(text, prior):
    """-log2 p(text), summing over every kind, entity, value and opening that writes a sentence."""
    used, bits = defaultdict(frozenset), 0.0
    for i, sentence in enumerate(text.removesuffix(".").split(". ")):
        clause = sentence
        for opening in lx.OPENINGS:
            clause = clause.removeprefix(f"{opening} ")
        opened = 1 / 2 if clause == sentence else 1 / 2 / len(lx.OPENINGS)
        kinds = [k for k in WAYS if (k == "topic") == (i == 0)]
        kinds = [k for k in kinds if listed(k, used[k], prior)]  # one used up is not drawn
        ways = [
            (p / len(kinds), kind, entities)
            for kind in kinds
            for p, entities in listed(kind, used[kind], prior).get(clause.lower(), ())
        ]
        assert len({way[1:] for way in ways}) == 1, clause
        _, kind, entities = ways[0]
        used[kind] |= entities
        bits -= math.log2(sum(p for p, *_ in ways) * opened)
    return bits


@pytest.mark.parametrize("prior", [0.95, 0.6])
def test_bits_are_the_exact_information_of_the_text(prior):
    world = World(WorldConfig(prior_strength=prior))
    found = [
        world.passage("train", 0),
        world.passage("test", 1, counterfactual=True),
        world.passage("train", 2, prior_strength=0.3),
        *(world.passage("train", i, prior_strength=0.5, max_words=24) for i in range(12)),
    ]
    assert {s.kind for p in found for s in p.slots} == set(KINDS)
    for p in found:
        assert p.bits == pytest.approx(derived_bits(p.text, prior), abs=1e-6), p.text


def test_bits_stay_exact_where_entities_run_out():
    p = WORLD.passage("train", 0, max_words=500)
    assert Counter(s.kind for s in p.slots)["order"] == len(lx.EVENTS) // 2
    assert p.bits == pytest.approx(derived_bits(p.text, 0.95), abs=1e-6)


def test_bits_of_equally_likely_texts_count_the_texts():
    """One sentence, every topic as likely as the next: 10 places x 8 topics x 4 beginnings.

    Each split is drawn so often that no text stays away, so texts are counted and not assumed.
    """
    world = World(WorldConfig(prior_strength=1 / len(lx.TOPICS)))
    counts = {"train": 4000, "val": 300, "test": 300}
    found = [p for s, n in counts.items() for p in draws(s, n, world, max_words=12)]
    bits = {p.text: p.bits for p in found}
    assert len(bits) == 10 * 8 * 4
    assert sum(2.0**-b for b in bits.values()) == pytest.approx(1.0, abs=1e-9)
