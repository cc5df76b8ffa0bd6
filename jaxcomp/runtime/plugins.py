"""Import a user's plugins: files that register kinds, objectives, families, metrics, sources.

`Config.plugins` names them; every process that reads the config imports them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from jaxcomp.config import Config, ConfigError

_FILES: dict[tuple[str, int, int], ModuleType] = {}


def load_plugins(cfg: Config) -> Config:
    """Import what `cfg.plugins` names; returns `cfg`. Raises ConfigError that names the entry."""
    for name in cfg.plugins:
        if name.endswith(".py"):
            import_file(Path(name).expanduser(), "plugins: ")
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # a module that it imports
                raise
            raise ConfigError(
                f"plugins: {name!r} cannot be imported; expected FILE.py or an installed module"
            ) from error
    return cfg


def absolute(name: str) -> str:
    """An entry of `plugins` that means the same in every working directory."""
    return str(Path(name).expanduser().absolute()) if name.endswith(".py") else name


def import_file(path: Path, what: str) -> ModuleType:
    """The module of a Python file, which is run once unless it changes: so a config file can name
    itself as plugin. `what` begins the message of a ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{what}{path}: no such file")
    stat = path.stat()
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _FILES:
        name = f"jaxcomp_file_{path.stem}_{len(_FILES)}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{what}{path}: not a Python file; expected FILE.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, ConfigError) or not isinstance(error, Exception):
                raise
            raise failed(what, path, error) from error
        _FILES[key] = module
    return _FILES[key]


def failed(what: str, path: str | os.PathLike[str], error: Exception) -> ConfigError:
    """A user's file failed: the last of its lines on the way to the error, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(path).absolute()]
    line = f" line {lines[-1]}" if lines else ""
    return ConfigError(f"{what}{path}:{line} {type(error).__name__}: {error}")
