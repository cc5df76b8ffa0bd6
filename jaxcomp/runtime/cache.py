"""The cache folder: tokenised blocks, trained tokenizers, splits."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from jaxcomp.runtime import strict_json
from jaxcomp.runtime.paths import cache_dir, write_bytes

__all__ = ["cache_dir", "damaged", "read_json", "unwritable", "write_atomically"]


def read_json(file: Path, shape: type) -> Any:
    """The value of a cached file; None where there is none, or where it is damaged (with a
    warning): the caller makes it anew."""
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


def write_atomically(file: Path, content: bytes) -> bool:
    """Write the file whole or not at all; False (and a warning) where the disk refuses."""
    try:
        write_bytes(file, content)
    except OSError as error:
        unwritable(file.parent, error.strerror or str(error))
        return False
    return True


@functools.cache
def unwritable(folder: Path, why: str) -> None:
    """Warn, once, that a folder of the cache cannot be written."""
    logging.getLogger(__name__).warning(
        "%s: cannot write the cache (%s); going on without it. Set JAXCOMP_CACHE to a folder with "
        "room to make the next start faster",
        folder,
        why,
    )
