"""Recipes of published compressors, as the fields they set (docs/explanation/recipes.md).

A config merges what `recipe` gives; nothing is set behind its back. `memory.recipe` is then a
label that is checked: kind and connector must be those that the name stands for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from jaxcomp.compress.kinds import CONNECTORS, KINDS, connector_of, kind_of
from jaxcomp.config import Config, ConfigError, MemoryConfig, ModelConfig, Positions, TrainConfig
from jaxcomp.runtime.registry import unknown

CUSTOM = "custom"  # memory.recipe of a mix that nobody has published


class Recipe(NamedTuple):
    """What a name stands for."""

    kind: str
    connector: str
    objective: str  # coin: an example is rebuilt or continued; sum: both
    p_reconstruct: float  # coin: probability; sum: weight
    train_decoder: bool = False


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "pcc": Recipe("append", "mlp", "coin", 0.5),
        "icae": Recipe("append", "none", "sum", 0.5),
        "pisco": Recipe("interleave", "relu", "coin", 0.5),
        "500x": Recipe("kv", "none", "coin", 1.0),
        "arc": Recipe("pool", "mlp", "coin", 0.2),
        "lclm": Recipe("pool", "mlp", "coin", 0.2, train_decoder=True),
        "mean_pool": Recipe("pool", "mlp", "coin", 0.5),
    }
)


def recipe(name: str) -> dict[str, dict[str, Any]]:
    """{"memory": fields, "train": fields}, for a config to merge. Raises ConfigError."""
    r = _get(name)
    memory = {"recipe": name, "kind": r.kind, "connector": r.connector}
    train = ("objective", "p_reconstruct", "train_decoder")
    return {"memory": memory, "train": {key: getattr(r, key) for key in train}}


def with_memory(cfg: Config, name: str) -> Config:
    """`cfg` with the recipe's memory and with the towers it trains; the objective stays that of
    `cfg`, so that recipes are compared as memories. Raises ConfigError."""
    fields = recipe(name)
    learns = fields["train"]["train_decoder"]
    return dataclasses.replace(
        cfg,
        memory=dataclasses.replace(cfg.memory, **fields["memory"]),
        train=dataclasses.replace(cfg.train, train_decoder=learns),
    )


def check_towers(memory: MemoryConfig, train: TrainConfig) -> None:
    """Raises ConfigError where the recipe trains the decoder and the config does not."""
    wanted = memory.recipe != CUSTOM and _get(memory.recipe).train_decoder
    if wanted and not train.train_decoder:
        raise ConfigError(
            f"train.train_decoder = False: recipe {memory.recipe!r} trains the decoder too; set "
            f"train.train_decoder=true, or memory.recipe={_named(memory, frozen=True)}"
        )


def check(memory: MemoryConfig) -> None:
    """Raises ConfigError where a name or layout is unknown, kind or connector is not the recipe's,
    the kind does not take the connector, or neither can work with `memory.trained`."""
    kind = KINDS[memory.kind]
    if memory.positions not in get_args(Positions):
        raise unknown("memory.positions", memory.positions, get_args(Positions))
    _check_trained(memory)
    if memory.recipe == CUSTOM:
        if CONNECTORS[memory.connector].name not in (kind.connectors or CONNECTORS):
            raise ConfigError(
                f"memory.connector = {memory.connector!r} with memory.kind = {memory.kind!r}: "
                f"{kind.why}; set memory.connector={' or '.join(kind.connectors)}"
            )
        return
    r = _get(memory.recipe)
    for field in ("kind", "connector"):
        found, wanted = getattr(memory, field), getattr(r, field)
        if found != wanted:
            raise ConfigError(
                f"memory.{field} = {found!r}: recipe {memory.recipe!r} means {wanted!r}; set "
                f"memory.{field}={wanted}, or memory.recipe={_named(memory)}"
            )


def _check_trained(memory: MemoryConfig) -> None:
    if memory.trained == "tower":
        return
    head = f"memory.trained = {memory.trained!r} with memory."
    if memory.lora.rank:
        raise ConfigError(
            f"{head}lora.rank = {memory.lora.rank}: adapters are trained in the whole tower alone; "
            "set memory.lora.rank=0, or memory.trained=tower"
        )
    if memory.trained != "connector":
        return
    if kind_of(memory).memory_tokens:
        raise ConfigError(
            f"{head}kind = {memory.kind!r}: a frozen tower cannot use memory tokens that it has "
            "never seen; use memory.kind=pool (memory.recipe=mean_pool)"
        )
    if not connector_of(memory).weights(1, 1, 1):
        raise ConfigError(
            f"{head}connector = {memory.connector!r}, which has nothing to train; choose another "
            "connector, such as mlp, or memory.trained=tower"
        )


def alike(memory: MemoryConfig) -> tuple[str, ...]:
    """The fields of `ModelConfig` in which compressor and decoder must be the same."""
    return KINDS[memory.kind].alike or CONNECTORS[memory.connector].alike


def check_shapes(
    memory: MemoryConfig, compressor: ModelConfig, decoder: ModelConfig, name: str = "compressor"
) -> None:
    """Raises ConfigError where a tower of the shape `compressor`, called `name`, cannot write this
    memory for a tower of the shape `decoder`."""
    kind, layers = KINDS[memory.kind], compressor.num_hidden_layers
    if layers < kind.least_layers:
        raise ConfigError(
            f"{name} has num_hidden_layers {layers}: memory.kind = {kind.name!r} takes "
            f"{kind.least_layers} or more: {kind.why}; choose another compressor or kind"
        )
    differ = [f for f in alike(memory) if getattr(compressor, f) != getattr(decoder, f)]
    if not differ:
        return
    mine = ", ".join(f"{f} {getattr(compressor, f)}" for f in differ)
    its = ", ".join(f"{f} {getattr(decoder, f)}" for f in differ)
    field = "kind" if kind.alike else "connector"
    raise ConfigError(
        f"{name} has {mine}: memory.{field} = {getattr(memory, field)!r} needs the same as in the "
        f"decoder, which has {its}; choose a compressor that has it, or another memory.{field}"
    )


def _named(memory: MemoryConfig, frozen: bool = False) -> str:
    """The recipes that this memory could be called, or those of them with a frozen decoder."""
    found = (memory.kind, memory.connector)
    names = [n for n, r in RECIPES.items() if r[:2] == found and not (frozen and r.train_decoder)]
    return " or ".join(names or [CUSTOM])


def _get(name: str) -> Recipe:
    if name not in RECIPES:
        raise unknown("memory.recipe", name, (*RECIPES, CUSTOM))
    return RECIPES[name]
