"""Which pretrained weights a run starts from: a given folder, a shipped asset, or one made here.

Every weight folder made by `jaxcomp pretrain` is a Hugging Face folder with a `card.json` whose
`config_hash` names all settings that made it; a folder is used only where that hash matches.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jaxcomp import recipes, storage
from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    LoraConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
    WorldConfig,
    config_hash,
    to_dict,
)
from jaxcomp.data.blocks import context_words, train_documents
from jaxcomp.data.files import digest
from jaxcomp.data.pipeline import data_tokenizer
from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer
from jaxcomp.data.world import bases_world, own_world
from jaxcomp.llm.hf import read_config
from jaxcomp.llm.hub import folder_of
from jaxcomp.train.checkpoint import CheckpointError, read_json

ASSETS = Path(__file__).parent.parent / "assets"
CARD = "card.json"
MARKERS = "markers.safetensors"
# What is printed, stored or recomputed differently, but computes the same.
_SIDE = ("log_every", "checkpoint_every", "keep_checkpoints", "remat", "loss_chunk")
Identity = dict[str, Any]


class MissingBaseError(ConfigError):
    """No weights match a config."""


def split_name(name: str) -> tuple[str, str]:
    """ "qwen3/4B" -> ("qwen3", "4B"). Raises ConfigError."""
    family, slash, size = name.partition("/")
    if not (family and slash and size):
        raise ConfigError(f"compressor = {name!r}; expected family/size, such as qwen3/small")
    return family, size


def base_name(family: str, size: str, base_seed: int) -> str:
    return f"{family}-{size}-s{base_seed}"


def decoder_name(cfg: Config) -> str:
    return f"decoder-s{cfg.decoder.seed}"


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


def check_shapes(cfg: Config) -> None:
    """Raises ConfigError where `cfg.compressor` cannot write this kind of memory for the decoder,
    by the shapes of `cfg.folders` where it names them; or what reading those raises."""
    if not recipes.alike(cfg.memory):
        return
    name = cfg.compressor
    own = {name: model_for(cfg, *split_name(name)), "decoder": cfg.decoder.model}
    for part, folder in cfg.folders.items():
        if part in own:
            own[part] = read_config(_given(folder, f"folders.{part}"))
    recipes.check_shapes(cfg.memory, own[name], own["decoder"], name)


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


def adapt_config(cfg: Config) -> Config:
    """The config under which the reference compressor and the decoder are trained together."""
    adapt = adapt_settings(cfg)
    memory = dataclasses.replace(cfg.memory, ratio=min(adapt.ratios), lora=LoraConfig())
    return dataclasses.replace(cfg, train=adapt, memory=memory, seed=cfg.decoder.seed)


def find_base(
    cfg: Config, family: str, size: str, base_seed: int, workdir: Path | None = None
) -> Path | None:
    """The folder of a base: `cfg.folders["family/size"]`, a shipped asset, or `workdir`/bases.

    None where there is none that matches. Raises ConfigError where a named folder does not exist.
    """
    given = cfg.folders.get(f"{family}/{size}")
    if given:
        return _given(given, f"folders.{family}/{size}")
    wanted = base_hash(cfg, family, size, base_seed)
    return _matching("bases", base_name(family, size, base_seed), wanted, workdir)


def find_decoder(cfg: Config, workdir: Path | None = None) -> Path | None:
    """The folder of the decoder: `cfg.folders["decoder"]`, a shipped asset, or
    `workdir`/decoders; None where there is none that matches."""
    given = cfg.folders.get("decoder")
    if given:
        return _given(given, "folders.decoder")
    return _matching("decoders", decoder_name(cfg), decoder_hash(cfg), workdir)


def resolve_base(
    cfg: Config, family: str, size: str, base_seed: int, workdir: Path | None = None
) -> Path:
    """`find_base`, or MissingBaseError that says how to make it."""
    found = find_base(cfg, family, size, base_seed, workdir)
    if found is None:
        raise MissingBaseError(
            f"no pretrained weights for {base_name(family, size, base_seed)} with hash "
            f"{base_hash(cfg, family, size, base_seed)} in {ASSETS.name}/bases or "
            f"{workdir}/bases; make them with `jaxcomp pretrain --compressor={family}/{size} "
            f"--base_seed={base_seed}`, or name a folder with --folders.{family}/{size}=DIR (of a "
            "finished run: --compressor=DIR)"
        )
    return found


def resolve_decoder(cfg: Config, workdir: Path | None = None) -> Path:
    """`find_decoder`, or MissingBaseError that says how to make it."""
    found = find_decoder(cfg, workdir)
    if found is None:
        raise MissingBaseError(
            f"no decoder with hash {decoder_hash(cfg)} in {ASSETS.name}/decoders or "
            f"{workdir}/decoders; make it with `jaxcomp pretrain --compressor=decoder`, or name a "
            "folder with --folders.decoder=DIR (of a finished run: --decoder=DIR)"
        )
    return found


def made_base(root: Path, family: str, size: str, base_seed: int) -> Path:
    """Where a base made for this workdir stands."""
    return storage.path(root) / "bases" / base_name(family, size, base_seed)


def made_decoder(root: Path, cfg: Config) -> Path:
    return storage.path(root) / "decoders" / decoder_name(cfg)


def weights_identity(folder: Path) -> Identity:
    """What names the weights of a folder in a run's identity: its card's hash, else its files."""
    card = folder / CARD
    if card.is_file():
        return {"config_hash": read_json(card, "config_hash")["config_hash"]}
    return {"files": [digest(p) for p in sorted(folder.glob("*.safetensors"))]}


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder. Raises ConfigError where the model is too small for it."""
    tok = load_tokenizer(folder)
    check_vocabulary(read_config(folder), tok, str(folder))
    return tok


