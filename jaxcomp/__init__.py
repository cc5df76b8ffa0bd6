"""jaxcomp: train, evaluate and dissect soft context compressors in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcomp.inference import Memory, Pair, load

__all__ = ["Memory", "Pair", "load"]


def __getattr__(name: str) -> Any:
    # At first use: `jaxcomp --help` must not wait for JAX.
    if name in __all__:
        return getattr(importlib.import_module("jaxcomp.inference"), name)
    raise AttributeError(f"module 'jaxcomp' has no attribute {name!r}")
