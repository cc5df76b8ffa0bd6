"""The people world: facts read back, exposure and favourites as declared, bits exact."""

import dataclasses
import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from data_configs import world_config
from scipy.stats import binom

from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, DataConfig, PeopleConfig, config_hash, to_dict
from jaxcomp.data import people_words as words
from jaxcomp.data.batches import data_tokenizer, eval_examples, lm_batches, train_batches
from jaxcomp.data.corpus import corpus
from jaxcomp.data.facts import outcome
from jaxcomp.data.people import BANDS, GROUPS, KINDS, NEUTRAL, UNSEEN, People
from jaxcomp.data.sources import source_of, world_of
from jaxcomp.data.world import World
from jaxcomp.training import identity

PEOPLE = People()
SEEN = set(PEOPLE.names[:2048])


def draws(split, count, people=PEOPLE, **how):
    return [people.passage(split, i, **how) for i in range(count)]


@pytest.fixture(scope="module")
def ordinary():
    return draws("train", 1500)


@pytest.fixture(scope="module")
def counterfactual():
    return draws("test", 300, counterfactual=True)


@pytest.fixture(scope="module")
def erased():
    return draws("test", 300, erased=True)


def names_in(text):
    found = re.findall(r"[A-Z]\w+ [A-Z]\w+", text)
    return set(found) - {"The", "It", "A"}


def sentences(text):
    return [s.strip() for s in text.split(".") if s.strip()]


def told(text):
    """The facts of an undamaged text, read without the world's parser."""
    phrases = {phrase: kind for kind, (phrase, _) in words.ATTRIBUTES.items()}
    facts = {}
    for sentence in sentences(text):
        subject, rest = " ".join(sentence.split()[:2]), " ".join(sentence.split()[2:])
        phrase, _, last = rest.rpartition(" ")
        if phrase in phrases:
            facts[phrases[phrase], subject] = last
        elif rest.split()[0] in words.DEEDS:
            other = " ".join(rest.split()[1:])
            facts["relation", *sorted((subject, other))] = sentence
    return facts


# Reading


def test_every_fact_is_read_back(ordinary, counterfactual):
    for p in ordinary + counterfactual:
        facts = told(p.text)
        assert PEOPLE.read(p.text) == facts == {s.key: s.value for s in p.facts}
        assert len(facts) == len(sentences(p.text)), "one fact a sentence, none twice"
        for s in p.facts:
            assert p.text[s.start : s.end] == s.value
            assert s.kind in KINDS
            assert s.value in s.options
            assert outcome(s, facts) == "preserved"
        later = told(p.continuation)
        assert all(facts[key] == later[key] for key in facts.keys() & later.keys())


def test_an_erased_value_is_in_no_text_and_any_that_comes_back_is_named(erased):
    for p in erased:
        (slot,) = p.facts
        assert slot.key not in PEOPLE.read(p.text)
        assert p.continuation == ""
        assert p.text[: slot.start].endswith(f"{slot.key[1]} {words.ATTRIBUTES[slot.kind][0]}")
        assert p.text[slot.start] == "."
        assert slot.favourite in slot.options
        assert outcome(slot, PEOPLE.read(p.text)) == "preserved"
        for value in slot.options:
            whole = f"{p.text[: slot.start]} {value}{p.text[slot.start :]}"
            wrong = "overwritten" if value == slot.favourite else "substituted"
            assert outcome(slot, PEOPLE.read(whole)) == wrong
            assert len(told(whole)) == len(PEOPLE.read(p.text)) + 1
    assert {p.facts[0].group for p in erased} == set(GROUPS)


def test_an_exchange_is_read_as_swapped(counterfactual):
    tried = Counter()
    for p in counterfactual:
        for s in p.facts:
            if not s.swap:
                continue
            text = p.text[: s.start] + s.swap + p.text[s.end :]
            assert outcome(s, PEOPLE.read(text)) == "swapped"
            tried[s.kind] += 1
            if s.kind != "relation":
                others = [o for o in p.facts if o.kind == s.kind and o.key != s.key]
                assert s.swap == next(o.value for o in others if o.value != s.value)
    assert set(tried) == set(KINDS[:4]) | {"relation"}
    assert all(s.swap for p in counterfactual for s in p.facts if s.kind == "relation")


