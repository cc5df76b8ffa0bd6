"""File locks between processes of one machine.

The system lets go when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from filelock import BaseFileLock, FileLock, Timeout

from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed, paths

ORPHAN_S = 5.0  # in which the worker of a sweep that was killed ends by itself


def take(place: paths.Place, wait_s: float = 0.0) -> BaseFileLock | None:
    """Return the lock of `place`, acquired; None where another process still has it after `wait_s`.

    It is the file `<place>.lock`; of a place in a bucket, a file of this machine's cache folder.
    A disk without locks stops nobody: work that is done twice has the same result.
    """
    file = paths.path(f"{paths.absolute(place)}.lock")
    if paths.is_remote(place):
        name = hashlib.sha256(paths.absolute(place).encode()).hexdigest()[:32]
        file = paths.cache_dir() / "locks" / f"{name}.lock"
    lock = FileLock(file, thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait_s)
    except Timeout:
        return None
    except OSError:  # no locks on this disk, or no room: the first file of the work says it better
        pass
    return lock


@contextlib.contextmanager
def training(workdir: paths.Place) -> Iterator[None]:
    """Keep every other training of this machine out of `workdir`; process 0 of several does it for
    all. Raises ConfigError where another process trains there."""

    def taken() -> None:
        lock = take(paths.path(workdir) / "train", ORPHAN_S)
        if lock is None:
            raise ConfigError(
                f"{workdir}: another process is training there now; wait until it has ended, or "
                "use another --workdir"
            )
        held.callback(lock.release)

    with contextlib.ExitStack() as held:
        distributed.by_lead(taken)
        yield
