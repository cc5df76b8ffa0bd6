"""run.json: what a run is, written once, when it starts. Whatever comes later reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, ConfigError, config_hash, to_dict
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import distributed, errors, paths, strict_json
from jaxcomp.runtime.fields import read
from jaxcomp.runtime.files import digest
from jaxcomp.runtime.plugins import load_plugins
from jaxcomp.training import orbax
from jaxcomp.training.identity import differences

RUN, SUMMARY, CARD = "run.json", "summary.json", "card.json"
_VERSIONS = ("jaxcomp", "jax", "flax", "orbax-checkpoint", "transformers")
Json = dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint or result cannot be written or read; the message says where and the fix."""


@dataclass(frozen=True)
class Weights:
    """What one folder of weights is.

    Attributes:
        source: a folder, a hub id, `jaxcomp:bases/NAME` of a shipped one, or `run:../bases/NAME`
            of one that stands beside the run.
        identity: the `config_hash` of its card, or the digests of its `files`.
        revision: the commit of a hub id.
    """

    source: str
    identity: dict[str, Any]
    revision: str | None = None


@dataclass(frozen=True)
class Parent:
    """The run that this one began with (`train.start`)."""

    place: str
    config_hash: str


@dataclass(frozen=True)
class Manifest:
    """What a run is.

    Attributes:
        kind: compressor, lm (a language model) or decoder (its adaptation).
        identity: what determines its numbers.
        config_hash: of `identity`; checkpoints and results carry it.
        config: as resolved when it started, with absolute folders.
        weights: what it starts from, by "compressor" and "decoder".
        tokenizers: their hashes, by the same names.
        command: as typed.
        versions: of the packages that made it.
    """

    kind: str
    identity: dict[str, Any]
    config_hash: str
    config: Config
    weights: dict[str, Weights] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    parent: Parent | None = None
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)


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
        paths.check_readable(workdir)
        raise CheckpointError(f"{workdir} holds no {RUN}; expected the workdir of a run")
    found = read_json(file)
    if "identity" not in found:
        raise CheckpointError(
            f"{file} was written by an older jaxcomp, which kept the run's config elsewhere; train "
            "again in another --workdir (its bases and decoders can stay)"
        )
    made = read(Manifest, found, str(file))
    load_plugins(made.config)
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

    Process 0 writes; the others look whether they see the same folder. Raises ConfigError where it
    belongs to another run, and where a process does not see what process 0 wrote.
    """
    distributed.by_lead(lambda: _begin(paths.path(workdir), made))
    if distributed.is_lead():
        return
    file, end = paths.path(workdir) / RUN, time.monotonic() + 20
    while not file.exists():  # some shared disks show a new file late
        if time.monotonic() > end:
            raise ConfigError(
                f"{file} is not there, though process 0 has written it: --workdir must be a folder "
                "that all hosts share, such as a network disk or gs://"
            )
        time.sleep(0.2)
    check_same(workdir, open_manifest(workdir), made.identity)


def _begin(workdir: Path, made: Manifest) -> None:
    found = find_manifest(workdir)
    if found is not None:
        check_same(workdir, found, made.identity)
        return
    # The file may have been removed, since it was damaged; what it named is still there.
    for place, owner in _owners(workdir).items():
        check_owner(place, owner, made.config_hash)
    write_json(workdir / RUN, to_dict(made))


def _owners(workdir: Path) -> dict[Path, Any]:
    """What a workdir holds of a run -> its config_hash, None where unknown."""
    from orbax.checkpoint import v1 as ocp  # loads JAX

    found: dict[Path, Any] = {}
    if (workdir / SUMMARY).is_file():
        found[workdir / SUMMARY] = read_json(workdir / SUMMARY).get("config_hash")
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if steps:
        newest = paths.path(paths.absolute(folder)) / str(max(steps))
        try:
            about = ocp.checkpointables_metadata(orbax.folder_for(newest)).custom_metadata
        except Exception as error:
            raise CheckpointError(unreadable(newest, error)) from error
        found[newest] = about.get("config_hash") if isinstance(about, dict) else None
    return found


def check_owner(place: Any, found: str | None, own: str) -> None:
    """Raises ConfigError where `place` was made by the run `found`, not by `own`."""
    if found != own:
        raise ConfigError(
            f"{place} was made by another config (config_hash {found or 'unknown'}, this one is "
            f"{own}); use another --workdir, or remove the whole folder to start again"
        )


def weights_identity(folder: Path) -> Json:
    """What names the weights of a folder: its card's hash, else its files."""
    card = folder / CARD
    if card.is_file():
        return {"config_hash": read_json(card, "config_hash")["config_hash"]}
    return {"files": [digest(p) for p in sorted(folder.glob("*.safetensors"))]}


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that `path` is either absent, as it was, or whole. Raises CheckpointError."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    with writing(path):
        paths.write_bytes(path, text.encode())


def read_json(path: Path, *needs: str) -> Json:
    """The JSON object that jaxcomp wrote to `path`, which has the fields `needs`. Raises
    CheckpointError where it is not whole."""
    found = strict_json.read(path, dict, CheckpointError, "remove it and run again")
    lacking = [name for name in needs if name not in found]
    if lacking:
        raise CheckpointError(f"{path}: lacks {', '.join(lacking)}; remove it and run again")
    return found


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, errors.StorageError):
        raise
    except Exception as error:  # Orbax wraps a full disk in several types of its own
        raise CheckpointError(
            f"{path}: cannot be written ({orbax.brief(error)}); free some space, see that nothing "
            "else removes files there, or choose a --workdir that can be written, and run again: "
            "it goes on from the last whole checkpoint"
        ) from error


def unreadable(place: Path, error: Exception) -> str:
    # What Orbax says of a file that is missing or cut names its own classes.
    why = orbax.brief(error) if isinstance(error, OSError) else "a file in it is missing or cut"
    return (
        f"{place}: the checkpoint cannot be read ({why}); remove that folder to go on from the "
        "checkpoint before it, or from the start"
    )
