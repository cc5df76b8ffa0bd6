"""configs/controls.py: what each control changes, in hashes and in the text that bases read."""

import dataclasses
from pathlib import Path

import pytest

from jaxcomp.analysis import factor
from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError, PretrainConfig, WorldConfig
from jaxcomp.data import lexicon
from jaxcomp.data.batches import data_tokenizer, lm_batches, train_batches
from jaxcomp.data.corpus import corpus
from jaxcomp.data.facts import ATTRIBUTES
from jaxcomp.data.prepare import example_blocks
from jaxcomp.data.world import World, bases_world
from jaxcomp.sweep import grid
from jaxcomp.training import identity as ids
from jaxcomp.training import pretrained

SIZES = ["24", "40", "64"]


def load(arg):
    return overrides.load(f"configs/controls.py:{arg}")


def hashes(cfg):
    return {job.id: job.hash for job in grid.expand(cfg)}


@pytest.fixture(scope="module")
def tiny():
    return overrides.load("configs/tiny.py:full")


def test_the_uncontrolled_level_is_the_full_sweep_s_own_rows(tiny):
    every = hashes(tiny)
    same, own = (hashes(load(a)) for a in ("control=mismatch,text=same", "control=decoder"))
    assert len(same) == 9
    assert len(own) == 18
    assert same.items() <= own.items() <= every.items()


@pytest.mark.parametrize("arg", ["split", "mismatch,text=scrambled", "mismatch,text=untrained"])
def test_a_text_of_the_bases_changes_the_bases_and_no_decoder(tiny, arg):
    cfg = load(f"control={arg}")
    assert ids.decoder_hash(cfg) == ids.decoder_hash(tiny)
    assert ids.base_hash(cfg, "llama", "24", 0) != ids.base_hash(tiny, "llama", "24", 0)
    assert pretrained.find_decoder(cfg) == pretrained.find_decoder(tiny) is not None
    assert pretrained.find_base(cfg, "llama", "24", 0) is None
    assert factor.kind_of(load("control=mismatch,text=same"), cfg) == "mismatch"


@pytest.mark.parametrize("name", ["qwen3", "small", "large"])
def test_a_decoder_changes_the_decoder_and_no_base(tiny, name):
    cfg = load(f"control=decoder,decoder={name}")
    assert ids.decoder_hash(cfg) != ids.decoder_hash(tiny)
    assert pretrained.find_decoder(cfg) is None
    assert ids.base_hash(cfg, "llama", "24", 0) == ids.base_hash(tiny, "llama", "24", 0)
    assert grid.sizes(cfg) == {"llama": set(SIZES), "qwen3": set(SIZES)}
    assert factor.kind_of(load("control=decoder"), cfg) == "decoder"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("control=none", "control=none: expected one of split, mismatch, decoder"),
        ("control=mismatch,text=x", "text=x: expected one of same"),
        ("control=split,text=scrambled", "text=... goes with control=mismatch only"),
        ("control=decoder,decoder=x", "decoder=x: expected one of own"),
    ],
)
def test_unknown_controls_are_refused(arg, message):
    with pytest.raises(ConfigError, match=message):
        load(arg)


def read_by(cfg, count=40):
    """Texts that a base of `cfg` reads."""
    tok = data_tokenizer(cfg)
    optim = dataclasses.replace(cfg.pretrain.optim, batch=count)
    rows = lm_batches(cfg, PretrainConfig(optim=optim, seq_len=128), tok)
    batch = next(rows)
    return [
        tok.decode([int(t) for t in tok_L[seg_L == s] if t != tok.eos_id])
        for tok_L, seg_L in zip(batch.tok_BL, batch.seg_BL, strict=True)
        for s in range(1, int(seg_L.max()) + 1)
    ]


def small(cfg):
    data = dataclasses.replace(cfg.data, train_passages=256)
    optim = dataclasses.replace(cfg.pretrain.optim, steps=1)
    return dataclasses.replace(
        cfg, data=data, pretrain=dataclasses.replace(cfg.pretrain, optim=optim)
    )


def share_of_favourites(texts, world):
    facts = [(k, v) for text in texts for k, v in world.read(text).items() if world.favourite(k)]
    return sum(world.favourite(k) == v for k, v in facts) / len(facts)


def test_bases_read_the_other_favourites_and_the_decoder_its_own():
    cfg = small(load("control=split"))
    own, rival = World(WorldConfig()), World(WorldConfig(seed=1))
    for text, liked, other in ((ids.base_text, rival, own), (ids.own_text, own, rival)):
        read = read_by(text(cfg))
        assert share_of_favourites(read, liked) > 0.85  # prior strength 0.95
        assert share_of_favourites(read, other) < 0.3
    assert read_by(ids.own_text(cfg)) == read_by(small(load("control=mismatch,text=same")))


def test_136_of_140_favourites_of_the_split_are_another_value():
    """One for each entity and kind of fact; docs/explanation/controlled-world.md has them."""
    tables = {kind: table for kind, (table, _, _) in ATTRIBUTES.items()}
    tables |= {"modifier": lexicon.MOOD_OF, "polarity": lexicon.ACTION_IS}
    keys = [(kind, entity) for kind, table in tables.items() for entity in table]
    cfg = load("control=split")
    own, rival = World(cfg.world), World(bases_world(cfg.world))
    differ = sum(own.favourite(key) != rival.favourite(key) for key in keys)
    said = Path("docs/explanation/controlled-world.md").read_text()
    assert f"{differ} of the {len(keys)} favourites differ" in said


def test_scrambled_bases_read_the_same_words_without_facts():
    same, mixed = (small(load(f"control=mismatch,text={t}")) for t in ("same", "scrambled"))
    plain, odd = (" ".join(read_by(ids.base_text(c))) for c in (same, mixed))
    world = World(WorldConfig())
    assert len(world.read(odd)) < 0.3 * len(world.read(plain))
    assert set(odd.replace(".", "").split()) <= set(world.words())
    assert " ".join(read_by(ids.own_text(mixed))) == plain
    # What compressors train on is the world's own, from the same cached blocks.
    tok = data_tokenizer(same)
    assert len({example_blocks(c, tok, tok, corpus(c)).folder for c in (same, mixed)}) == 1
    one, other = (next(train_batches(c, tok, tok)) for c in (same, mixed))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