def check_vocabulary(model: ModelConfig, tok: Tokenizer, where: str) -> None:
    """Raises ConfigError where a token would have no row in the model's embeddings."""
    if tok.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{where}: the tokenizer has {tok.vocab_size} tokens, the model rows for "
            f"{model.vocab_size} (vocab_size); expected at least as many rows"
        )


def data_identity(cfg: Config) -> Identity:
    """`cfg.data` without the file's place: documents count by their fingerprint."""
    data = to_dict(cfg.data)
    if cfg.data.source != "world":
        data["path"] = _fingerprint(cfg.world, cfg.data)
    return data


def without_side(tree: dict[str, Any]) -> dict[str, Any]:
    """A TrainConfig or PretrainConfig without what cannot change its result."""
    return {k: v for k, v in tree.items() if k not in _SIDE}


def making(folder: Path) -> Path:
    """An empty name on this machine for what `publish` will make `folder`."""
    if storage.is_remote(folder):
        return Path(tempfile.mkdtemp(prefix="jaxcomp-")) / folder.name
    part = Path(f"{folder}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    return part


def publish(part: Path, folder: Path) -> None:
    """Moves a finished folder to its name at once, in place of one made by other settings.

    In a bucket file by file, the card last: a folder without one is not looked at.
    Raises CheckpointError where it cannot, StorageError for a bucket.
    """
    try:
        if folder.exists():
            storage.rmtree(folder)
        if storage.is_remote(folder):
            storage.copy_into(folder, part, last=CARD)
            shutil.rmtree(part.parent)
        else:
            part.rename(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from error


def readable(folder: Path) -> Path:
    """`folder`, or this machine's copy of one in a bucket: weights are read from files."""
    return folder_of(str(folder)) if storage.is_remote(folder) else folder


def _given(folder: str, field: str) -> Path:
    path = folder_of(folder)
    if not (path / "config.json").is_file():
        part = "decoder" if field == "folders.decoder" else "compressor"
        raise ConfigError(
            f"{field} = {folder!r}: holds no config.json; expected a Hugging Face model folder. If "
            f"it has moved, --{field}=DIR says where it is, of a finished run --{part}=DIR"
        )
    return path


def _matching(kind: str, name: str, wanted: str, workdir: Path | None) -> Path | None:
    places = [ASSETS / kind]
    if workdir is not None:
        places.append(storage.path(workdir) / kind)
    # Another config's asset of the same size carries a suffix after the name.
    for card in (c for place in places for c in sorted(place.glob(f"{name}*/{CARD}"))):
        if read_json(card).get("config_hash") == wanted:
            return readable(card.parent)
    return None


def _lm_data(cfg: Config, pretrain: PretrainConfig) -> Identity:
    data = cfg.data
    if data.source == "world":
        words = min(context_words(cfg), (pretrain.seq_len - 2) // 2)
        passages = {"words": words, "train_passages": data.train_passages, "seed": data.seed}
        world = {"seed": cfg.world.seed, "prior_strength": cfg.world.prior_strength}
        world |= {"scrambled": True} if cfg.world.base_scrambled else {}
        return {"source": "world", "world": world, **passages}
    return {"source": data.source, "documents": _fingerprint(cfg.world, data), "seed": data.seed}


@functools.lru_cache(maxsize=8)
def _tokenizer(world: WorldConfig, data: DataConfig) -> Tokenizer:
    return data_tokenizer(Config(world=world, data=data))


@functools.lru_cache(maxsize=8)
def _fingerprint(world: WorldConfig, data: DataConfig) -> str:
    docs = train_documents(Config(world=world, data=data))
    return "" if docs is None else f"{docs.fingerprint}-{len(docs)}"
