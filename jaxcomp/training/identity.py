"""Hashes of everything that determines the numbers of a run or of a pretrained model.

Each function returns the part of a config that counts, with files by content; `config_hash` of it
names the run or the model. Left out: names, workdir, logging, how often checkpoints are saved, the
mesh, and the rest of the grid. Data files count by name, size and content (`files.digest`), so a
folder that moved keeps its results and an edited file does not.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    PeopleConfig,
    PretrainConfig,
    TrainConfig,
    WorldConfig,
    config_hash,
    to_dict,
)
from jaxcomp.data.draw import context_words
from jaxcomp.data.sources import contents, fingerprint, source_of, with_world, world_config
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import paths
from jaxcomp.runtime.registry import implementation

if TYPE_CHECKING:
    from jaxcomp.data.tokenizer import Tokenizer

Identity = dict[str, Any]
GROUPS = ("train", "pretrain", "decoder.pretrain", "decoder.adapt")  # fields of trainings
_LOGGED = ("log_every", "loggers", "checkpoint_every", "keep_checkpoints")
_RECOMPUTED = ("remat", "loss_chunk")  # other programs for the same numbers; jobs hold them still


def _of_groups(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for group in GROUPS for name in names)


# What changes what is printed or stored or where it runs, never what comes out.
SIDE_FIELDS = ("name", "mesh", "plugins", "sweep.workers", *_of_groups(_LOGGED))


# --- runs and sweeps -----------------------------------------------------------------------------


def of_training(cfg: Config, start: str = "") -> Identity:
    """What determines what is trained; `start` is the hash of the run that `train.start` names."""
    found: Identity = {"compressor": cfg.compressor}
    found |= _without(of_job(cfg), ("eval", *_of_groups(_RECOMPUTED)))
    if start:
        found["train"]["start"] = start
    return found


def of_job(cfg: Config) -> Identity:
    """What determines what is trained and measured in a single run."""
    tree = _without(to_dict(cfg), (*SIDE_FIELDS, "sweep", "families", "compressor"))
    own = {"model": to_dict(model(cfg)), "adapt_ratios": list(adapt_settings(cfg).ratios)}
    return _by_content(tree, cfg) | own


def of_sweep(cfg: Config) -> Identity:
    """What a sweep's workdir belongs to: all but what the grid sets for each job."""
    set_by_grid = ("compressor", "base_seed", "seed", "memory.ratio")
    return _by_content(_without(to_dict(cfg), (*SIDE_FIELDS, *set_by_grid)), cfg)


def _without(tree: Identity, names: tuple[str, ...]) -> Identity:
    for path in names:
        *groups, key = path.split(".")
        functools.reduce(dict.__getitem__, groups, tree).pop(key, None)
    return tree


def _by_content(tree: Identity, cfg: Config) -> Identity:
    if not source_of(cfg).facts:
        tree["data"]["path"] = contents(cfg.data)
    tree["folders"] = {k: weights_fingerprint(v) for k, v in cfg.folders.items()}
    if cfg.data.tokenizer:
        tree["data"]["tokenizer"] = fingerprint(os.path.join(cfg.data.tokenizer, "tokenizer.json"))
    return tree


