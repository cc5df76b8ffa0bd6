"""The folder for what can be remade: tokenised blocks, trained tokenizers, split decisions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jaxcomp.runtime import strict_json
from jaxcomp.runtime.paths import cache_dir, write_bytes

__all__ = ["cache_dir", "damaged", "read_json", "write_atomically"]


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
