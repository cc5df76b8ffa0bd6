"""The folder for what can be remade: tokenised blocks, trained tokenizers, split decisions."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """$JAXCOMP_CACHE, else $XDG_CACHE_HOME/jaxcomp, else ~/.cache/jaxcomp. Safe to delete."""
    if own := os.environ.get("JAXCOMP_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxcomp"


_warned: set[str] = set()


def write_atomically(file: Path, content: bytes) -> bool:
    """Writes the file whole or not at all; False (and one warning) where the disk refuses.

    A cache that cannot be written costs time, never a run.
    """
    made = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=file.parent, prefix=".making-")
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        os.replace(made, file)
        return True
    except OSError as error:
        if made:
            Path(made).unlink(missing_ok=True)
        if str(file.parent) not in _warned:
            _warned.add(str(file.parent))
            logging.getLogger(__name__).warning(
                "%s: cannot write the cache (%s); going on without it. Set JAXCOMP_CACHE to a "
                "folder with room to make the next start faster",
                file.parent,
                error,
            )
        return False
