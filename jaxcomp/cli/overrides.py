"""Load config files, apply overrides and validate the result.

A config file defines `get_config(arg)` or `get_config()`, which returns an ml_collections
`ConfigDict` (or a dict) with the fields that differ from the defaults of `jaxcomp.config`.
Everything a user can get wrong is answered here with one sentence that names the field, what was
found and what would work.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.cli.validate import validate
from jaxcomp.config import MOST, Config, ConfigError, Text, suggestion
from jaxcomp.runtime import paths, plugins
from jaxcomp.runtime.fields import from_dict, optional, read, unknown_field


def load_config(spec: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load and validate a config file.

    Args:
        spec: a Python file that defines `get_config()`, or the name of a shipped config ("tiny"),
            each with an optional ":argument", such as "configs/tiny.py:full".
        overrides: values by dotted field name; they replace those of the file.

    Returns:
        The config with defaults filled in.

    Raises:
        ConfigError: the file is missing, a field is unknown, or a value is invalid.

    Example:
        >>> jaxcomp.load_config("tiny", {"memory.ratio": 4, "sweep.sizes": ["24"]}).memory.ratio
        4
    """

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return load(str(spec), [(name, text(value)) for name, value in (overrides or {}).items()])


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """The validated config of `path.py[:arg]` or `shipped name[:arg]` with `overrides`.

    `overrides` are (dotted field, text) pairs. Raises ConfigError for a missing file, an unknown
    field, a value of the wrong type or a value that cannot work.
    """
    path, arg = split_spec(spec)
    try:
        tree = _called(_get_config(path), arg, path)
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's file does
        raise plugins.failed("--config=", path, error) from error
    tree = tree.to_dict() if hasattr(tree, "to_dict") else tree
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: get_config returned {type(tree).__name__}, expected ConfigDict")
    cfg = from_dict(tree, where=str(path))
    if cfg.name == Config.name and "name" not in tree:
        cfg = dataclasses.replace(cfg, name=path.stem)
    for key, text in overrides:
        cfg = override(cfg, key, text)
    cfg = dataclasses.replace(cfg, plugins=tuple(map(plugins.absolute, cfg.plugins)))
    validate(plugins.load_plugins(cfg))
    return cfg


def shipped() -> dict[str, Path]:
    """The configs that come with the package, by name: inside a wheel, beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def split_spec(spec: str) -> tuple[Path, str]:
    """`configs/text.py:path=x:y` -> (configs/text.py, "path=x:y"); `text:path=x:y` the same."""
    name, _, arg = spec.partition(":")
    if name in shipped() and not Path(name).is_file():
        return shipped()[name], arg
    head, mark, arg = spec.partition(".py:")
    return paths.path(head + ".py" if mark else spec), arg


def _get_config(path: Path):
    if not path.is_file():
        beside = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), beside, n=1)
        near = near or difflib.get_close_matches(path.stem.partition(":")[0], shipped(), n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (working directory: {Path.cwd().name})"
        raise ConfigError(
            f"--config={path}: no such file, nor a config that ships with jaxcomp "
            f"({', '.join(shipped())}){hint}"
        )
    if path.suffix != ".py":
        raise ConfigError(
            f"--config={path}: not a Python file; expected FILE.py or one of {', '.join(shipped())}"
        )
    module = plugins.import_file(path, "--config=")
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={path}: defines no get_config()")
    return module.get_config


def _called(get_config: Callable[..., Any], arg: str, path: Path) -> Any:
    """What get_config(arg) returns, or get_config() of a file without arguments."""
    try:
        inspect.signature(get_config).bind(arg)
    except TypeError:
        if arg:
            raise ConfigError(
                f"--config={path}:{arg}: its get_config() takes no argument; leave out :{arg}"
            ) from None
        return get_config()
    return get_config(arg)


def override(cfg: Config, key: str, text: str) -> Config:
    """`cfg` with the dotted field `key` set from `text`, read by the field's annotation."""
    return _replace(cfg, Config, key.split("."), text, key)


def _replace(node: Any, kind: Any, names: list[str], text: str, key: str) -> Any:
    if not names:
        return _parsed(text, kind, key)
    kind = optional(kind) or kind
    name, rest = names[0], names[1:]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind, include_extras=True)
        if name not in hints:
            raise unknown_field(kind, key, "command line", prefix=key[: -len(".".join(names))])
        node = kind() if node is None else node
        new = _replace(getattr(node, name), hints[name], rest, text, key)
        return dataclasses.replace(node, **{name: new})
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        if inner is Text:  # free keys, such as `folders`
            return {**node, ".".join(names): _parsed(text, inner, key)}
        # Names of families and sizes may hold dots themselves (0.6B): the longest known one wins.
        heads = [".".join(names[:i]) for i in range(len(names), 0, -1)]
        name = next((h for h in heads if h in node), name)
        if name not in node:
            known = ", ".join(node) or "none"
            raise ConfigError(f"--{key}: no entry {name!r}{suggestion(name, node)}; known: {known}")
        return {**node, name: _replace(node[name], inner, names[name.count(".") + 1 :], text, key)}
    raise ConfigError(f"--{key}: {'.'.join(key.split('.')[: -len(names)])} has no fields")


def _parsed(text: str, kind: Any, key: str) -> Any:
    """A command line's text as a value of the type `kind`."""
    if optional(kind) and text.lower() in ("none", "null"):
        return None
    kind = optional(kind) or kind
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        raise ConfigError(
            f"--{key}={text}: is a group of fields; name one of them, as in --{key}.FIELD="
        )
    value: Any = text
    if typing.get_origin(kind) is tuple:
        items = (item.strip(" '\"") for item in text.strip(" ()[]").split(","))
        value = [item for item in items if item]
    return read(kind, value, "command line", key)


def number(low: float, high: float = MOST, kind: type = int) -> Callable[[str], Any]:
    """What argparse reads a command's own flag with: a number within the bounds."""
    bounds = f"of at least {low:g}" if high == MOST else f"from {low:g} to {high:g}"

    def value(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        whole = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r}: expected {whole} {bounds}")

    return value


def pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
    """`["--a.b=1", "--c", "2"]` -> `[("a.b", "1"), ("c", "2")]`."""
    out: list[tuple[str, str]] = []
    parts = iter(rest)
    for part in parts:
        key, mark, text = part.removeprefix("--").partition("=")
        if not part.startswith("--") or not key:
            raise ConfigError(f"{part!r} is not a flag; expected --field=value")
        if not mark:
            text = next(parts, "--")
            if text.startswith("--"):
                raise ConfigError(f"--{key} has no value; expected --{key}=value")
        out.append((key, text))
    return out
