"""From what a user types to a checked `Config`: config files, overrides, validation.

A config file defines `get_config(arg)` or `get_config()`, which returns an ml_collections
`ConfigDict` (or a dict) with the fields that differ from the defaults of `jaxcomp.config`.
Everything a user can get wrong is answered here with one sentence that names the field, what was
found and what would work.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import math
import traceback
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcomp import storage
from jaxcomp.config import MOST, Config, ConfigError, check_numbers
from jaxcomp.validate import validate


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
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = f" line {lines[-1]}" if lines else ""
        raise ConfigError(f"--config={path}:{line} {type(error).__name__}: {error}") from error
    tree = tree.to_dict() if hasattr(tree, "to_dict") else tree
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: get_config returned {type(tree).__name__}, expected ConfigDict")
    cfg = from_dict(tree, where=str(path))
    if cfg.name == Config.name and "name" not in tree:
        cfg = dataclasses.replace(cfg, name=path.stem)
    for key, text in overrides:
        cfg = override(cfg, key, text)
    validate(cfg)
    return cfg


def shipped() -> dict[str, Path]:
    """The configs that come with the package, by name: inside a wheel, beside it in a clone."""
    package = Path(__file__).parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def split_spec(spec: str) -> tuple[Path, str]:
    """`configs/text.py:path=x:y` -> (configs/text.py, "path=x:y"); `text:path=x:y` the same."""
    name, _, arg = spec.partition(":")
    if name in shipped() and not Path(name).is_file():
        return shipped()[name], arg
    head, mark, arg = spec.partition(".py:")
    return storage.path(head + ".py" if mark else spec), arg


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
    module_spec = importlib.util.spec_from_file_location(f"jaxcomp_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(
            f"--config={path}: not a Python file; expected FILE.py or one of {', '.join(shipped())}"
        )
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
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


def parse_arg(arg: str, **defaults: Any) -> types.SimpleNamespace:
    """Read `"full,steps=20"` by the types of `defaults`; a bare name sets a boolean to True.

    Raises ConfigError for names that are not in `defaults`.
    """
    values = dict(defaults)
    for part in filter(None, (p.strip() for p in arg.split(","))):
        name, mark, text = part.partition("=")
        if name not in defaults:
            raise ConfigError(
                f"config argument {part!r} is unknown{_suggest(name, defaults)}; "
                f"known: {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        if not mark and kind is not bool:
            raise ConfigError(f"config argument {name} needs a value: {name}=...")
        values[name] = _parse(text, kind, name) if mark else True
    return types.SimpleNamespace(**values)


# --- dict -> dataclasses ---------------------------------------------------------------------


def from_dict(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Build a Config; missing fields keep their defaults.

    Raises ConfigError for unknown fields, and for numbers outside their range.
    """
    cfg = _build(Config, tree, where, "")
    check_numbers(cfg, f"{where}: ")
    return cfg


