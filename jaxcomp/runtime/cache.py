"""The folder for what can be remade: tokenised blocks, trained tokenizers, split decisions."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from jaxcomp.config import ConfigError
from jaxcomp.runtime import strict_json
from jaxcomp.runtime.paths import cache_dir, write_bytes

__all__ = ["cache_dir", "damaged", "keep_small", "read_json", "write_atomically"]

MOST_GIB = 20.0  # of tokenised blocks; $JAXCOMP_CACHE_GIB says otherwise


def keep_small(folder: Path, used: str) -> None:
    """Removes the sub-folders of `folder` used longest ago until it holds at most MOST_GIB.

    The one named `used` stays, whatever it holds, and counts as used now. What is removed under a
    running process is remade by it.
    """
    own = folder / used
    with contextlib.suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
        os.utime(own)
    asked = os.environ.get("JAXCOMP_CACHE_GIB") or str(MOST_GIB)
    try:
        most = float(asked) * 2**30
    except ValueError:
        raise ConfigError(f"JAXCOMP_CACHE_GIB={asked}: expected a number of GiB") from None
    found = []
    with contextlib.suppress(OSError):  # another process removes folders too
        for entry in [e for e in os.scandir(folder) if e.is_dir()]:
            size = sum(f.stat().st_size for f in os.scandir(entry.path))
            found.append((entry.stat().st_mtime, size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if path != str(own):
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def read_json(file: Path, shape: type) -> Any:
    """The value of a cached file; None where there is none, or where it is damaged: then a warning
    says so, and the caller makes it anew."""
    try:
        return strict_json.read(file, shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        damaged(file, error)
        return None


def damaged(file: Path, error: object) -> None:
    """Warn that a file of the cache cannot be used and is made anew."""
    said = " ".join(str(error).split())[:200]
    logging.getLogger(__name__).warning(
        "%s: this file of the cache is damaged (%s); it is made anew", file, said
    )


_warned: set[Path] = set()


def write_atomically(file: Path, content: bytes) -> bool:
    """Write the file whole or not at all; False (and one warning) where the disk refuses.

    A cache that cannot be written costs time, never a run.
    """
    try:
        write_bytes(file, content)
    except OSError as error:
        if file.parent not in _warned:
            _warned.add(file.parent)
            logging.getLogger(__name__).warning(
                "%s: cannot write the cache (%s); going on without it. Set JAXCOMP_CACHE to a "
                "folder with room to make the next start faster",
                file.parent,
                error,
            )
        return False
    return True