def test_damaged_text_never_raises_and_other_values_are_substituted(ordinary):
    rng = random.Random(0)
    vocabulary = PEOPLE.words()
    for p in ordinary[:200]:
        tokens = p.text.replace(".", " .").split()
        for _ in range(3):
            at = rng.randrange(len(tokens))
            tokens[at : at + rng.randrange(3)] = rng.choices(vocabulary, k=rng.randrange(3))
        text = " ".join(tokens)
        facts = PEOPLE.read(text)
        assert {s.key: s.value for s in PEOPLE.facts(text)} == facts
        assert all(outcome(s, facts) for s in p.facts)
    assert PEOPLE.read("") == {} == PEOPLE.read("Ada lived in . Stone wore")
    assert PEOPLE.read("Ada Stone wore Rome.") == {("colour", "Ada Stone"): "Rome"}


# What is drawn


def within(hits, count, p):
    low, high = binom.ppf([0.5e-6, 1 - 0.5e-6], count, p)
    return low <= hits <= high


@pytest.mark.parametrize("strength", [0.95, 0.4, 0.0])
def test_favourites_occur_at_the_prior_strength_and_foils_by_chance(strength):
    count = defaultdict(lambda: [0, 0])
    for p in draws("train", 600, prior_strength=strength):
        for s in p.facts:
            if s.kind != "relation":
                place = NEUTRAL if s.group == NEUTRAL else "favoured"
                count[place, s.kind][0] += s.is_favourite
                count[place, s.kind][1] += 1
    assert len(count) == 8
    for (place, _), (hits, n) in count.items():
        assert within(hits, n, 1 / 16 if place == NEUTRAL else max(strength, 1 / 16))


def test_counterfactual_passages_are_of_all_bands_alike_and_half_off_the_favourite(counterfactual):
    people, off = Counter(), defaultdict(lambda: [0, 0])
    for p in counterfactual:
        cast = {s.key[1] for s in p.facts if s.kind != "relation"}
        assert len(cast) == 3
        ranks = [PEOPLE.names.index(name) for name in cast]
        people.update(
            UNSEEN if r >= 2048 else next(b for b, share in BANDS.items() if r < share * 2048)
            for r in ranks
        )
        for s in p.facts:
            if s.kind != "relation":
                control = s.group in (NEUTRAL, UNSEEN)
                off[control][0] += s.is_favourite
                off[control][1] += 1
    assert set(people) == {*BANDS, UNSEEN}
    assert all(within(n, 900, 1 / 5) for n in people.values()), people
    assert within(off[False][0], off[False][1], 0.5)
    assert within(off[True][0], off[True][1], 1 / 16)


def test_people_come_up_by_zipf_without_replacement():
    people = People(PeopleConfig(people=64, unseen=0, kinds=2))
    first, second = Counter(), Counter()
    for i in range(4000):
        a, b, *_ = sentences(people.passage("train", i, max_words=21).text)
        first[" ".join(a.split()[:2])] += 1
        second[" ".join(b.split()[:2])] += 1
    w, total = people.weights, sum(people.weights)
    assert w == pytest.approx([9 / (9 + r) for r in range(64)])
    for rank in (0, 1, 5, 63):
        name = people.names[rank]
        assert within(first[name], 4000, w[rank] / total)
        later = sum(v / total * w[rank] / (total - v) for r, v in enumerate(w) if r != rank)
        assert within(second[name], 4000, later)


def test_values_are_equally_common_in_the_text_of_every_kind():
    """Of the texts that are expected: weights, favourites, and the uniform rest."""
    for kind, values in PEOPLE.kinds.items():
        mass = dict.fromkeys(values, 0.0)
        for weight, name in zip(PEOPLE.weights, PEOPLE.names, strict=False):
            favoured = PEOPLE.group(kind, name) != NEUTRAL
            for value in values:
                hit = value == PEOPLE.favourite((kind, name))
                p = (0.95 if hit else 0.05 / 15) if favoured else 1 / 16
                mass[value] += weight * p
        share = [m / sum(mass.values()) * 16 for m in mass.values()]
        assert 0.98 < min(share) <= max(share) < 1.02, kind


def test_foils_are_as_varied_as_favourites_and_the_neutral_kind_rotates():
    foils = Counter(PEOPLE.favourite(("pet", name)) for name in PEOPLE.names[2048:])
    assert set(foils.values()) == {16}  # 256 people, 16 values
    for rank, name in enumerate(PEOPLE.names[:40]):
        neutral = [kind for kind in PEOPLE.kinds if PEOPLE.group(kind, name) == NEUTRAL]
        assert neutral == [list(PEOPLE.kinds)[rank % 4]]
    assert PEOPLE.group("pet", "Nobody Known") == UNSEEN
    assert Counter(PEOPLE.group("pet", name) for name in PEOPLE.names)[UNSEEN] == 256


