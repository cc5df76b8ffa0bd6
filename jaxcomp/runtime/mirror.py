"""Copy folders of a bucket to this machine once: weights and tokenizers."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import filelock

from jaxcomp.runtime import files, paths
from jaxcomp.runtime.errors import StorageError

_SPARE = 1 << 28  # bytes of the disk that stay free
_SHOWN = 1 << 24  # bytes of a file from which on its copying is shown


def local_copy(folder: str, patterns: Sequence[str]) -> Path:
    """The copy of gs://bucket/`folder`'s files of `patterns`, made if need be.

    Its name holds a hash of names, sizes and checksums, so that changed weights are another copy.
    One process of a machine copies, the others wait. What a killed one had copied whole is kept.

    Raises:
        StorageError: no such folder, no permission, a file that arrived cut short, no room.
    """
    every = files.listed(f"{glob.escape(folder.rstrip('/'))}/*")
    found = {p: a for p, a in every.items() if any(fnmatch(Path(p).name, x) for x in patterns)}
    if not found:
        raise StorageError(
            f"{folder}: holds none of {', '.join(patterns)}; expected a Hugging Face folder with "
            "its files directly in it"
        )
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]
    name = folder.removeprefix("gs://").strip("/").replace("/", "--")
    target = paths.cache_dir() / "weights" / f"{name}-{digest}"
    target.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target / ".lock"):
        there = {f.name: f.stat().st_size for f in target.iterdir()}
        missing = {p: size for p, (size, _) in found.items() if there.get(Path(p).name) != size}
        size, free = sum(missing.values()), shutil.disk_usage(target).free
        if missing and size > free - _SPARE:
            raise StorageError(
                f"{folder}: {size / 1e9:.1f} GB do not fit on the disk of {target} "
                f"({free / 1e9:.1f} GB free); free some space, or set JAXCOMP_CACHE to a larger "
                "disk"
            )
        for place in missing:
            _copy(place, missing[place], target / Path(place).name)
    return target


def _copy(place: str, size: int, target: Path) -> None:
    """One file, with a progress bar of a large one; it gets its name when it is whole."""
    from fsspec.callbacks import TqdmCallback

    from jaxcomp.runtime import gs

    look = {"desc": place, "unit": "B", "unit_scale": True, "disable": size < _SHOWN}

    def write(part: Path) -> None:
        try:
            with TqdmCallback(look) as shown:
                gs.files().get_file(place, str(part), callback=shown)
        except (OSError, StorageError):
            raise
        except Exception as error:
            raise gs.explained(place, error) from error
        if part.stat().st_size != size:
            raise StorageError(f"{place}: arrived cut short; run the same command again")

    paths.atomically(target, write)
