"""What determines the weights that are made here: language models and the adapted decoder.

Their cards carry the `config_hash` of it, and a folder is used only where that is the one wanted.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
    WorldConfig,
    config_hash,
    to_dict,
)
from jaxcomp.data.batches import data_tokenizer
from jaxcomp.data.corpus import corpus
from jaxcomp.data.examples import context_words
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import bases_world, own_world

Identity = dict[str, Any]
# What is printed, stored or recomputed differently, but computes the same.
_SIDE = ("log_every", "checkpoint_every", "keep_checkpoints", "remat", "loss_chunk")


def split_name(name: str) -> tuple[str, str]:
    """ "qwen3/4B" -> ("qwen3", "4B"). Raises ConfigError."""
    family, slash, size = name.partition("/")
    if not (family and slash and size):
        raise ConfigError(f"compressor = {name!r}; expected family/size, such as qwen3/small")
    return family, size


def model_for(cfg: Config, family: str, size: str) -> ModelConfig:
    """Shape of a compressor's base. Raises ConfigError for an unknown name."""
    try:
        return cfg.families[family][size]
    except KeyError:
        known = [f"{f}/{s}" for f, sizes in cfg.families.items() for s in sizes]
        raise ConfigError(
            f"{family}/{size} is not in families; known: {', '.join(known) or 'none'}"
        ) from None


def own_text(cfg: Config) -> Config:
    """`cfg` for the decoder and its reference: of the world itself, whatever the bases read."""
    return dataclasses.replace(cfg, world=own_world(cfg.world))


def base_text(cfg: Config) -> Config:
    """`cfg` for the language models that compressors start from: of the world that they read."""
    return dataclasses.replace(cfg, world=bases_world(cfg.world))


def lm_identity(cfg: Config, model: ModelConfig, pretrain: PretrainConfig, seed: int) -> Identity:
    """Everything that determines a language model pretrained here on `own_text` or `base_text`.

    World: its seed, prior strength, passages and their longest length; text: the documents'
    fingerprint and the split's seed; then the tokenizer, the shape, the recipe and the seed.
    """
    tok = _tokenizer(cfg.world, cfg.data)
    shape = dataclasses.replace(model, vocab_size=model.vocab_size or tok.vocab_size)
    return {
        "kind": "lm",
        "data": _lm_data(cfg, pretrain),
        "tokenizer": tok.name,
        "model": to_dict(shape),
        "pretrain": without_side(to_dict(pretrain)),
        "seed": seed,
    }


def base_hash(cfg: Config, family: str, size: str, base_seed: int) -> str:
    """`config_hash` that the card of this base must carry."""
    model = model_for(cfg, family, size)
    return config_hash(lm_identity(base_text(cfg), model, cfg.pretrain, base_seed))


def decoder_identity(cfg: Config) -> Identity:
    """Everything that determines the adapted decoder."""
    cfg = own_text(cfg)
    dec, memory = cfg.decoder, to_dict(cfg.memory)
    for name in ("ratio", "lora", "marker_steps"):  # of the compressors, not of the adaptation
        memory.pop(name)
    data = to_dict(cfg.data)
    shape = {name: data[name] for name in ("segment", "segments", "target")}
    return {
        "kind": "decoder",
        "lm": lm_identity(cfg, dec.model, dec.pretrain, decoder_seeds(cfg)[0]),
        "reference": lm_identity(cfg, dec.reference, dec.pretrain, decoder_seeds(cfg)[1]),
        "adapt": without_side(to_dict(adapt_settings(cfg))),
        "memory": memory,
        "data": shape | {"train_prior_strength": cfg.world.train_prior_strength},
        "seed": dec.seed,
    }


def decoder_hash(cfg: Config) -> str:
    """`config_hash` that the card of the adapted decoder must carry."""
    return config_hash(decoder_identity(cfg))


def decoder_seeds(cfg: Config) -> tuple[int, int]:
    """Pretraining seeds of the decoder and the reference, far from those of compressor bases."""
    return 1_000_000 + cfg.decoder.seed, 2_000_000 + cfg.decoder.seed


def adapt_settings(cfg: Config) -> TrainConfig:
    """`decoder.adapt` with its defaults filled in: the decoder learns, at the sweep's ratios.

    Not at `memory.ratio`: a sweep sets that for each job, and the decoder is one for all.
    """
    adapt = cfg.decoder.adapt
    return dataclasses.replace(adapt, train_decoder=True, ratios=adapt.ratios or cfg.sweep.ratios)


def without_side(tree: dict[str, Any]) -> dict[str, Any]:
    """A TrainConfig or PretrainConfig without what cannot change its result."""
    return {k: v for k, v in tree.items() if k not in _SIDE}


def _lm_data(cfg: Config, pretrain: PretrainConfig) -> Identity:
    data = cfg.data
    documents = _fingerprint(cfg.world, data)
    if not documents:  # passages that are a function of the config
        words = min(context_words(cfg), (pretrain.seq_len - 2) // 2)
        passages = {"words": words, "train_passages": data.train_passages, "seed": data.seed}
        world = {"seed": cfg.world.seed, "prior_strength": cfg.world.prior_strength}
        world |= {"scrambled": True} if cfg.world.base_scrambled else {}
        return {"source": data.source, "world": world, **passages}
    return {"source": data.source, "documents": documents, "seed": data.seed}


@functools.lru_cache(maxsize=8)
def _tokenizer(world: WorldConfig, data: DataConfig) -> Tokenizer:
    return data_tokenizer(Config(world=world, data=data))


@functools.lru_cache(maxsize=8)
def _fingerprint(world: WorldConfig, data: DataConfig) -> str:
    return corpus(Config(world=world, data=data)).fingerprint
