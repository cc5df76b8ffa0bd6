"""The persistent cache of compiled programs on this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from jaxcomp.runtime import cache, distributed, paths

MOST_BYTES = 1 << 30


def keep(shared: Path | None = None) -> None:
    """Keep what XLA compiles in `xla/` of the cache folder from now on, and look for it there,
    unless JAX_COMPILATION_CACHE_DIR says otherwise.

    Never in the folder of a run of one process: what is kept is machine code, and runs are handed
    around. Several processes must find the same or nothing: they use `shared`, if given.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    if distributed.count() > 1:
        if shared is None:
            return
        folder = shared
    else:
        folder = paths.cache_dir() / "xla"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            cache.unwritable(folder, "every start compiles again")
            return
        _trim(folder)
    jax.config.update("jax_compilation_cache_dir", paths.absolute(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _trim(folder: Path) -> None:
    """Remove the oldest files until MOST_BYTES are left. JAX's own limit counts on files that a
    killed process may not have written, and keeps nothing from then on."""
    with contextlib.suppress(OSError):  # another process removes files too
        found = [(f.stat(), f.path) for f in os.scandir(folder)]
        over = sum(about.st_size for about, _ in found) - MOST_BYTES
        for about, path in sorted(found, key=lambda one: one[0].st_mtime):
            if over <= 0:
                return
            os.unlink(path)
            over -= about.st_size