def test_groups_are_the_ranks_of_the_bands():
    ends = {"head": (0, 32), "upper": (32, 128), "middle": (128, 1024), "tail": (1024, 2048)}
    assert {band: (r[0], r[-1] + 1) for band in BANDS for r in [PEOPLE.ranks(band)]} == ends
    assert PEOPLE.group("profession", PEOPLE.names[32]) == "upper"
    assert PEOPLE.group("home", PEOPLE.names[32]) == NEUTRAL


def test_no_training_text_mentions_an_unseen_person():
    cfg = people_config()
    tok = data_tokenizer(cfg)
    for of in (cfg, identity.base_text(cfg), identity.own_text(cfg)):
        text, world = corpus(of), world_of(of)
        assert isinstance(world, People)
        seen = set(world.names[: of.people.people])
        heads, tails = text.texts(0, 64, tok)
        examples = [e.text for e in text.examples(0, tok, tok)[0]]
        examples += [e.text for e in eval_examples(of, "val", tok, tok)]
        mentioned = set().union(*map(names_in, heads + tails + examples))
        assert mentioned
        assert mentioned <= seen
    assert set().union(*(names_in(p.text) for p in draws("train", 500))) <= SEEN


def test_splits_share_no_text_and_passages_fit():
    few = {split: draws(split, n, max_words=21) for split, n in (("train", 2000), ("test", 200))}
    few["facing"] = draws("test", 200, counterfactual=True, max_words=21)
    few["erased"] = draws("test", 200, erased=True, max_words=21)
    few["val"] = draws("val", 200, max_words=21)
    texts = {name: {p.text for p in found} for name, found in few.items()}
    assert not texts["train"] & set().union(*(t for name, t in texts.items() if name != "train"))
    for length in (21, 30, 64, 100):
        for p in draws("train", 100, max_words=length):
            for text in (p.text, p.continuation):
                size = len(re.findall(r"\w+|\.", text))
                everything = len(sentences(text)) == 15
                assert size <= length
                assert size > length - 7 or everything


def digest(passages):
    return hashlib.sha256("\n".join(map(repr, passages)).encode()).hexdigest()[:16]


