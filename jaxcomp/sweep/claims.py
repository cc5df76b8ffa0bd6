"""Who is working on what, where several processes and machines share one folder.

A claim is a file that names its owner, made only where there is none. The owner's heartbeat keeps
its modification time fresh. A claim is stale, and may be taken over, when its process is dead (same
machine) or its heartbeat has stopped (another machine).

The claims of a workdir in a bucket are in the cache of each machine: between machines nothing is
claimed there, since a job that runs twice gives the same row.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from jaxcomp.runtime import paths, strict_json

HEARTBEAT_S = 20.0
STALE_S = 120.0  # a claim of another machine whose heartbeat is older than this is taken over


class ClaimedError(RuntimeError):
    """Another live process holds the claim; the message names it."""


class Claims:
    """The claims that this process holds in `folder`; use as a context manager.

    Leaving the context releases every claim, also after an error. A claim that another machine took
    over meanwhile (this one was suspended for longer than STALE_S) is `held` no more, and its file
    is the other's.
    """

    def __init__(self, folder: Path):
        if paths.is_remote(folder):
            folder = paths.cache_dir() / "claims" / str(folder).removeprefix("gs://")
        self.folder = paths.path(folder)
        self.held: set[str] = set()
        self._locks: _Locks = _Files(self.folder)
        self._one = threading.RLock()  # the heartbeat and the main thread
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        self._locks.open()
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        for name in sorted(self.held):
            self.release(name)

    def acquire(self, name: str) -> None:
        """Claim `name`. Raises ClaimedError if a live process holds it."""
        with self._one:
            self._locks.take(name)
            self.held.add(name)

    def try_acquire(self, name: str) -> bool:
        try:
            self.acquire(name)
        except ClaimedError:
            return False
        return True

    def release(self, name: str) -> None:
        with self._one:
            self.held.discard(name)
            self._locks.drop(name)

    def holds(self, name: str) -> bool:
        """Is the claim still this process's? Looks now, not only with the next heartbeat."""
        with self._one:
            if name in self.held and not self._locks.beat(name):
                self.held.discard(name)
            return name in self.held

    def owner(self, name: str) -> str | None:
        """The live owner of a claim in words, None where it is free or stale."""
        return self._locks.owner(name)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            for name in list(self.held):
                self.holds(name)


class _Locks(Protocol):
    def __init__(self, folder: Path): ...
    def open(self) -> None: ...
    def take(self, name: str) -> None: ...
    def drop(self, name: str) -> None: ...
    def beat(self, name: str) -> bool: ...  # False: another process has it
    def owner(self, name: str) -> str | None: ...


class _Files:
    """Claims as files of a file system."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.content = json.dumps(_me()).encode()

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> None:
        path = self._path(name)
        with self._guard():
            owner = self.owner(name)
            if owner is not None:
                raise ClaimedError(f"{name} is claimed by {owner}")
            path.unlink(missing_ok=True)  # stale: its owner is gone
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            with os.fdopen(handle, "wb") as f:
                f.write(self.content)

    def drop(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._guard():
            if self._path(name).read_bytes() == self.content:
                self._path(name).unlink()

    def beat(self, name: str) -> bool:
        path = self._path(name)
        try:
            ours = path.read_bytes() == self.content
            if ours:
                os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # the disk does not answer: the next beat tries again
        return ours

    def owner(self, name: str) -> str | None:
        path = self._path(name)
        try:
            # Nothing in it: its process was killed between making the file and writing to it.
            info, beat = _parsed(path.read_bytes()), path.stat().st_mtime
        except FileNotFoundError:
            return None
        alive = _lives(info) if _is_here(info) else self._now() - beat < STALE_S
        return _words(info) if alive else None

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


def _parsed(content: bytes | None) -> dict[str, Any]:
    """What a claim says of its owner; nothing where it is damaged, so that its age decides."""
    try:
        return strict_json.parse(content or b"{}", "claim", dict)
    except strict_json.JsonError:
        return {}


def _words(info: dict[str, Any]) -> str:
    return f"process {info.get('pid')} on {info.get('host')}"


def _is_here(info: dict[str, Any]) -> bool:
    """Was the claim written since this machine started? Names of machines are used again."""
    return (info.get("host"), info.get("boot")) == (socket.gethostname(), _boot())


def _lives(info: dict[str, Any]) -> bool:
    """Is that process of this machine still the one that wrote the claim?"""
    pid = info.get("pid")
    if type(pid) is not int or not 0 < pid < 1 << 31:
        return False
    return _started(pid) is not None and _started(pid) == info.get("started")


def _boot() -> str:
    """Which start of which machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _me() -> dict[str, object]:
    """The content of a claim. By its mark a claim that was taken over is told from our own."""
    pid, mark = os.getpid(), uuid.uuid4().hex
    host = socket.gethostname()
    return {"host": host, "boot": _boot(), "pid": pid, "started": _started(pid), "mark": mark}


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
