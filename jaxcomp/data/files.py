"""Which files a path or glob names, and what their contents are known by."""

from __future__ import annotations

import functools
import hashlib
import os
from glob import glob

_WHOLE = 1 << 28  # files up to this many bytes are read whole, larger ones by both ends
_EDGE = 1 << 24


def matching(path: str) -> list[str]:
    """The files that `path` names, sorted: a file, or a glob (`**` descends into folders)."""
    pattern = os.path.expanduser(path)
    files = [f for f in sorted(glob(pattern, recursive=True)) if os.path.isfile(f)]
    if not files and os.path.isfile(pattern):  # a name that holds glob characters
        files = [pattern]
    return files


def digest(file: str | os.PathLike[str]) -> str:
    """`name:size:hash` of a file; above 256 MiB the hash is of both ends."""
    stat = os.stat(file)
    return _digest(os.fspath(file), stat.st_size, stat.st_mtime_ns)


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
