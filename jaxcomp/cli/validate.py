"""Rules about several config fields, checked before any long work."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Any

from jaxcomp.compress import recipes
from jaxcomp.compress.kinds import CONNECTORS, KINDS
from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PeopleConfig,
    SweepConfig,
    WorldConfig,
    suggestion,
)
from jaxcomp.data import people
from jaxcomp.data.draw import context_words
from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.data.sources import check_source, has_questions, source_of, world_config
from jaxcomp.models.config import check_shape
from jaxcomp.models.families import FAMILIES
from jaxcomp.models.hub import is_id
from jaxcomp.runtime.fields import read
from jaxcomp.runtime.files import is_file
from jaxcomp.runtime.paths import is_remote
from jaxcomp.runtime.registry import unknown
from jaxcomp.training.identity import GROUPS
from jaxcomp.training.loggers import LOGGERS

CHOICES: dict[str, Iterable[str]] = {
    "memory.recipe": (*recipes.RECIPES, recipes.CUSTOM),
    "memory.kind": KINDS,
    "memory.connector": CONNECTORS,
    "train.objective": OBJECTIVES,
}
RATIOS = (
    *("train.ratios", "train.curriculum", "decoder.adapt.ratios", "decoder.adapt.curriculum"),
    "sweep.ratios",
)
OPTIMS = ("train.optim", "pretrain.optim", "decoder.pretrain.optim", "decoder.adapt.optim")


def validate(cfg: Config) -> None:
    """Raises ConfigError that names the field, what was found, what works and the fix."""
    read(Config, cfg, "config")
    for key, allowed in CHOICES.items():
        _choice(key, attrgetter(key)(cfg), allowed)
    recipes.check(cfg.memory)
    recipes.check_towers(cfg.memory, cfg.train)
    if "decoder" not in cfg.folders:  # it will be taught by the reference
        towers = cfg.decoder.reference, cfg.decoder.model
        recipes.check_shapes(cfg.memory, *towers, "decoder.reference")
    for key in OPTIMS:
        _optim(key, attrgetter(key)(cfg))
    for group in GROUPS:
        for name in attrgetter(group)(cfg).loggers:
            _choice(f"{group}.loggers", name, LOGGERS)
    _models(cfg)
    _ratios(cfg)
    if cfg.eval.samples > 1 and not cfg.eval.temperature > 0:
        raise ConfigError(
            f"eval.temperature = {cfg.eval.temperature}: sampled rebuilds need one above 0 (or "
            "eval.samples=0)"
        )
    _data(cfg.data)
    _stages(cfg)
    _worlds(cfg)
    _sweep(cfg)


def _choice(key: str, value: str, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise unknown(key, value, allowed)


def _optim(key: str, optim: OptimConfig) -> None:
    if optim.batch % optim.accumulate:
        raise ConfigError(
            f"{key}.accumulate = {optim.accumulate} does not divide {key}.batch = {optim.batch}: "
            "a step is split into equal micro-batches; choose a divisor"
        )


def _ratios(cfg: Config) -> None:
    segment = cfg.data.segment
    asked = [("memory.ratio", cfg.memory.ratio)]
    asked += [(key, r) for key in RATIOS for r in attrgetter(key)(cfg)]
    asked += [(f"sweep.own_ratios.{n}", r) for n, own in cfg.sweep.own_ratios.items() for r in own]
    for key, ratio in asked:
        if segment % ratio:
            near = [r for r in range(1, segment + 1) if segment % r == 0]
            best = min(near, key=lambda r: (abs(r - ratio), r))
            raise ConfigError(
                f"{key}: {ratio} does not divide data.segment = {segment}; "
                f"the nearest ratio that does is {best}"
            )


def _models(cfg: Config) -> None:
    models = {
        f"families.{f}.{s}": model
        for f, sizes in cfg.families.items()
        for s, model in sizes.items()
    }
    models |= {"decoder.model": cfg.decoder.model, "decoder.reference": cfg.decoder.reference}
    for key, model in models.items():
        _model(key, model)
    known = [f"{f}/{s}" for f, sizes in cfg.families.items() for s in sizes]
    if cfg.compressor and cfg.compressor not in known:
        raise ConfigError(
            f"compressor = {cfg.compressor!r} is not a family/size of this config"
            f"{suggestion(cfg.compressor, known)}; "
            f"known: {', '.join(known) or 'none (families is empty)'}"
        )
    for name, folder in cfg.folders.items():
        if name != "decoder" and name not in known:
            raise ConfigError(
                f"folders.{name}: expected decoder or one of {', '.join(known) or 'none'}"
            )
        place = os.path.expanduser(folder)
        if not is_id(folder) and not is_file(os.path.join(place, "config.json")):
            there = is_remote(folder) or os.path.isdir(place)
            found = "holds no config.json" if there else "no such folder"
            raise ConfigError(
                f"folders.{name} = {folder!r}: {found}; expected a Hugging Face model folder, or a "
                "hub id such as Qwen/Qwen3-0.6B"
            )


def _model(key: str, m: ModelConfig) -> None:
    _choice(f"{key}.model_type", m.model_type, tuple(FAMILIES))
    check_shape(m, f"{key}.")


def _data(data: DataConfig) -> None:
    check_source(data)
    tokenizer = os.path.join(os.path.expanduser(data.tokenizer), "tokenizer.json")
    if data.tokenizer and not is_file(tokenizer):
        raise ConfigError(
            f"data.tokenizer = {data.tokenizer!r}: holds no tokenizer.json; expected a Hugging "
            'Face tokenizer folder, or "" for one made here'
        )


def _worlds(cfg: Config) -> None:
    source, world = source_of(cfg), cfg.world
    if not source.facts or world_config(cfg) is not cfg.people:
        if cfg.people != PeopleConfig():
            raise ConfigError(
                f"people.* is set with data.source = {cfg.data.source!r}, which does not read it; "
                "take --data.source=people, or leave it out"
            )
    else:
        if world != WorldConfig():
            raise ConfigError(
                "world.* is set with data.source = 'people', which does not read it; set people.* "
                "instead"
            )
        lengths = cfg.pretrain.seq_len, cfg.decoder.pretrain.seq_len
        people.check(cfg, min(context_words(cfg), *((length - 2) // 2 for length in lengths)))
    for key in ("base_favourites", "base_scrambled"):
        if getattr(world, key) and not (source.facts and world_config(cfg) is world):
            raise ConfigError(
                f"world.{key} = {getattr(world, key)} with data.source = {cfg.data.source!r}: only "
                "base models of the controlled world read another one; leave it out"
            )
    if world.base_favourites and world.base_favourites == world.seed:
        raise ConfigError(
            f"world.base_favourites = {world.base_favourites} is world.seed: those are the world's "
            "own favourites; use 0 for them, or another seed"
        )


def _stages(cfg: Config) -> None:
    """What an objective needs of the data, and where a run may begin from another."""
    adapts = tuple(name for name, row in OBJECTIVES.items() if row.adapts_decoder)
    _choice("decoder.adapt.objective", cfg.decoder.adapt.objective, adapts)
    asks = OBJECTIVES[cfg.train.objective].targets == "question"
    if asks and not has_questions(source_of(cfg)):
        raise ConfigError(
            f"train.objective = {cfg.train.objective!r} with data.source = {cfg.data.source!r}, "
            "which has no questions; give rows of question, context and answers with "
            "--data.source=qa --data.path=FILE, or take --data.source=world"
        )
    if cfg.decoder.adapt.replay:
        raise ConfigError(
            f"decoder.adapt.replay = {cfg.decoder.adapt.replay}: only a compressor's own training "
            "(train.replay) replays the base models' text; leave it out"
        )
    _replay(cfg)
    if cfg.decoder.adapt.start:
        raise ConfigError(
            f"decoder.adapt.start = {cfg.decoder.adapt.start!r}: only a compressor's own training "
            "(train.start) may begin with another run"
        )


def _replay(cfg: Config) -> None:
    replay, given = cfg.train.replay, sorted(cfg.folders.keys() - {"decoder"})
    if replay and cfg.memory.trained == "connector":
        raise ConfigError(
            f"train.replay = {replay} with memory.trained = 'connector': a frozen tower forgets "
            "nothing; set train.replay=0, or memory.trained=tower"
        )
    if replay and given and not source_of(cfg).facts:
        raise ConfigError(
            f"train.replay = {replay} with folders.{given[0]}: the text that this base model read "
            "is not known here; set train.replay=0, or pretrain the base on data.path "
            "(jaxcomp pretrain) and leave its folder out"
        )


def _sweep(cfg: Config) -> None:
    sweep = cfg.sweep
    for family in sweep.families:
        if family not in cfg.families:
            raise ConfigError(
                f"sweep.families: {family!r} is not in families; known: {', '.join(cfg.families)}"
            )
    sizes = [s for f in (sweep.families or cfg.families) for s in cfg.families[f]]
    for size in sweep.sizes:
        if size not in sizes:
            raise ConfigError(
                f"sweep.sizes: {size!r} is no size of a chosen family; known: {', '.join(sizes)}"
            )
    for key in ("ratios", "base_seeds", "seeds"):
        _different(f"sweep.{key}", getattr(sweep, key), "one or more different numbers")
    ratios = sorted({*sweep.ratios}.union(*sweep.own_ratios.values()))
    # A grid without the default one, such as a first look at a single ratio, says so in its report.
    if sweep.primary_ratio not in (*ratios, SweepConfig.primary_ratio):
        raise ConfigError(
            f"sweep.primary_ratio = {sweep.primary_ratio}: expected one of the sweep's "
            f"ratios: {', '.join(map(str, ratios))}; or add it to sweep.ratios"
        )
    given = sorted(cfg.folders.keys() - {"decoder"})
    if given and len(sweep.base_seeds) > 1:
        raise ConfigError(
            f"sweep.base_seeds = {sweep.base_seeds}: folders gives {given[0]} one set of weights, "
            "which must not be counted as several; use one base seed, and sweep.seeds for several "
            "training seeds"
        )
    _different("sweep.lr_grid", sweep.lr_grid, "different multiples")
    _recipes(cfg)


def _different(key: str, values: Collection[Any], expected: str) -> None:
    if len(set(values)) != len(values) or ("one" in expected and not values):
        raise ConfigError(f"{key} = {values}: expected {expected}")


def _recipes(cfg: Config) -> None:
    chosen = cfg.sweep.recipes
    for name in chosen:
        _choice("sweep.recipes", name, tuple(recipes.RECIPES))
        recipes.check(recipes.with_memory(cfg, name).memory)
    _different("sweep.recipes", chosen, "different recipes")
    for name, ratios in cfg.sweep.own_ratios.items():
        if name not in chosen:
            raise ConfigError(
                f"sweep.own_ratios: {name!r} is none of sweep.recipes = {chosen}; leave it out, or "
                "name it there too"
            )
        _different(f"sweep.own_ratios.{name}", ratios, "one or more different numbers")
    if chosen and "decoder" not in cfg.folders:
        raise ConfigError(
            "sweep.recipes needs folders.decoder: a decoder made here is taught by a reference "
            "compressor of one recipe, and would be another for each; name one for all with "
            "--folders.decoder=DIR"
        )
