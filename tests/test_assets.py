"""The shipped base models are what their cards say, and compressors start from nothing."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from jaxcomp.cli import overrides
from jaxcomp.config import config_hash
from jaxcomp.data.batches import batch_examples, data_tokenizer, eval_examples
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.inference import decode
from jaxcomp.models import hf
from jaxcomp.models.model import count_params
from jaxcomp.runtime.sharding import put_batch
from jaxcomp.sweep import grid
from jaxcomp.training import identity as ids
from jaxcomp.training import manifest, pretrain, pretrained
from jaxcomp.training.compressor import pair
from jaxcomp.training.manifest import read_json

CONFIG_FILES = Path(__file__).parents[1] / "configs"
DEFAULT, FULL = "tiny.py", "tiny.py:full"
PEOPLE = "people.py:quick"
OF_TINY = (DEFAULT, FULL, "tiny.py:full,reference=2")
CONFIGS = (*OF_TINY, PEOPLE, f"{PEOPLE},decoder=knowing")
MOST_BYTES = 9_500_000
PAIRS = "pairs"  # trained ones, which test_evals_demo.py holds to their cards
# A card's losses were measured on these very bfloat16 weights: only the order of float32 sums, and
# the rounding of products on another machine, may differ.
CARD_NATS = 1e-3


def load(spec):
    return overrides.load(str(CONFIG_FILES / spec))


@pytest.fixture(scope="module")
def full():
    return load(FULL)


@pytest.fixture(scope="module")
def held_out():
    """The validation set of a card, drawn once: it costs more than a forward."""

    @functools.cache
    def of(spec, kind):
        cfg = load(spec)
        tok = data_tokenizer(cfg)
        text = pretrain.pretraining_text(cfg) if kind == "lm" else ids.own_text(cfg)
        return text, eval_examples(text, "val", tok, tok)

    return of


def cards():
    return sorted(pretrained.ASSETS.glob(f"*/*/{manifest.CARD}"))


def sizes(cfg):
    """(family, size, base seed) of every base the grid starts from."""
    return sorted({(j.setup.family, j.setup.size, j.base_seed) for j in grid.expand(cfg)})


def test_the_package_stays_small():
    size = sum(p.stat().st_size for p in pretrained.ASSETS.rglob("*") if p.is_file())
    assert 0 < size <= MOST_BYTES


def test_every_asset_is_a_whole_model_folder():
    for card in cards():
        names = {p.name for p in card.parent.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert (pretrained.MARKERS in names) == (card.parent.parent.name == "decoders")
    folders = {
        p
        for p in pretrained.ASSETS.glob("*/*")
        if p.is_dir() and p.parent.name not in ("__pycache__", PAIRS)
    }
    assert {card.parent for card in cards()} == folders


@pytest.mark.parametrize("arg", CONFIGS)
def test_every_base_of_the_configs_is_shipped(arg):
    """By hash: a setting of the config that the shipped weights were not made with is noticed."""
    cfg = load(arg)
    decoder = pretrained.find_decoder(cfg)
    assert decoder is not None, f"no asset has {ids.decoder_hash(cfg)}"
    assert read_json(decoder / manifest.CARD)["config_hash"] == ids.decoder_hash(cfg)
    for name in sizes(cfg):
        folder = pretrained.find_base(cfg, *name)
        assert folder is not None, f"no asset of {name} has {ids.base_hash(cfg, *name)}"
        assert read_json(folder / manifest.CARD)["config_hash"] == ids.base_hash(cfg, *name)


@pytest.mark.parametrize("arg", CONFIGS[1:])
def test_a_size_has_three_independent_bases(arg):
    cfg = load(arg)
    found = sizes(cfg)
    weights = {
        pretrained.resolve_base(cfg, *name).joinpath("model.safetensors").read_bytes()
        for name in found
    }
    assert len(weights) == len(found) == 3 * len({name[:2] for name in found})


def spec_of(card):
    """The config that made a card's model."""
    if "-people" not in card.parent.name:
        return FULL
    return next(c for c in CONFIGS[3:] if card.parent.name.endswith("-knowing") == ("knowing" in c))


