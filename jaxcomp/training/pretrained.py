"""The pretrained weights of a run: a given folder, a shipped model, or one pretrained here.

Every weight folder made by `jaxcomp pretrain` is a Hugging Face folder with a `card.json` whose
`config_hash` names all settings that made it; a folder is used only where that hash matches.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, LoraConfig, ModelConfig
from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer
from jaxcomp.models.hf import CONFIG, read_config
from jaxcomp.models.hub import folder_of, is_id
from jaxcomp.runtime import paths
from jaxcomp.training.identity import (
    adapt_settings,
    base_hash,
    decoder_hash,
    model_for,
    split_name,
)
from jaxcomp.training.manifest import CARD, Weights, read_json, weights_identity

ASSETS = Path(__file__).parent.parent / "assets"
MARKERS = "markers.safetensors"
# How `Weights.source` begins: of weights that ship with jaxcomp, and of those beside a run.
SHIPPED, BESIDE = "jaxcomp:", "run:"


class MissingBaseError(ConfigError):
    """No weights match a config."""


def base_name(family: str, size: str, base_seed: int) -> str:
    return f"{family}-{size}-s{base_seed}"


def decoder_name(cfg: Config) -> str:
    return f"decoder-s{cfg.decoder.seed}"


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


def adapt_config(cfg: Config) -> Config:
    """The config under which the reference compressor and the decoder are trained together."""
    adapt = adapt_settings(cfg)
    memory = dataclasses.replace(
        cfg.memory, ratio=min(adapt.ratios), lora=LoraConfig(), trained="tower"
    )
    return dataclasses.replace(cfg, train=adapt, memory=memory, seed=cfg.decoder.seed)


def find_base(
    cfg: Config, family: str, size: str, base_seed: int, workdir: Path | None = None
) -> Path | None:
    """The folder of a base: `cfg.folders["family/size"]`, a shipped asset, or `workdir`/bases.

    None where there is none that matches. Raises ConfigError where a named folder does not exist.
    """
    if given := cfg.folders.get(f"{family}/{size}"):
        return _given(given, f"folders.{family}/{size}")
    wanted = base_hash(cfg, family, size, base_seed)
    return _matching("bases", base_name(family, size, base_seed), wanted, workdir)


def find_decoder(cfg: Config, workdir: Path | None = None) -> Path | None:
    """The folder of the decoder: `cfg.folders["decoder"]`, a shipped asset, or
    `workdir`/decoders; None where there is none that matches."""
    if given := cfg.folders.get("decoder"):
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
    return paths.path(root) / "bases" / base_name(family, size, base_seed)


def made_decoder(root: Path, cfg: Config) -> Path:
    return paths.path(root) / "decoders" / decoder_name(cfg)


def weights_of(folder: Path, given: str, root: Path, workdir: Path) -> Weights:
    """What a run in `workdir` writes down of a folder of weights, which its config named as `given`
    ("": it was found among the shipped ones or under `root`)."""
    identity = weights_identity(folder)
    if given and is_id(given):
        # huggingface_hub keeps a snapshot in a folder named by its commit.
        commit = folder.name if folder.parent.name == "snapshots" else None
        return Weights(given.partition("@")[0], identity, commit)
    if given:
        return Weights(paths.absolute(given), identity)
    if folder.is_relative_to(ASSETS):
        return Weights(SHIPPED + folder.relative_to(ASSETS).as_posix(), identity)
    # Of a bucket, `folder` is a copy.
    made = (paths.path(root) / kind / folder.name for kind in ("bases", "decoders"))
    place = next((one for one in made if one.is_dir()), folder)
    return Weights(BESIDE + paths.relative(place, workdir), identity)


def folder_at(weights: Weights, workdir: Path, given: str, what: str) -> Path:
    """The folder of the weights of a run in `workdir`: where they were, or `given` if they have
    moved. `what` is "compressor" or "decoder".

    Raises MissingBaseError where there are none, or others.
    """
    name = weights.source
    if given:
        folder = folder_of(given)
    elif name.startswith(SHIPPED):
        folder = ASSETS / name.removeprefix(SHIPPED)
    elif name.startswith(BESIDE):
        folder = readable(paths.join(workdir, name.removeprefix(BESIDE)))
    else:
        folder = folder_of(f"{name}@{weights.revision}" if weights.revision else name)
    if not (folder / CONFIG).is_file():
        where = f"{what} = {given!r}" if given else f"{workdir}: its {what} was at {name}, which"
        raise MissingBaseError(
            f"{where} holds no {CONFIG}; name the folder of the model that {workdir.name} was "
            f"trained with by {what}=DIR (--{what}=DIR)"
        )
    found = weights_identity(folder)
    if found != weights.identity:
        raise MissingBaseError(
            f"{folder} does not hold the weights that {workdir.name} was trained with as {what}: "
            f"expected {weights.identity}, found {found}"
        )
    return folder


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


def readable(folder: Path) -> Path:
    """`folder`, or this machine's copy of one in a bucket: weights are read from files."""
    return folder_of(str(folder)) if paths.is_remote(folder) else folder


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
        places.append(paths.path(workdir) / kind)
    # Another config's asset of the same size carries a suffix after the name.
    for card in (c for place in places for c in sorted(place.glob(f"{name}*/{CARD}"))):
        if read_json(card).get("config_hash") == wanted:
            return readable(card.parent)
    return None
