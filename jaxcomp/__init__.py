"""jaxcomp: train, evaluate and inspect soft context compressors in JAX.

The public API is `__all__`; the API reference is built from it. Names are imported at first use, so
that `jaxcomp --help` does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcomp.cli.overrides import load_config
    from jaxcomp.compress.kinds import memory_kind
    from jaxcomp.config import Config, ConfigError
    from jaxcomp.data.objectives import objective
    from jaxcomp.data.sources import source
    from jaxcomp.evals.evaluation import evaluation
    from jaxcomp.evals.metric import metric
    from jaxcomp.inference import Memory, Pair, Score, export, load
    from jaxcomp.inference.sage import load_scorer
    from jaxcomp.inference.selecting import select
    from jaxcomp.models.families import Family

_HOME = {
    # a trained pair at work
    "load": "inference",
    "Pair": "inference",
    "Memory": "inference",
    "Score": "inference",
    "export": "inference",
    # text reduced without training
    "select": "inference.selecting",
    "load_scorer": "inference.sage",
    # configuration
    "load_config": "cli.overrides",
    "Config": "config",
    "ConfigError": "config",
    # additions of your own
    "memory_kind": "compress.kinds",
    "objective": "data.objectives",
    "source": "data.sources",
    "metric": "evals.metric",
    "evaluation": "evals.evaluation",
    "Family": "models.families",
}
__all__ = [
    "Config",
    "ConfigError",
    "Family",
    "Memory",
    "Pair",
    "Score",
    "evaluation",
    "export",
    "load",
    "load_config",
    "load_scorer",
    "memory_kind",
    "metric",
    "objective",
    "select",
    "source",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxcomp.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxcomp' has no attribute {name!r}")
