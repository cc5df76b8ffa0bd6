"""One setting of the C library's allocator that a training step on CPU depends on."""

from __future__ import annotations

import ctypes

import jax

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* of malloc.h
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Lets this process keep up to 1 GiB of freed memory instead of handing it back to the kernel.

    XLA:CPU allocates a step's temporaries at each call. glibc serves blocks above 32 MiB by mmap
    and unmaps them when freed, so every step page-faults through all of them again: a third of the
    time of a step with 34 MB of temporaries (docs/bench.md). Does nothing on other backends and
    other C libraries; returns whether it did something. Safe to call again.
    """
    if jax.default_backend() != "cpu":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Trimming alone must not be set: it freezes the mmap threshold at its small initial value.
    if mallopt is None or not mallopt(_MMAP_THRESHOLD, _KEPT):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT))
