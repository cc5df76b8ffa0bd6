"""run.json: the manifest of a run, written once at its start."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import distributed, paths, strict_json
from jaxcomp.runtime.fields import read
from jaxcomp.runtime.files import digest
from jaxcomp.runtime.plugins import load_plugins
from jaxcomp.training.identity import differences

RUN, SUMMARY, CARD = "run.json", "summary.json", "card.json"
_VERSIONS = ("jaxcomp", "jax", "flax", "orbax-checkpoint", "transformers")
Json = dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint or result cannot be written or read; the message says where and the fix."""


@dataclass(frozen=True)
class Weights:
    """What one folder of weights is."""

    # a folder, a hub id, `jaxcomp:bases/NAME` of a shipped one, or `run:../bases/NAME`
    source: str
    identity: dict[str, Any]  # the `config_hash` of its card, or the digests of its `files`
    revision: str | None = None  # the commit of a hub id


@dataclass(frozen=True)
class Parent:
    """The run that this one began with (`train.start`)."""

    place: str
    config_hash: str


@dataclass(frozen=True)
class Manifest:
    """What a run is."""

    kind: str  # compressor, lm (a language model) or decoder (its adaptation)
    identity: dict[str, Any]  # what determines its numbers
    config_hash: str  # of `identity`; checkpoints and results carry it
    config: Config  # as resolved when it started, with absolute folders
    weights: dict[str, Weights] = field(default_factory=dict)  # by "compressor" and "decoder"
    tokenizers: dict[str, str] = field(default_factory=dict)  # their hashes, by the same names
    parent: Parent | None = None
    command: str = ""  # as typed
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that made it


def new(kind: str, identity: Json, cfg: Config, command: str = "", **known: Any) -> Manifest:
    """The manifest of a run that starts now."""
    folders = {k: v if is_id(v) else paths.absolute(v) for k, v in cfg.folders.items()}
    start = cfg.train.start and paths.absolute(cfg.train.start)
    train = dataclasses.replace(cfg.train, start=start)
    return Manifest(
        kind=kind,
        identity=identity,
        config_hash=config_hash(identity),
        config=dataclasses.replace(cfg, folders=folders, train=train),
        command=command,
        versions={name: metadata.version(name) for name in _VERSIONS},
        **known,
    )


def open_manifest(workdir: Path | str) -> Manifest:
    """The manifest of a run. Raises CheckpointError where there is none or it is damaged,
    ConfigError for a field that this version does not know, StorageError of a bucket."""
    file = paths.path(workdir) / RUN
    if not file.is_file():
        paths.check(workdir)
        sweep = (paths.path(workdir) / "jobs").is_dir()
        hint = f"; it is a sweep: name one of its jobs, {workdir}/jobs/JOB" if sweep else ""
        raise CheckpointError(f"{workdir} holds no {RUN}; expected the workdir of a run{hint}")
    made = read(Manifest, read_json(file), str(file))
    try:
        load_plugins(made.config)
    except ConfigError as error:
        raise ConfigError(f"{error} (a plugin of {file}, which needs it there)") from error
    return made


def find_manifest(workdir: Path) -> Manifest | None:
    return open_manifest(workdir) if (paths.path(workdir) / RUN).is_file() else None


def check_same(workdir: Path, found: Manifest, identity: Json) -> None:
    """Raises ConfigError that names the fields in which a run differs from `identity`."""
    differ = [
        f"{name} was {old!r}, now {new!r}"
        for name, old, new in differences(found.identity, json.loads(json.dumps(identity)))
    ]
    if differ:
        shown = "; ".join(differ[:8]) + ("; ..." if len(differ) > 8 else "")
        raise ConfigError(
            f"{workdir} was made by another config: {shown}. "
            "Use another --workdir, or remove this one to start again"
        )


def begin(workdir: Path, made: Manifest) -> None:
    """Make `workdir` that of the run `made`, or check that it already is.

    Process 0 writes; the others wait until they see it. Raises ConfigError where it belongs to
    another run, and where a process does not see what process 0 wrote.
    """
    file = paths.path(workdir) / RUN
    distributed.by_lead(lambda: None if file.is_file() else write_json(file, to_dict(made)))
    end = time.monotonic() + 20
    while not file.exists():  # some shared disks show a new file late
        if time.monotonic() > end:
            raise ConfigError(
                f"{file} is not there, though process 0 has written it: --workdir must be a folder "
                "that all hosts share, such as a network disk or gs://"
            )
        time.sleep(0.2)
    check_same(workdir, open_manifest(workdir), made.identity)


def weights_identity(folder: Path) -> Json:
    """What names the weights of a folder: its card's hash, else its files."""
    card = folder / CARD
    if card.is_file():
        return {"config_hash": read_json(card, "config_hash")["config_hash"]}
    return {"files": [digest(p) for p in sorted(folder.glob("*.safetensors"))]}


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that `path` is either absent, as it was, or whole. Raises CheckpointError."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    try:
        paths.write_bytes(path, text.encode())
    except OSError as error:
        raise unwritable(path, str(error)) from error


def unwritable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be written ({why}); free some space, see that nothing else removes files "
        "there, or choose a --workdir that can be written, and run again: it goes on from the last "
        "whole checkpoint"
    )


def read_json(path: Path, *needs: str) -> Json:
    """The JSON object that jaxcomp wrote to `path`, which has the fields `needs`. Raises
    CheckpointError where it is not whole."""
    found = strict_json.read(path, dict, CheckpointError, "remove it and run again")
    if lacking := [name for name in needs if name not in found]:
        raise CheckpointError(f"{path}: lacks {', '.join(lacking)}; remove it and run again")
    return found
