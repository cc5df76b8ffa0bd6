"""Compiled steps are kept on this machine, so that a command typed again need not compile."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from jaxcomp.runtime import distributed, paths

MOST_BYTES = 1 << 30


def keep(shared: Path | None = None) -> None:
    """From now on what XLA compiles is kept in `xla/` of the cache folder, and looked for there,
    unless JAX was told of a folder already (JAX_COMPILATION_CACHE_DIR, which may be empty).

    Never in the folder of a run that only has one process: what is kept is machine code, and runs
    are handed around. Several processes find the same or nothing: they use `shared`, if given.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    if distributed.count() > 1:
        if shared is None:
            return
        folder = paths.absolute(shared)
    else:
        own = paths.cache_dir() / "xla"
        if not _writable(own):
            return
        _trim(own)
        folder = paths.absolute(own)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _writable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
        return True
    logging.getLogger(__name__).warning(
        "%s: cannot be written; every start compiles again. Set JAXCOMP_CACHE to a folder with "
        "room to make the next start faster",
        folder,
    )
    return False


def _trim(folder: Path) -> None:
    """Removes the oldest files until MOST_BYTES are left. JAX's own limit counts on files that a
    killed process may not have written, and keeps nothing from then on."""
    with contextlib.suppress(OSError):  # another process removes files too
        found = [(f.stat(), f.path) for f in os.scandir(folder)]
        over = sum(about.st_size for about, _ in found) - MOST_BYTES
        for about, path in sorted(found, key=lambda one: one[0].st_mtime):
            if over <= 0:
                return
            os.unlink(path)
            over -= about.st_size
