"""The ratios of a run: one for each training step, and those available afterwards."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, TrainConfig


def ratio_at(train: TrainConfig, ratio: int, seed: int, step: int) -> int:
    """The ratio of a step: first the curriculum's, in equal shares; then one of `train.ratios`
    drawn by (seed, step) alone, or `ratio` where there are none."""
    first = _first(train)
    if step < first:
        return train.curriculum[step * len(train.curriculum) // first]
    if not train.ratios:
        return ratio
    return int(np.random.default_rng((seed, step)).choice(train.ratios))


def trained_at(cfg: Config) -> list[int]:
    """Every ratio that a step of the run may have, in order."""
    train, first = cfg.train, _first(cfg.train)
    found = {train.curriculum[step * len(train.curriculum) // first] for step in range(first)}
    if first < train.optim.steps or not train.optim.steps:  # 0: a compressor as it starts
        found |= {*(train.ratios or (cfg.memory.ratio,))}
    return sorted(found)


def _first(train: TrainConfig) -> int:
    """The steps of the curriculum."""
    return int(train.optim.steps * train.curriculum_share) if train.curriculum else 0


def at_ratio(cfg: Config, ratio: int) -> Config:
    """`cfg` with its memory at `ratio`, one of `trained_at` (0: its own), to measure a run of `cfg`
    at it; the run itself is opened with `cfg`. Raises ConfigError for any other."""
    if not ratio or ratio == cfg.memory.ratio:
        return cfg
    if ratio not in trained_at(cfg):
        known = ", ".join(map(str, trained_at(cfg)))
        raise ConfigError(f"ratio {ratio}: this compressor was trained at {known}")
    return dataclasses.replace(cfg, memory=dataclasses.replace(cfg.memory, ratio=ratio))


def suffix_at(cfg: Config, ratio: int) -> str:
    """What the names of files end with that hold what a run of `cfg` is at `ratio`."""
    return "" if ratio in (0, cfg.memory.ratio) else f"-r{ratio}"


def check(cfg: Config) -> None:
    """Raises ConfigError where a memory vector would stand for a part of a token, or validation be
    at a ratio without a single step."""
    recipes.check(cfg.memory)
    own, T = cfg.memory.ratio, cfg.data.segment
    for ratio in (own, *cfg.train.ratios, *cfg.train.curriculum):
        if ratio < 1 or T % ratio:
            raise ConfigError(f"ratio {ratio} does not divide data.segment = {T}; choose a divisor")
    known = trained_at(cfg)
    if own not in known:
        raise ConfigError(
            f"memory.ratio = {own} is none of those that train.ratios and train.curriculum name "
            f"({', '.join(map(str, known))}): the run is validated and evaluated at it; choose one "
            f"of them, such as --memory.ratio={known[0]}"
        )
