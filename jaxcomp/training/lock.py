"""One training at a time in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed, locks, paths

ORPHAN_S = 5.0  # in which the worker of a sweep that was killed ends by itself


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keep every other training of this machine out of `workdir`; process 0 of several does it for
    all.

    Raises:
        ConfigError: another process trains there.
    """
    taken: list[locks.BaseFileLock] = []
    distributed.by_lead(lambda: taken.append(_take(paths.path(workdir))))
    try:
        yield
    finally:
        for lock in taken:
            lock.release()


def _take(workdir: Path) -> locks.BaseFileLock:
    lock = locks.take(workdir / "train", ORPHAN_S)
    if lock is None:
        raise ConfigError(
            f"{workdir}: another process is training there now; wait until it has ended, or use "
            "another --workdir"
        )
    return lock