def test_a_passage_is_the_same_in_every_process():
    code = (
        "from jaxcomp.data.people import People; import hashlib; w = People();"
        "p = [w.passage('test', i, counterfactual=True) for i in range(20)];"
        "print(hashlib.sha256('\\n'.join(map(repr, p)).encode()).hexdigest()[:16])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == digest(draws("test", 20, counterfactual=True)), out.stderr
    assert PEOPLE.passage("train", 3) == People().passage("train", 3) != PEOPLE.passage("train", 4)


def test_another_seed_has_the_same_words_and_other_people():
    other = People(PeopleConfig(seed=1))
    assert other.words() == PEOPLE.words()
    assert other.names != PEOPLE.names
    assert other.passage("train", 0).text != PEOPLE.passage("train", 0).text


def test_fillers_carry_no_fact_and_come_at_their_share():
    people = People(PeopleConfig(filler=0.4))
    later = [s for p in draws("train", 300, people) for s in sentences(p.text)[3:]]
    plain = {f.rstrip(".") for f in words.FILLERS}
    assert within(sum(s in plain for s in later), len(later), 0.4)
    assert all(len(p.facts) < len(sentences(p.text)) or not plain & set(sentences(p.text))
               for p in draws("train", 50, people))  # fmt: skip


def test_words_are_those_that_are_written_and_each_is_one_token(ordinary, tmp_path):
    from jaxcomp.data.tokenizer import world_tokenizer

    people = People(PeopleConfig(kinds=6, filler=0.3))
    tok = world_tokenizer(people.words(), tmp_path)
    texts = [p.text for p in draws("train", 1500, people)]
    written = {w for text in texts for w in re.findall(r"\w+|\.", text)}
    assert written == set(people.words()) == {*people.words()}
    for text in texts[:50]:
        ids = tok.encode(text)
        assert len(ids) == len(re.findall(r"\w+|\.", text))
        assert tok.decode(ids) == text


# Information: an independent count of a tiny world


TINY = PeopleConfig(people=4, unseen=1, kinds=2, values=3, prior_strength=0.7, filler=0.25)
ROOM = 26  # three sentences, and a fourth or a fifth where they are short


def p_cast(people, cast, by_band):
    """P of the three people in their order."""
    ranks = [people.names.index(name) for name in cast]
    p, used = 1.0, []
    for r in ranks:
        if by_band:  # of 4 people: 2 of band middle, 2 of tail; head and upper are empty
            bands = [[i for i in band if i not in used] for band in ([0, 1], [2, 3], [4])]
            bands = [band for band in bands if band]
            (mine,) = [band for band in bands if r in band]
            p *= 1 / len(bands) / len(mine)
        else:
            w = {i: 1 / (i + 9) for i in range(4) if i not in used}
            p *= w.get(r, 0.0) / sum(w.values())
        used.append(r)
    return p


def all_texts(people, by_band, erased=False):
    """(text, P(text)) of every text that the grammar allows, by the definition in the docstrings:
    the probability of each choice, one after the other."""
    kinds = {k: words.ATTRIBUTES[k] for k in ("home", "profession")}

    def values(key):
        kind, name = key
        own, rank = people.favourite(key), people.names.index(name)
        uniform = rank >= 4 or list(kinds)[rank % 2] == kind
        for value in kinds[kind][1][:3]:
            yield value, (1 / 3 if uniform else 0.7 if value == own else 0.15)

    def grow(said, size, first, left, p):
        if not left or (not first and size + 7 > ROOM):
            yield said, p
            return
        if not first:
            for filler in words.FILLERS:
                more = len(re.findall(r"\w+|\.", filler))
                yield from grow([*said, (filler, 1)], size + more, first, left, p * 0.25 / 8)
            p *= 0.75
        options = left
        if first:
            options = [k for k in left if k[0] != "relation" and k[1] == first[0]]
        for key in options:
            rest = [k for k in left if k != key]
            each = p / len(options)
            if key[0] == "relation":
                for (a, b), deed in itertools.product((key[1:], key[:0:-1]), words.DEEDS):
                    new = [*said, (f"{a} {deed} {b}.", 1)]
                    yield from grow(new, size + 6, first[1:], rest, each / 2 / 8)
            else:
                for value, chance in values(key):
                    text = f"{key[1]} {kinds[key[0]][0]} {value}."
                    more = len(text.split()) + 1
                    yield from grow(
                        [*said, (text, chance)], size + more, first[1:], rest, each * chance
                    )

    pool = people.names if by_band else people.names[:4]
    for cast in itertools.permutations(pool, 3):
        left = [(kind, name) for name in cast for kind in kinds]
        left += [("relation", *pair) for pair in itertools.combinations(cast, 2)]
        for said, p in grow([], 0, list(cast), left, p_cast(people, cast, by_band)):
            if not erased:
                yield " ".join(text for text, _ in said), p
                continue
            told_of = re.compile(" lived in | worked as a ")
            attributes = [i for i, (text, _) in enumerate(said) if told_of.search(text)]
            for i in attributes:
                texts = [text for text, _ in said]
                texts[i] = texts[i].rpartition(" ")[0] + "."
                yield " ".join(texts), p / len(attributes)


@pytest.mark.parametrize("how", ["", "counterfactual", "erased"])
def test_bits_are_those_of_an_independent_count_over_all_texts(how):
    people = People(TINY)
    share = defaultdict(float)
    for text, p in all_texts(people, bool(how), how == "erased"):
        share[text] += p
    assert sum(share.values()) == pytest.approx(1.0)
    for i in range(200):
        passage = people.passage("train", i, max_words=ROOM, **({how: True} if how else {}))
        assert 2**-passage.bits == pytest.approx(share[passage.text])


# As a source


def people_config(**fields):
    cfg = world_config(segment=64, target=65, source="people", train_passages=512)
    cfg = dataclasses.replace(cfg, people=PeopleConfig(people=256, unseen=64))
    pretrain = dataclasses.replace(cfg.pretrain, seq_len=130)
    decoder = dataclasses.replace(cfg.decoder, pretrain=pretrain)
    return dataclasses.replace(cfg, **({"pretrain": pretrain, "decoder": decoder} | fields))


def test_sets_carry_their_facts_in_tokens():
    cfg = people_config()
    validate(cfg)
    tok = data_tokenizer(cfg)
    for which in ("train", "val", "ordinary", "counterfactual", "erased"):
        examples = eval_examples(cfg, which, tok, tok)
        assert len(examples) == (6 if which == "val" else 10)
        for e in examples:
            assert e.target == [*tok.encode(e.text), tok.eos_id]
            assert tok.decode(e.ctx[0]) == e.text == e.passage.text
            assert e.passage.facts
    world = world_config()
    with pytest.raises(ConfigError, match="erased"):
        eval_examples(world, "erased", tok, tok)


def test_language_models_and_compressors_can_train_on_it():
    cfg = people_config()
    tok = data_tokenizer(cfg)
    assert next(train_batches(cfg, tok, tok)).tok_len_BO.max() > 50
    packed = next(lm_batches(identity.base_text(cfg), cfg.pretrain, tok))
    assert packed.tok_BL.shape == (8, 130)


def strength(cfg):
    """Share of attributes at the favourite in (language models' text, training text)."""
    tok, text, world = data_tokenizer(cfg), corpus(cfg), world_of(cfg)
    assert isinstance(world, People)
    heads = text.texts(0, 64, tok)[0]
    found = []
    for texts in (heads, [e.text for e in text.examples(0, tok, tok)[0]]):
        slots = [s for t in texts for s in world.facts(t) if s.group in BANDS]
        found.append(sum(s.is_favourite for s in slots) / len(slots))
    return [round(share, 1) for share in found]


def test_bases_compressors_and_decoders_read_of_their_own_prior_strength():
    people = PeopleConfig(people=256, unseen=64, prior_strength=0.9, train_prior_strength=0.5)
    cfg = people_config(people=people)
    assert strength(cfg) == [0.9, 0.5]
    assert strength(identity.base_text(cfg))[0] == 0.9
    assert strength(identity.own_text(cfg)) == [0.1, 0.1]
    twice = identity.own_text(identity.own_text(cfg))
    assert twice == identity.own_text(cfg)


def test_only_what_a_model_reads_names_it():
    cfg = people_config()
    shape = cfg.decoder.model

    def names(**fields):
        changed = dataclasses.replace(cfg, people=dataclasses.replace(cfg.people, **fields))
        base = identity.lm_identity(identity.base_text(changed), shape, cfg.pretrain, 0)
        return config_hash(base), identity.decoder_hash(changed)

    base, decoder = names()
    assert names(train_prior_strength=0.2) == (base, decoder)
    other = names(prior_strength=0.8)
    assert other[0] != base
    assert other[1] == decoder
    assert names(decoder_prior_strength=0.9)[0] == base
    assert names(decoder_prior_strength=0.9)[1] != decoder
    for field in ({"seed": 1}, {"zipf": 0.5}, {"filler": 0.1}, {"values": 8}, {"people": 300}):
        assert not {*names(**field)} & {base, decoder}, field


def test_configs_of_other_sources_keep_their_trees():
    assert "people" not in to_dict(Config())
    assert to_dict(people_config())["people"]["people"] == 256
    assert world_of(Config(data=DataConfig(source="text"))) is None
    assert isinstance(world_of(Config()), World)


def test_prompts_end_before_the_value(counterfactual):
    prompts = {p.text: p for p in PEOPLE.prompts()}
    assert len(prompts) == (2048 + 256) * 4
    assert {p.group for p in prompts.values()} == set(GROUPS)
    for s in (s for p in counterfactual for s in p.facts if s.kind != "relation"):
        prompt = prompts[f"{s.key[1]} {words.ATTRIBUTES[s.kind][0]}"]
        assert (prompt.options, prompt.favourite, prompt.group) == (s.options, s.favourite, s.group)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"people": 4000, "unseen": 97}, "are 4097 people; expected at most 4096"),
        ({"values": 1}, r"people\.values"),
        ({"kinds": 1}, r"people\.kinds"),
        ({"zipf": 6.0}, r"people\.zipf = 6\.0: the people of ranks 16 to 127 \(band middle\)"),
        ({"zipf": 1e9}, "expected at least 100"),
        ({"prior_strength": 1.0}, r"people\.prior_strength"),
    ],
)
def test_a_world_that_cannot_be_is_refused(fields, message):
    people = PeopleConfig(**({"people": 256, "unseen": 64} | fields))
    with pytest.raises(ConfigError, match=message):
        validate(people_config(people=people))


def test_a_passage_that_cannot_hold_a_fact_of_each_kind_is_refused():
    cfg = people_config()
    sweep = dataclasses.replace(cfg.sweep, ratios=(4,), primary_ratio=4)
    data = dataclasses.replace(cfg.data, segment=28)
    short = dataclasses.replace(cfg, data=data, sweep=sweep)
    with pytest.raises(ConfigError, match=r"at most 28 words .* expected at least 30"):
        validate(short)


def test_people_fields_of_another_source_are_refused():
    cfg = dataclasses.replace(world_config(segment=64), people=PeopleConfig(seed=3))
    with pytest.raises(ConfigError, match=r"data\.source = 'world', which does not read it"):
        validate(cfg)
    world = dataclasses.replace(cfg.world, base_favourites=2)
    with pytest.raises(ConfigError, match=r"world\.\* is set with .*set people\.\* instead"):
        validate(people_config(world=world))


def test_evaluations_of_one_set_read_the_counterfactual_one():
    assert source_of(people_config()).measured[-1] == "counterfactual"
