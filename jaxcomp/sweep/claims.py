"""Who is working on what, where several processes and machines share one folder.

A claim is a file made with O_EXCL that names its owner. The owner's heartbeat keeps its
modification time fresh. A claim is stale, and may be taken over, when its process is dead (same
machine) or its heartbeat has stopped (another machine).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT_S = 20.0
STALE_S = 120.0  # a claim of another machine whose heartbeat is older than this is taken over


class ClaimedError(RuntimeError):
    """Another live process holds the claim; the message names it."""


class Claims:
    """The claims that this process holds in `folder`; use as a context manager.

    Leaving the context releases every claim, also after an error.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.held: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        for name in sorted(self.held):
            self.release(name)

    def acquire(self, name: str) -> None:
        """Claim `name`. Raises ClaimedError if a live process holds it."""
        path = self._path(name)
        with self._guard():
            owner = self.owner(name)
            if owner is not None:
                raise ClaimedError(f"{name} is claimed by {owner}")
            path.unlink(missing_ok=True)  # stale: its owner is gone
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            with os.fdopen(handle, "w") as f:
                json.dump(_me(), f)
        self.held.add(name)

    def try_acquire(self, name: str) -> bool:
        try:
            self.acquire(name)
        except ClaimedError:
            return False
        return True

    def release(self, name: str) -> None:
        self.held.discard(name)
        self._path(name).unlink(missing_ok=True)

    def owner(self, name: str) -> str | None:
        """The live owner of a claim in words, None where it is free or stale."""
        path = self._path(name)
        try:
            info = json.loads(path.read_text() or "{}")
            beat = path.stat().st_mtime
        except FileNotFoundError:
            return None
        except ValueError:  # killed between making the file and writing it
            info, beat = {}, path.stat().st_mtime
        if info.get("host") == socket.gethostname():
            pid = info.get("pid", -1)
            alive = _started(pid) is not None and _started(pid) == info.get("started")
        else:
            alive = self._now() - beat < STALE_S
        return f"process {info.get('pid')} on {info.get('host')}" if alive else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _now(self) -> float:
        """The folder's own clock, so that machines need not agree on the time."""
        probe = self.folder / f".clock-{socket.gethostname()}-{os.getpid()}"
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        return now

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """One process at a time looks at, removes and makes claims."""
        with open(self.folder / ".guard", "a") as f:
            # File systems without flock still have O_EXCL: only a takeover could then race.
            with contextlib.suppress(OSError):
                fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            for name in list(self.held):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._path(name))


def _me() -> dict[str, object]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str | None:
    """When a process of this machine began (None: it is gone); tells a reused pid apart."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown"  # no /proc: the pid alone must do
    return None if fields[0] == "Z" else fields[19]
