"""Folders of a bucket copied to this machine once, for what reads files: weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import filelock

from jaxcomp.runtime import paths
from jaxcomp.runtime.errors import StorageError

_SPARE = 1 << 28  # bytes of the disk that stay free


def local_copy(folder: str, patterns: Sequence[str]) -> Path:
    """The copy of gs://bucket/`folder`'s files of `patterns`, made if need be.

    Its name holds a hash of names, sizes and checksums, so that changed weights are another copy.
    One process of a machine copies, the others wait. What a killed one had copied whole is kept.
    A progress bar goes to stderr.

    Raises:
        StorageError: no such folder, no permission, a file that arrived cut short, no room.
    """
    found = _listed(folder, patterns)
    known = json.dumps([(Path(e["name"]).name, e["size"], e.get("crc32c", "")) for e in found])
    digest = hashlib.sha256(known.encode()).hexdigest()[:12]
    name = folder.removeprefix("gs://").strip("/").replace("/", "--")
    target = paths.cache_dir() / "weights" / f"{name}-{digest}"
    if not _missing(found, target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target / ".lock"):
        missing = _missing(found, target)
        size, free = sum(e["size"] for e in missing), shutil.disk_usage(target).free
        if size > free - _SPARE:
            raise StorageError(
                f"{folder}: {size / 1e9:.1f} GB do not fit on the disk of {target} "
                f"({free / 1e9:.1f} GB free); free some space, or set JAXCOMP_CACHE to a larger "
                "disk"
            )
        for entry in missing:
            _copy(entry, target / Path(entry["name"]).name)
    return target


def _listed(folder: str, patterns: Sequence[str]) -> list[dict[str, Any]]:
    """The objects directly in `folder`, as the bucket describes them, sorted by name."""
    from jaxcomp.runtime import gs

    paths.check_readable(folder)
    try:
        every = gs.files().ls(folder, detail=True)
    except FileNotFoundError:
        every = []
    found = [e for e in every if any(fnmatch(Path(e["name"]).name, p) for p in patterns)]
    found = [e for e in found if e["type"] == "file"]
    if not found:
        raise StorageError(
            f"{folder}: holds none of {', '.join(patterns)}; expected a Hugging Face folder with "
            "its files directly in it"
        )
    return found


def _missing(found: Sequence[dict[str, Any]], target: Path) -> list[dict[str, Any]]:
    """Those of which `target` has no file of the same size."""
    files = {f.name: f.stat().st_size for f in target.iterdir()} if target.is_dir() else {}
    return [e for e in found if files.get(Path(e["name"]).name) != e["size"]]


def _copy(entry: dict[str, Any], target: Path) -> None:
    """One file; it gets its name when it is whole and its checksum is right."""
    from fsspec.callbacks import TqdmCallback

    from jaxcomp.runtime import gs

    place = f"gs://{entry['name']}"
    shown = TqdmCallback({"desc": place, "unit": "B", "unit_scale": True})

    def write(part: Path) -> None:
        try:
            gs.files().get_file(place, str(part), callback=shown)
        except (OSError, StorageError):
            raise
        except Exception as error:
            raise gs.explained(place, error) from error
        finally:
            shown.close()
        if part.stat().st_size != entry["size"]:
            raise StorageError(f"{place}: arrived cut short; run the same command again")

    paths.atomically(target, write)
