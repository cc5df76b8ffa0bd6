"""The metrics that come with jaxcomp: every file here declares its own (see `evals.metric`)."""

import importlib
import pkgutil

from jaxcomp.evals.metric import (
    FIDELITY,
    HIGHER,
    LOSS,
    OVERWRITING,
    PREDICTOR,
    PRIMARY,
    Headline,
    endpoints,
    every,
    headline,
    headlines,
    of_role,
    of_roles,
    without_memory,
)

__all__ = [
    "FIDELITY",
    "HIGHER",
    "LOSS",
    "OVERWRITING",
    "PREDICTOR",
    "PRIMARY",
    "Headline",
    "endpoints",
    "every",
    "headline",
    "headlines",
    "of_role",
    "of_roles",
    "without_memory",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
