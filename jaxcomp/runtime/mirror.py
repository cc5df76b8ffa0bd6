"""Folders of a bucket copied to this machine once, for what reads files: weights and tokenizers.

Whole files: published weights are cut into files by tensor, and a host's shards lie in all of them.
The copy's name holds a hash of names, sizes and checksums, so that changed weights are another
copy. A file of it that was cut or removed since is copied anew.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from jaxcomp.runtime.errors import StorageError
from jaxcomp.runtime.paths import cache_dir, check_readable

_AT_ONCE = 1 << 26  # bytes asked for together, in _STREAMS requests
_STREAMS = 4
_SHOW_S = 10.0
_SPARE = 1 << 28  # bytes of the disk that stay free
_WHOLE = ".whole"


class Remote(NamedTuple):
    """An object as the bucket lists it."""

    name: str  # within the folder
    place: str  # gs://...
    size: int
    crc32c: str  # base64


def local_copy(folder: str, patterns: Sequence[str]) -> Path:
    """The copy of gs://bucket/`folder`'s files of `patterns`, made if need be.

    Only one process of a machine copies, the others wait for it. A stopped copy goes on where it
    was, in the middle of a file. Progress goes to stderr.

    Raises:
        StorageError: no such folder, no permission, a file that arrived damaged, no room.
    """
    found = _listed(folder, patterns)
    known = json.dumps([(r.name, r.size, r.crc32c) for r in found])
    digest = hashlib.sha256(known.encode()).hexdigest()[:12]
    name = folder.removeprefix("gs://").strip("/").replace("/", "--")
    target = cache_dir() / "weights" / f"{name}-{digest}"
    if (target / _WHOLE).is_file() and all(_intact(target, r) for r in found):
        return target
    with _alone(target):
        missing = [target / r.name for r in found if not _intact(target, r)]
        for file in filter(Path.is_file, missing):
            _say(f"{file}: this file of the cache is damaged; it is copied anew")
            file.unlink()
        if missing or not (target / _WHOLE).is_file():
            _copy(folder, found, target)
            (target / _WHOLE).touch()
    return target


def _intact(target: Path, remote: Remote) -> bool:
    """Is its file of this size, and, if it is small, of this checksum? One of gigabytes would take
    seconds to read at every start."""
    file = target / remote.name
    if not file.is_file() or file.stat().st_size != remote.size:
        return False
    return remote.size > _AT_ONCE or not remote.crc32c or _crc32c(file) == remote.crc32c


def _listed(folder: str, patterns: Sequence[str]) -> list[Remote]:
    from jaxcomp.runtime import gs

    place = gs.GsPath(folder)
    check_readable(place)
    with gs.told(place):
        try:
            every = gs.files().ls(str(place), detail=True)
        except FileNotFoundError:
            every = []
    found = [
        Remote(name, gs.PREFIX + e["name"], e["size"], e.get("crc32c", ""))
        for e in every
        if e["type"] == "file"
        for name in [e["name"].rsplit("/", 1)[1]]
        if any(fnmatch(name, p) for p in patterns)
    ]
    if not found:
        raise StorageError(
            f"{folder}: holds none of {', '.join(patterns)}; expected a Hugging Face folder with "
            "its files directly in it"
        )
    return sorted(found)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of this machine at a time; the lock is the kernel's, so a killed one frees it."""
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say(f"waiting for another process of this machine that copies to {target}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(folder: str, found: Sequence[Remote], target: Path) -> None:
    there = sum(_done(target, r) for r in found)
    progress = _Progress(folder, sum(r.size for r in found), there)
    free = shutil.disk_usage(target).free
    if progress.total - there > free - _SPARE:
        raise StorageError(
            f"{folder}: {(progress.total - there) / 1e9:.1f} GB do not fit on the disk of {target} "
            f"({free / 1e9:.1f} GB free); free some space, or set JAXCOMP_CACHE to a larger disk"
        )
    for remote in found:
        if not (target / remote.name).is_file():
            _fetch(remote, target, progress)
    progress.show(last=True)


def _done(target: Path, remote: Remote) -> int:
    for name in (remote.name, f"{remote.name}.part"):
        if (target / name).is_file():
            return min((target / name).stat().st_size, remote.size)
    return 0


def _fetch(remote: Remote, target: Path, progress: _Progress) -> None:
    """One file, appended to what a stopped copy left; named when its checksum is right."""
    from jaxcomp.runtime import gs

    part = target / f"{remote.name}.part"
    with part.open("ab") as file:
        at = file.tell()
        while at < remote.size:
            end = min(at + _AT_ONCE, remote.size)
            with gs.told(remote.place):
                got = gs.files().cat_file(remote.place, at, end, concurrency=_STREAMS)
            if len(got) != end - at:
                raise StorageError(f"{remote.place}: became shorter while it was copied; try again")
            file.write(got)
            at = end
            progress.add(len(got))
        file.flush()
        os.fsync(file.fileno())
    if remote.crc32c and _crc32c(part) != remote.crc32c:
        part.unlink()
        raise StorageError(
            f"{remote.place}: arrived damaged (its checksum is another); run the same command "
            "again, it is copied anew"
        )
    part.replace(target / remote.name)


def _crc32c(file: Path) -> str:
    import google_crc32c

    found = google_crc32c.Checksum()
    with file.open("rb") as f:
        while chunk := f.read(1 << 22):
            found.update(chunk)
    return base64.b64encode(found.digest()).decode()


class _Progress:
    def __init__(self, what: str, total: int, there: int):
        self.what, self.total, self.done, self.before = what, total, there, there
        self.began = self.shown = time.monotonic()

    def add(self, size: int) -> None:
        self.done += size
        self.show()

    def show(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self.shown < _SHOW_S:
            return
        self.shown = now
        rate = (self.done - self.before) / max(now - self.began, 1e-9)
        left = "" if last else f", {(self.total - self.done) / max(rate, 1.0):.0f} s left"
        _say(
            f"copying {self.what}: {self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB, "
            f"{rate / 1e6:.0f} MB/s{left}"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
