"""The memory kinds (`memory.kind`) and connectors (`memory.connector`) by name.

A row holds what can be refused before anything is computed, and names the class: a subclass of
`compress.memory.Compressor`, whose attributes say the rest, or one built as `connector.Connector`
is. Those of this package are named by text, so that nothing here imports JAX.
docs/how-to/extend.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxcomp.config import MemoryConfig
from jaxcomp.runtime.registry import Registry, implementation


@dataclass(frozen=True)
class KindRow:
    """One memory kind.

    Attributes:
        name: value of `memory.kind`.
        compressor: the class, or "module:Class".
        connectors: those that it can have; (): any.
        alike: fields of `ModelConfig` in which compressor and decoder must be the same; (): those
            of its connector.
        least_layers: of the compressor.
        why: what the three limits come from, in words.
    """

    name: str
    compressor: Any
    connectors: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    least_layers: int = 1
    why: str = "so it was registered"


@dataclass(frozen=True)
class ConnectorRow:
    """One connector: value of `memory.connector`, class (or "module:Class"), and fields of
    `ModelConfig` in which compressor and decoder must be the same."""

    name: str
    connector: Any
    alike: tuple[str, ...] = ()


KINDS: Registry[KindRow] = Registry("memory.kind")
CONNECTORS: Registry[ConnectorRow] = Registry("memory.connector")


def memory_kind(name: str, **limits: Any) -> Callable[[type], type]:
    """Register the decorated subclass of `compress.memory.Compressor` as a memory kind.

    Args:
        name: value of `memory.kind`.
        **limits: `connectors`, `alike`, `least_layers`, `why` of `KindRow`: configs to refuse.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> from jaxcomp.compress.pool import Pool
        >>> MyPool = jaxcomp.memory_kind("my_pool", connectors=("mlp",))(Pool)
    """
    return KINDS.declare(name, lambda compressor: KindRow(name, compressor, **limits))


def kind_of(memory: MemoryConfig) -> Any:
    """The class that `memory.kind` names. Raises ConfigError that lists the known ones."""
    return implementation(KINDS[memory.kind].compressor)


def connector_of(memory: MemoryConfig) -> Any:
    """The class that `memory.connector` names. Raises ConfigError that lists the known ones."""
    return implementation(CONNECTORS[memory.connector].connector)


for _kind in (
    # learned memory tokens after the segment
    KindRow("append", "jaxcomp.compress.memory:Compressor"),
    # one after every `ratio` tokens
    KindRow("interleave", "jaxcomp.compress.interleave:Interleave"),
    # means of blocks of states
    KindRow("pool", "jaxcomp.compress.pool:Pool"),
    # appended tokens' keys and values of every layer
    KindRow(
        "kv",
        "jaxcomp.compress.kv:PerLayer",
        connectors=("none",),
        alike=("num_hidden_layers", "num_key_value_heads", "head_dim"),
        least_layers=2,
        why="its keys and values go into the decoder's cache as they are, and those of the first "
        "layer know nothing of the text",
    ),
):
    KINDS.add(_kind.name, _kind)
for _connector in (
    ConnectorRow("mlp", "jaxcomp.compress.connector:Connector"),
    ConnectorRow("relu", "jaxcomp.compress.connector:ReluConnector"),
    ConnectorRow("none", "jaxcomp.compress.connector:NoConnector", alike=("hidden_size",)),
):
    CONNECTORS.add(_connector.name, _connector)