def weights_fingerprint(folder: str) -> list[str]:
    """What names a given model: its hub id, or the config and weights of its folder."""
    if is_id(folder):
        return [folder]
    where = paths.path(folder)
    files = (where / "config.json", *sorted(where.glob("*.safetensors")))
    return [fingerprint(str(file)) for file in files]


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted fields in which two dicts differ, with both values ("-" where absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(set(old) | set(new)):
            where = f"{path}.{key}".lstrip(".")
            out += differences(old.get(key, "-"), new.get(key, "-"), where)
        return out
    return [] if old == new else [(path, old, new)]


def under(path: str, fields: Sequence[str]) -> bool:
    """Whether a dotted field is one of these or a part of one."""
    return any(path == field or path.startswith(f"{field}.") for field in fields)


# --- models that are made here -------------------------------------------------------------------


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


def model(cfg: Config) -> ModelConfig:
    """The compressor's shape in the config of a single run."""
    return model_for(cfg, *split_name(cfg.compressor))


def own_text(cfg: Config) -> Config:
    """`cfg` for the decoder and its reference: of the world itself, whatever the bases read."""
    return with_world(cfg, _world(cfg).decoder_text(world_config(cfg)))


def base_text(cfg: Config) -> Config:
    """`cfg` for the language models that compressors start from: of the world that they read."""
    return with_world(cfg, _world(cfg).base_text(world_config(cfg)))


def _world(cfg: Config) -> Any:
    return implementation(source_of(cfg).world)


def lm_identity(cfg: Config, model: ModelConfig, pretrain: PretrainConfig, seed: int) -> Identity:
    """What determines a language model pretrained here on `own_text` or `base_text`."""
    tok = _tokenizer(cfg.world, cfg.people, cfg.data)
    shape = dataclasses.replace(model, vocab_size=model.vocab_size or tok.vocab_size)
    return {
        "kind": "lm",
        "data": _lm_data(cfg, pretrain),
        "tokenizer": tok.name,
        "model": to_dict(shape),
        "pretrain": _without(to_dict(pretrain), (*_LOGGED, *_RECOMPUTED, "text")),
        "seed": seed,
    }


def check_text(cfg: Config, pretrain: PretrainConfig) -> None:
    """Raises ConfigError where a language model would be made of another text than its identity
    names."""
    if not pretrain.text:
        return
    own = _documents(cfg.world, cfg.people, cfg.data)
    if pretrain.text != own:
        raise ConfigError(
            f"pretrain.text = {pretrain.text!r}, but the text of data.path is {own!r}: no "
            "pretrained model has these settings, and none can be made of another text; keep the "
            "settings of the shipped models, or make your own with "
            "--config=configs/text.py:path=FILE,models=own"
        )


def base_hash(cfg: Config, family: str, size: str, base_seed: int) -> str:
    """`config_hash` that the card of this base must carry."""
    shape = model_for(cfg, family, size)
    return config_hash(lm_identity(base_text(cfg), shape, cfg.pretrain, base_seed))


def decoder_identity(cfg: Config) -> Identity:
    """What determines the adapted decoder."""
    cfg = own_text(cfg)
    dec, data = cfg.decoder, cfg.data
    shape = {"segment": data.segment, "segments": data.segments, "target": data.target}
    seeds = decoder_seeds(cfg)
    return {
        "kind": "decoder",
        "lm": lm_identity(cfg, dec.model, dec.pretrain, seeds[0]),
        "reference": lm_identity(cfg, dec.reference, dec.pretrain, seeds[1]),
        "adapt": _without(to_dict(adapt_settings(cfg)), (*_LOGGED, *_RECOMPUTED)),
        # The others are of the compressors, not of the adaptation.
        "memory": _without(to_dict(cfg.memory), ("ratio", "lora", "marker_steps", "trained")),
        "data": shape | {"train_prior_strength": world_config(cfg).train_prior_strength},
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


def _lm_data(cfg: Config, pretrain: PretrainConfig) -> Identity:
    data = cfg.data
    documents = pretrain.text or _documents(cfg.world, cfg.people, data)
    if documents:
        return {"source": data.source, "documents": documents, "seed": data.seed}
    # Passages that are a function of the config.
    words = min(context_words(cfg), (pretrain.seq_len - 2) // 2)
    passages = {"words": words, "train_passages": data.train_passages, "seed": data.seed}
    world = _world(cfg).lm_identity(world_config(cfg))
    return {"source": data.source, "world": world, **passages}


@functools.lru_cache(maxsize=8)
def _tokenizer(world: WorldConfig, people: PeopleConfig, data: DataConfig) -> Tokenizer:
    from jaxcomp.data.batches import data_tokenizer  # loads what computes

    return data_tokenizer(Config(world=world, people=people, data=data))


@functools.lru_cache(maxsize=8)
def _documents(world: WorldConfig, people: PeopleConfig, data: DataConfig) -> str:
    """The fingerprint of the documents; "" of the world."""
    from jaxcomp.data.corpus import corpus

    return corpus(Config(world=world, people=people, data=data)).fingerprint
