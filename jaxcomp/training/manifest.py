"""What a run is: the files that name its config, weights, tokenizers and data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

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
from jaxcomp.runtime import distributed, errors, paths, strict_json
from jaxcomp.runtime.files import digest
from jaxcomp.training import orbax

IDENTITY = "run.json"


SETTINGS = "settings.json"


SUMMARY = "summary.json"


Json = dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint or result cannot be written or read; the message says where and the mend."""


def claim_together(workdir: Path, identity: Json) -> None:
    """`claim`, by process 0; the others look whether they see the same folder.

    Raises ConfigError as `claim` does, and where a process does not see what process 0 wrote.
    """
    distributed.by_lead(lambda: claim(workdir, identity))
    if distributed.is_lead():
        return
    path, end = paths.path(workdir) / IDENTITY, time.monotonic() + 20
    while not path.exists():  # some shared disks show a new file late
        if time.monotonic() > end:
            raise ConfigError(
                f"{path} is not there, though process 0 has written it: --workdir must be a folder "
                "that all hosts share, such as a network disk or gs://"
            )
        time.sleep(0.2)
    claim(workdir, identity)


def claim(workdir: Path, identity: Json) -> None:
    """Makes `workdir` that of `identity`, or checks that it already is.

    Raises ConfigError listing what differs if it belongs to another run.
    """
    path = paths.path(workdir) / IDENTITY
    if not path.exists():
        # The file may have been removed, since it was damaged; what it named is still there.
        own, others = config_hash(identity), _owners(paths.path(workdir))
        for place, found in others.items():
            if found != own:
                raise other_owner(place, found, own)
        write_json(path, identity)
        return
    found = read_json(path)
    wanted = json.loads(json.dumps(identity))
    differs = list(_differences(found, wanted))
    if differs:
        shown = "; ".join(differs[:8]) + ("; ..." if len(differs) > 8 else "")
        raise ConfigError(
            f"{workdir} was made by another config: {shown}. "
            "Use another --workdir, or remove this one to start again"
        )


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that `path` is either absent, as it was, or whole. Raises CheckpointError."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    with writing(path):
        paths.write_bytes(path, text.encode())


def read_json(path: Path, *needs: str) -> Json:
    """The JSON object that jaxcomp wrote to `path`, which has the fields `needs`. Raises
    CheckpointError where it is not whole."""
    found = strict_json.read(path, dict, CheckpointError, "remove it and run again")
    lacking = [name for name in needs if name not in found]
    if lacking:
        raise CheckpointError(f"{path}: lacks {', '.join(lacking)}; remove it and run again")
    return found


def _owners(workdir: Path) -> dict[Path, Any]:
    """What a workdir holds of a run -> the `config_hash` of its config, None where unknown."""
    found: dict[Path, Any] = {}
    if (workdir / SUMMARY).is_file():
        found[workdir / SUMMARY] = read_json(workdir / SUMMARY).get("config_hash")
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if steps:
        newest = paths.path(paths.absolute(folder)) / str(max(steps))
        try:
            about = ocp.checkpointables_metadata(orbax.folder_for(newest)).custom_metadata
        except Exception as error:
            raise CheckpointError(unreadable(newest, error)) from error
        found[newest] = about.get("config_hash") if isinstance(about, dict) else None
    return found


def other_owner(place: Any, found: str | None, own: str) -> ConfigError:
    return ConfigError(
        f"{place} was made by another config (config_hash {found or 'unknown'}, this one is "
        f"{own}); use another --workdir, or remove the whole folder to start again"
    )


def _differences(found: Any, wanted: Any, at: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            here = f"{at}.{key}" if at else key
            yield from _differences(found.get(key), wanted.get(key), here)
    elif found != wanted:
        yield f"{at} was {found!r}, now {wanted!r}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, errors.StorageError):
        raise
    except Exception as error:  # Orbax wraps a full disk in several types of its own
        raise CheckpointError(
            f"{path}: cannot be written ({orbax.brief(error)}); free some space, see that nothing "
            "else removes files there, or choose a --workdir that can be written, and run again: "
            "it goes on from the last whole checkpoint"
        ) from error


CARD = "card.json"


# What is printed, stored or recomputed differently, but computes the same.
_SIDE = ("log_every", "checkpoint_every", "keep_checkpoints", "remat", "loss_chunk")


Identity = dict[str, Any]


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


def base_identity(cfg: Config, family: str, size: str, base_seed: int) -> Identity:
    return lm_identity(base_text(cfg), model_for(cfg, family, size), cfg.pretrain, base_seed)


def base_hash(cfg: Config, family: str, size: str, base_seed: int) -> str:
    """`config_hash` that the card of this base must carry."""
    return config_hash(base_identity(cfg, family, size, base_seed))


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


def weights_identity(folder: Path) -> Identity:
    """What names the weights of a folder in a run's identity: its card's hash, else its files."""
    card = folder / CARD
    if card.is_file():
        return {"config_hash": read_json(card, "config_hash")["config_hash"]}
    return {"files": [digest(p) for p in sorted(folder.glob("*.safetensors"))]}


def data_identity(cfg: Config) -> Identity:
    """`cfg.data` without the file's place: documents count by their fingerprint."""
    data = to_dict(cfg.data)
    if documents := _fingerprint(cfg.world, cfg.data):
        data["path"] = documents
    return data


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


def unreadable(place: Path, error: Exception) -> str:
    # What Orbax says of a file that is missing or cut names its own classes.
    why = orbax.brief(error) if isinstance(error, OSError) else "a file in it is missing or cut"
    return (
        f"{place}: the checkpoint cannot be read ({why}); remove that folder to go on from the "
        "checkpoint before it, or from the start"
    )
