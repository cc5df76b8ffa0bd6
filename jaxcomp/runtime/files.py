"""Files that a path or glob names, locally or in a bucket, and hashes of their contents."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from glob import glob

from jaxcomp.runtime import paths

_WHOLE = 1 << 28  # files up to this many bytes are read whole, larger ones by both ends
_EDGE = 1 << 24
_REMEMBERED_S = 60  # how long the listing of a bucket is believed


def matching(path: str) -> list[str]:
    """The files that `path` names, sorted: a file, or a glob (`**` descends into folders).

    Raises StorageError for a bucket that is not there or may not be read.
    """
    if paths.is_remote(path):
        return sorted(_remembered(path, int(time.monotonic() / _REMEMBERED_S)))
    pattern = os.path.expanduser(path)
    if os.path.isfile(pattern):  # also a name that holds glob characters
        return [pattern]
    return [f for f in sorted(glob(pattern, recursive=True)) if os.path.isfile(f)]


def is_file(path: str) -> bool:
    return bool(matching(path)) if paths.is_remote(path) else os.path.isfile(path)


def size_of(file: str) -> int:
    """Bytes of a file that `matching` gave."""
    return _about(file)[0] if paths.is_remote(file) else os.path.getsize(file)


def digest(file: str | os.PathLike[str]) -> str:
    """`name:size:hash` of a file; above 256 MiB the hash is of both ends.

    In a bucket the checksum that it keeps (CRC32C), so that nothing is read: another hash than that
    of the same file here.
    """
    name = os.fspath(file)
    if paths.is_remote(name):
        size, checksum = _about(name)
        return f"{os.path.basename(name)}:{size}:{checksum}"
    stat = os.stat(file)
    return _digest(name, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(file: str, size: int, mtime_ns: int) -> str:
    """Read once for all jobs of a sweep; an edited file has another time or size."""
    found = hashlib.sha256()
    with open(file, "rb") as f:
        if size <= _WHOLE:
            found.update(f.read())
        else:
            found.update(f.read(_EDGE))
            f.seek(-_EDGE, os.SEEK_END)
            found.update(f.read())
    return f"{os.path.basename(file)}:{size}:{found.hexdigest()[:12]}"


_seen: dict[str, tuple[int, str]] = {}  # size and checksum of the objects listed last


def _about(file: str) -> tuple[int, str]:
    if file not in _seen and file not in listed(file):
        raise FileNotFoundError(2, "no such object", file)
    return _seen[file]


def listed(pattern: str) -> dict[str, tuple[int, str]]:
    """Name -> size and checksum of every object of a bucket that matches. Raises StorageError."""
    from jaxcomp.runtime import gs

    paths.check(pattern)
    found = {
        f"gs://{name}": (int(about["size"]), str(about.get("crc32c", "")))
        for name, about in gs.files().glob(pattern, detail=True).items()
        if about["type"] == "file"
    }
    _seen.update(found)
    return found


@functools.lru_cache(maxsize=256)
def _remembered(pattern: str, minute: int) -> list[str]:
    """Listed once for all jobs of a sweep."""
    return list(listed(pattern))
