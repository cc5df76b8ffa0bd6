"""Settings of the C library's allocator that training on CPU depends on."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_* of malloc.h
_KEPT = 1 << 30  # bytes


def one_arena() -> bool:
    """All threads of this process share one heap from now on; returns whether that was possible.

    XLA's calls wander between threads, and each thread's arena would keep temporaries of its own,
    so memory would go on growing for hundreds of steps. Must be called at the
    beginning of a process: threads that have an arena already keep it.
    """
    return _mallopt(_ARENA_MAX, 1)


def keep_freed_memory() -> bool:
    """Lets this process keep up to 1 GiB of freed memory instead of handing it back to the kernel.

    XLA:CPU allocates a step's temporaries at each call. glibc serves blocks above 32 MiB by mmap
    and unmaps them when freed, so every step page-faults through all of them again: a third of the
    time of a step with 34 MB of temporaries. Does nothing on other backends and
    other C libraries; returns whether it did something. Safe to call again.
    """
    from jaxcomp.runtime.sharding import (
        platform,  # not above: one_arena is called before JAX is loaded
    )

    if platform() != "cpu":
        return False
    # Trimming alone must not be set: it freezes the mmap threshold at its small initial value.
    return _mallopt(_MMAP_THRESHOLD, _KEPT) and _mallopt(_TRIM_THRESHOLD, _KEPT)


def _mallopt(parameter: int, value: int) -> bool:
    """False where the C library has no mallopt, or refuses the value."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))
