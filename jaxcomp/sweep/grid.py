"""From a config to the list of jobs: setup (family x size x ratio) x seeds x learning rates."""

from __future__ import annotations

import dataclasses
import itertools
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, ModelConfig, config_hash, to_dict
from jaxcomp.data.sources import contents, source_of
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import paths
from jaxcomp.runtime.files import digest, is_file

# Fields that change what is printed or stored, where it runs or how often it is saved, never what
# comes out.
SIDE_FIELDS = (
    "name",
    "mesh",
    "plugins",
    "sweep.workers",
    *(
        f"{group}.{key}"
        for group in ("train", "pretrain", "decoder.pretrain", "decoder.adapt")
        for key in ("log_every", "checkpoint_every", "keep_checkpoints")
    ),
)


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
    return {
        setup.line: {
            s.size: cfg.families[s.family][s.size] for s in setups(cfg) if s.line == setup.line
        }
        for setup in setups(cfg)
    }


def body(m: ModelConfig) -> int:
    """Parameters of the layers, without embeddings and norms."""
    heads = (2 * m.num_attention_heads + 2 * m.num_key_value_heads) * m.head_dim
    return m.num_hidden_layers * m.hidden_size * (heads + 3 * m.intermediate_size)


def _multiples(cfg: Config, ratio: int) -> list[float]:
    grid = cfg.sweep.lr_grid if ratio in cfg.sweep.lr_ratios else ()
    return [1.0] + [m for m in grid if m != 1.0]


def _job(cfg: Config, setup: Setup, base_seed: int, seed: int, multiple: float) -> Job:
    optim = dataclasses.replace(cfg.train.optim, lr=cfg.train.optim.lr * multiple)
    cfg = with_recipe(cfg, setup)
    one = dataclasses.replace(
        cfg,
        compressor=f"{setup.family}/{setup.size}",
        base_seed=base_seed,
        seed=seed,
        memory=dataclasses.replace(cfg.memory, ratio=setup.ratio),
        train=dataclasses.replace(cfg.train, optim=optim),
    )
    tail = "" if multiple == 1.0 else f"-lr{multiple:g}x"
    tail += f"-{setup.recipe}" if setup.recipe else ""
    name = f"{setup.family}-{setup.size}-r{setup.ratio}-b{base_seed}-s{seed}{tail}"
    return Job(name, setup, base_seed, seed, multiple, one, identity_hash(one))


def with_recipe(cfg: Config, setup: Setup) -> Config:
    """`cfg` with the memory of the setup's recipe, if it has one."""
    return recipes.with_memory(cfg, setup.recipe) if setup.recipe else cfg


def model(cfg: Config) -> ModelConfig:
    """The compressor's shape in the config of a single run."""
    family, _, size = cfg.compressor.partition("/")
    return cfg.families[family][size]


def identity(cfg: Config) -> dict[str, Any]:
    """What determines the result of a single run, as a dict.

    Left out: names, workdir, logging, how often checkpoints are saved, the mesh, and the rest of
    the grid. Data files count by name, size and content (`files.digest`), so a folder that moved
    keeps its results and an edited file does not.
    """
    tree = _without(to_dict(cfg), (*SIDE_FIELDS, "sweep", "families", "compressor"))
    # A decoder without ratios of its own is adapted at those of the sweep.
    ratios = cfg.decoder.adapt.ratios or cfg.sweep.ratios
    own = {"model": to_dict(model(cfg)), "adapt_ratios": list(ratios)}
    return _by_content(tree, cfg) | own


def sweep_identity(cfg: Config) -> dict[str, Any]:
    """What a workdir belongs to: everything but side fields and what the grid sets per job."""
    set_by_grid = ("compressor", "base_seed", "seed", "memory.ratio")
    return _by_content(_without(to_dict(cfg), (*SIDE_FIELDS, *set_by_grid)), cfg)


def _without(tree: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for path in names:
        *groups, key = path.split(".")
        node = tree
        for group in groups:
            node = node[group]
        node.pop(key, None)
    return tree


def _by_content(tree: dict[str, Any], cfg: Config) -> dict[str, Any]:
    if not source_of(cfg).facts:
        tree["data"]["path"] = contents(cfg.data)
    tree["folders"] = {k: weights_fingerprint(v) for k, v in cfg.folders.items()}
    if cfg.data.tokenizer:
        tree["data"]["tokenizer"] = fingerprint(os.path.join(cfg.data.tokenizer, "tokenizer.json"))
    return tree


def identity_hash(cfg: Config) -> str:
    return config_hash(identity(cfg))


def fingerprint(path: str) -> str:
    """`files.digest` of a file; the name alone of what is none."""
    path = os.path.expanduser(path)
    return digest(path) if is_file(path) else os.path.basename(path.rstrip("/"))


def weights_fingerprint(folder: str) -> list[str]:
    """What names a given model: its hub id, or the config and weights of its folder."""
    if is_id(folder):
        return [folder]
    where = paths.path(folder)
    return [
        fingerprint(str(p)) for p in (where / "config.json", *sorted(where.glob("*.safetensors")))
    ]


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted fields in which two dicts differ, with both values ("-" where absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(set(old) | set(new)):
            where = f"{path}.{key}".lstrip(".")
            out += differences(old.get(key, "-"), new.get(key, "-"), where)
        return out
    return [] if old == new else [(path, old, new)]