def test_no_asset_is_out_of_reach():
    wanted = set()
    for cfg in map(load, CONFIGS):
        wanted |= {ids.decoder_hash(cfg)} | {ids.base_hash(cfg, *name) for name in sizes(cfg)}
    found = {read_json(card)["config_hash"] for card in cards()}
    assert found
    assert found <= wanted


def test_the_decoder_was_taught_by_a_compressor_outside_the_grid(full):
    shapes = [m for family in full.families.values() for m in family.values()]
    for cfg in map(load, OF_TINY):
        assert cfg.decoder.reference not in shapes
        assert not set(ids.decoder_seeds(cfg)) & set(full.sweep.base_seeds)


@pytest.mark.slow
def test_every_card_tells_the_truth(held_out, mesh, monkeypatch):
    """Identity, command, size and the held-out losses, measured again."""
    assert cards()
    for file in cards():
        card, folder = read_json(file), file.parent
        assert card["config_hash"] == config_hash(card["identity"])
        assert card["command"].startswith("jaxcomp pretrain")
        assert card["tokens"] > 0
        model = hf.load(folder)
        assert card["parameters"] == count_params(model.cfg)
        tok = load_tokenizer(folder)
        assert tok.vocab_size == model.cfg.vocab_size
        cfg, examples = held_out(spec_of(file), card["kind"])
        monkeypatch.setattr(pretrain, "eval_examples", lambda *_, found=examples: found)
        losses = pretrain.held_out(cfg, model, tok)
        for name in ("eval_loss", "copy_loss"):
            assert losses[name] == pytest.approx(card[name], abs=CARD_NATS), (folder.name, name)


def gains(cfg, name, examples):
    """Nats a passage that the memory of an untrained compressor saves the decoder."""
    decoder = pretrained.resolve_decoder(cfg)
    model = pair(cfg, pretrained.resolve_base(cfg, *name), decoder)
    graphdef, state = nnx.split(model)
    mesh, saved = jax.sharding.get_mesh(), []
    for batch, valid in batch_examples(examples, 64, cfg):
        put = put_batch(batch, mesh)
        args = (put.mode_BO[:, 0], put.tok_BOL[:, 0], put.tok_len_BO[:, 0])
        memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, cfg.memory.ratio)
        with_B, without_B = (
            np.asarray(decode.forced(graphdef, state, m, *args).nll_BL, np.float64).sum(1)
            for m in (memory, decode.no_memory(memory))
        )
        saved += (without_B - with_B)[:valid].tolist()
    return np.array(saved)


def test_the_default_grid_is_part_of_the_full_one(full):
    """So that what holds of the full one's bases holds of the default's."""
    default = load(DEFAULT)
    assert set(sizes(default)) <= set(sizes(full))
    assert pretrained.resolve_decoder(default) == pretrained.resolve_decoder(full)
    for name in sizes(default):
        assert pretrained.resolve_base(default, *name) == pretrained.resolve_base(full, *name)


@pytest.mark.slow
@pytest.mark.parametrize("arg", OF_TINY[1:])
def test_an_untrained_compressor_is_no_better_than_no_memory(arg, held_out, mesh):
    """A base has never seen memory tokens or this decoder, so its memory must not help at all.

    Per size, at the most generous ratio: the mean gain over 128 passages exceeds zero by no more
    than three standard errors of that mean.
    """
    cfg = load(arg)
    ratio = min(cfg.sweep.ratios)
    cfg = dataclasses.replace(cfg, memory=dataclasses.replace(cfg.memory, ratio=ratio))
    for name in sizes(cfg):
        if name[2] != min(cfg.sweep.base_seeds):
            continue
        saved = gains(cfg, name, held_out(arg, "decoder")[1][:128])
        error = saved.std(ddof=1) / math.sqrt(len(saved))
        assert saved.mean() <= 3 * error, (name, saved.mean(), error)
