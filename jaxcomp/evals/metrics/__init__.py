"""The metrics that come with jaxcomp: every file here declares its own (see `evals.metric`)."""

import importlib
import pkgutil
from pathlib import Path

from jaxcomp.evals.metric import *  # noqa: F403 - who imports names from here has all declared

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    importlib.import_module(f"{__name__}.{_module.name}")
