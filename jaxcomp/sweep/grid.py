"""Expand a config into jobs: setup (family x size x ratio) x seeds x learning rates."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import NamedTuple

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, ModelConfig, config_hash
from jaxcomp.training.identity import model as model
from jaxcomp.training.identity import of_job


class Setup(NamedTuple):
    """One cell of the grid, as the paper counts them (27)."""

    family: str
    size: str
    ratio: int
    recipe: str = ""  # one of `sweep.recipes`, or "" where that is empty

    @property
    def line(self) -> str:
        """The compressors that are compared with each other by size: a family, by one recipe."""
        return f"{self.family} {self.recipe}" if self.recipe else self.family


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation."""

    id: str  # family-size-r16-b0-s0[-lr2x][-recipe]; stable, and a file name
    setup: Setup
    base_seed: int
    seed: int
    lr_multiple: float
    config: Config  # of this single run: compressor, seeds, ratio and rate are set
    hash: str  # of everything that determines the result

    @property
    def base(self) -> str:
        """The pretrained model this job starts from."""
        return f"{self.setup.family}-{self.setup.size}-b{self.base_seed}"

    @property
    def recipe(self) -> bool:
        """True for the recipe's own learning rate, False for a job of the rate grid."""
        return self.lr_multiple == 1.0


def expand(cfg: Config) -> list[Job]:
    """Every job of the sweep, smallest compressor first, ordered so that equal shapes follow.

    Raises ConfigError for an empty grid, and for a run to begin with.
    """
    if cfg.train.start:
        raise ConfigError(
            f"train.start = {cfg.train.start!r}: a sweep trains compressors of many sizes, which "
            "cannot all begin with one run; leave it out, or use `jaxcomp train`"
        )
    jobs = [
        _job(cfg, setup, base_seed, seed, multiple)
        for setup in setups(cfg)
        for base_seed in cfg.sweep.base_seeds
        for seed in cfg.sweep.seeds
        for multiple in _multiples(cfg, setup.ratio)
    ]
    if not jobs:
        raise ConfigError("families is empty: a sweep needs at least one family with one size")
    return jobs


def setups(cfg: Config) -> list[Setup]:
    """The grid's cells. A size named in `sweep.sizes` is taken from every family that has it."""
    return [
        Setup(family, size, ratio, recipe)
        for family in sorted(cfg.sweep.families or cfg.families)
        for size in sorted(cfg.families[family], key=lambda s: (body(cfg.families[family][s]), s))
        if not cfg.sweep.sizes or size in cfg.sweep.sizes
        for ratio in sorted({*cfg.sweep.ratios, *itertools.chain(*cfg.sweep.own_ratios.values())})
        for recipe in cfg.sweep.recipes or ("",)
        if ratio in cfg.sweep.own_ratios.get(recipe, cfg.sweep.ratios)
    ]


def ratios(cfg: Config) -> list[int]:
    """Of all setups, those of `sweep.own_ratios` too; sorted."""
    return sorted({setup.ratio for setup in setups(cfg)})


def sizes(cfg: Config, ratio: int | None = None) -> dict[str, set[str]]:
    """`Setup.line` (a family, where there are no recipes) -> its sizes in the grid, or at `ratio`:
    where a recipe has ratios of its own, a line may be absent there."""
    out: dict[str, set[str]] = {}
    for setup in setups(cfg):
        if ratio in (None, setup.ratio):
            out.setdefault(setup.line, set()).add(setup.size)
    return out


def shapes(cfg: Config) -> dict[str, dict[str, ModelConfig]]:
    """The shape of each of `sizes`: two grids may give one name to two."""
    out: dict[str, dict[str, ModelConfig]] = {}
    for s in setups(cfg):
        out.setdefault(s.line, {})[s.size] = cfg.families[s.family][s.size]
    return out


def body(m: ModelConfig) -> int:
    """Parameters of the layers, without embeddings and norms."""
    heads = (2 * m.num_attention_heads + 2 * m.num_key_value_heads) * m.head_dim
    return m.num_hidden_layers * m.hidden_size * (heads + 3 * m.intermediate_size)


def _multiples(cfg: Config, ratio: int) -> list[float]:
    grid = cfg.sweep.lr_grid if ratio in cfg.sweep.lr_ratios else ()
    return [1.0] + [m for m in grid if m != 1.0]


def config_of(cfg: Config, setup: Setup) -> Config:
    """The config of one run of the setup: its compressor, recipe and ratio."""
    if setup.recipe:
        cfg = recipes.with_memory(cfg, setup.recipe)
    memory = dataclasses.replace(cfg.memory, ratio=setup.ratio)
    return dataclasses.replace(cfg, compressor=f"{setup.family}/{setup.size}", memory=memory)


def _job(cfg: Config, setup: Setup, base_seed: int, seed: int, multiple: float) -> Job:
    cfg = config_of(cfg, setup)
    optim = dataclasses.replace(cfg.train.optim, lr=cfg.train.optim.lr * multiple)
    train = dataclasses.replace(cfg.train, optim=optim)
    cfg = dataclasses.replace(cfg, base_seed=base_seed, seed=seed, train=train)
    name = f"{setup.family}-{setup.size}-r{setup.ratio}-b{base_seed}-s{seed}"
    name += "" if multiple == 1.0 else f"-lr{multiple:g}x"
    name += f"-{setup.recipe}" if setup.recipe else ""
    return Job(name, setup, base_seed, seed, multiple, cfg, config_hash(of_job(cfg)))
