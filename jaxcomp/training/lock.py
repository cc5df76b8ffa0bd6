"""One training at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxcomp.config import ConfigError
from jaxcomp.runtime import distributed, paths

LOCK = ".lock"


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keep every other training out of `workdir`; process 0 of several does it for all.

    The system lets go when the process ends, however it ends. Nothing is locked in a bucket, nor
    on a disk without locks.

    Raises:
        ConfigError: another process trains there.
    """
    handles: list[int] = []
    distributed.by_lead(lambda: handles.extend(_take(paths.path(workdir))))
    try:
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _take(workdir: Path) -> list[int]:
    if paths.is_remote(workdir):
        return []
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # the first file of the run says it better
        return []
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise ConfigError(
            f"{workdir}: {owner} is training there now; wait until it has ended, or use another "
            "--workdir"
        ) from None
    except OSError:  # some network disks have no locks
        os.close(handle)
        return []
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return [handle]
