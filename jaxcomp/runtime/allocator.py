"""Settings of the C library's allocator for training on CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_* of malloc.h
_KEPT = 1 << 30  # bytes


def one_arena() -> bool:
    """Let all threads share one heap from now on; returns whether that was possible.

    XLA's calls wander between threads, and each thread's arena would keep temporaries of its own:
    memory would grow for hundreds of steps. Threads that have one already keep it.
    """
    return _mallopt(_ARENA_MAX, 1)


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory; returns whether that was possible.

    XLA:CPU allocates a step's temporaries at each call. glibc unmaps blocks above 32 MiB when they
    are freed, so every step would page-fault through all of them again: a third of the time of a
    step with 34 MB of temporaries.
    """
    from jaxcomp.runtime.sharding import platform  # one_arena is called before JAX is loaded

    if platform() != "cpu":
        return False
    # Trimming alone must not be set: it freezes the mmap threshold at its small initial value.
    return _mallopt(_MMAP_THRESHOLD, _KEPT) and _mallopt(_TRIM_THRESHOLD, _KEPT)


def _mallopt(parameter: int, value: int) -> bool:
    """False where the C library has no mallopt, or refuses the value."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))