def _build(kind: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {path} = {value!r}; expected fields of {kind.__name__}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise _unknown(kind, f"{path}.{name}".lstrip("."), where)
        parts = {k: _build(hints[k], v, where, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
        return kind(**parts)
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {path} = {value!r}; expected a dict")
        return {str(k): _build(inner, v, where, f"{path}.{k}") for k, v in value.items()}
    if _optional(kind):
        return None if value is None else _build(_optional(kind), value, where, path)
    return _coerce(kind, value, f"{where}: {path}")


def _optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [k for k in typing.get_args(kind) if k is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return None


def _coerce(kind: Any, value: Any, what: str) -> Any:
    """`value` as `kind`; only what loses nothing passes (int for float, list for tuple)."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{what} = {value!r}; expected a list of {inner.__name__}")
        return tuple(_coerce(inner, v, what) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf  # refused by its range
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise ConfigError(f"{what} = {value!r}; expected {_name(kind)}")
    # Control characters, and halves of surrogate pairs: bytes of a command line that is not UTF-8.
    if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        raise ConfigError(f"{what} = {value!r}; expected text without control characters, in UTF-8")
    return value


# --- overrides -------------------------------------------------------------------------------


def override(cfg: Config, key: str, text: str) -> Config:
    """`cfg` with the dotted field `key` set from `text`, read by the field's annotation."""
    return _replace(cfg, Config, key.split("."), text, key)


def _replace(node: Any, kind: Any, names: list[str], text: str, key: str) -> Any:
    if not names:
        return _parse(text, kind, f"--{key}")
    kind = _optional(kind) or kind
    name, rest = names[0], names[1:]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        if name not in hints:
            raise _unknown(kind, key, "command line", prefix=key[: -len(".".join(names))])
        node = kind() if node is None else node
        new = _replace(getattr(node, name), hints[name], rest, text, key)
        return dataclasses.replace(node, **{name: new})
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        if inner is str:  # free keys, such as `folders`
            return {**node, ".".join(names): _parse(text, str, f"--{key}")}
        # Names of families and sizes may hold dots themselves (0.6B): the longest known one wins.
        heads = [".".join(names[:i]) for i in range(len(names), 0, -1)]
        name = next((h for h in heads if h in node), name)
        if name not in node:
            known = ", ".join(node) or "none"
            raise ConfigError(f"--{key}: no entry {name!r}{_suggest(name, node)}; known: {known}")
        return {**node, name: _replace(node[name], inner, names[name.count(".") + 1 :], text, key)}
    raise ConfigError(f"--{key}: {'.'.join(key.split('.')[: -len(names)])} has no fields")


def _parse(text: str, kind: Any, what: str) -> Any:
    """A command line's text as a value of type `kind`."""
    if _optional(kind):
        if text.lower() in ("none", "null"):
            return None
        kind = _optional(kind)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        text = text.strip()
        if text[:1] + text[-1:] in ("()", "[]"):
            text = text[1:-1]
        items = [t.strip().strip("'\"") for t in text.split(",")]
        return tuple(_parse(t, inner, what) for t in items if t)
    if kind is str:
        return _coerce(kind, text, what)
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise ConfigError(f"{what}={text}: expected true or false")
        return known[text.lower()]
    if kind in (int, float):
        try:
            return _coerce(kind, _number(text), what)
        except (ValueError, ConfigError):
            raise ConfigError(f"{what}={text[:80]}: expected {_name(kind)}") from None
    raise ConfigError(f"{what}={text}: is a group of fields; name one of them, as in {what}.FIELD=")


def integer(text: str) -> int:
    """The value of a command's own flag. Raises ValueError, also beyond the range of any array."""
    value = int(text)
    if abs(value) > MOST:
        raise ValueError(f"{text}: beyond {MOST}")
    return value


def _number(text: str) -> int | float:
    try:
        return int(text, 0)
    except ValueError:
        return float(text)


# --- unknown names ---------------------------------------------------------------------------


def fields(kind: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted field below `kind`; dict entries are left out."""
    out = []
    for name, hint in typing.get_type_hints(kind).items():
        inner = _optional(hint) or hint
        if dataclasses.is_dataclass(inner):
            out += fields(inner, f"{prefix}{name}.")
        else:
            out.append(prefix + name)
    return out


def _unknown(kind: Any, key: str, where: str, prefix: str | None = None) -> ConfigError:
    """The nearest field: first inside the group, then anywhere by its last name, then by path."""
    prefix = key.rpartition(".")[0] if prefix is None else prefix.rstrip(".")
    dot = f"{prefix}." if prefix else ""
    name, _, rest = key[len(dot) :].partition(".")
    tail = f".{rest}" if rest else ""
    inside = list(typing.get_type_hints(kind))
    near = [dot + n + tail for n in difflib.get_close_matches(name, inside, n=1)]
    leaf = key.rpartition(".")[2]
    near = near or [f for f in fields() if f.rpartition(".")[2] == leaf][:3]
    near = near or difflib.get_close_matches(key, fields(), n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known here: {', '.join(inside)}"
    return ConfigError(f"{where}: no field {key}{hint}")


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _name(kind: Any) -> str:
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )
