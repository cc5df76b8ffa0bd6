"""One interface to local folders and gs:// buckets.

A local path stays a `pathlib.Path`; gs:// becomes the `etils.epath` path of `runtime.gs`, which is
imported only then. Never `Path(x)` of what may be gs://: that makes "gs:/bucket", a local folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcomp.config import ConfigError
from jaxcomp.runtime.errors import StorageError

Place = str | os.PathLike[str]


def cache_dir() -> Path:
    """$JAXCOMP_CACHE, else $XDG_CACHE_HOME/jaxcomp, else ~/.cache/jaxcomp. Safe to delete."""
    if own := os.environ.get("JAXCOMP_CACHE"):
        return _local(own)
    return _local(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxcomp"


def is_remote(place: Place) -> bool:
    """Is it in a bucket? Raises ConfigError for a scheme that is not supported."""
    name = os.fspath(place)
    if name.startswith("gs:/") and not name.startswith("gs://"):
        raise ConfigError(f"{name}: expected gs://bucket/folder, with two slashes")
    scheme, mark, rest = name.partition("://")
    if mark and (scheme != "gs" or not rest.strip("/")):
        raise ConfigError(f"{name}: expected a folder of this machine, or gs://bucket/folder")
    return bool(mark)


def path(place: Place) -> Path:
    """The one reading of a path that a flag, a config or a file gives: `~` is the home folder.

    Raises:
        ConfigError: another scheme than gs://, or gcsfs is not installed.
        StorageError: `~` where no home folder is known.
    """
    return _gs().GsPath(os.fspath(place)) if is_remote(place) else _local(place)


def _gs() -> Any:
    try:
        from jaxcomp.runtime import gs
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("gcsfs"):
            raise
        raise ConfigError(
            "gs:// paths need gcsfs, which is not installed: install the extra `gcs` "
            "(uv sync --extra gcs, or pip install 'jaxcomp[gcs]')"
        ) from error
    return gs


def _local(place: Place) -> Path:
    name = os.path.expanduser(place)  # leaves ~nobody as it is, as a shell does
    if name == "~" or name.startswith("~/"):
        raise StorageError(
            f"{name}: no home folder is known; name the whole path, or set JAXCOMP_CACHE, or HOME"
        )
    return Path(name)


def check(place: Place, write: bool = False) -> None:
    """Raises StorageError where `place` is in a bucket that is not there or may not be read, or
    written; in a local folder the first file shows it."""
    if is_remote(place):
        _gs().check(place, write)


def write_bytes(place: Place, content: bytes) -> None:
    """Write a file so that it is absent, as it was, or whole. Raises OSError, StorageError."""
    target = path(place)
    if is_remote(target):
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    atomically(target, lambda part: part.write_bytes(content))


def atomically(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a local file beside `target`, then give it that name: `target` is absent,
    as it was, or whole. Raises OSError, which names `target`."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        part.touch()
        mode = part.stat().st_mode  # what the umask says, whatever a library makes of it
        write(part)
        part.chmod(mode)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def rmtree(folder: Path) -> None:
    """Remove a folder with all that is in it. Raises FileNotFoundError where there is none."""
    remove: Any = getattr(folder, "rmtree", None)
    remove() if remove else shutil.rmtree(folder)


def absolute(place: Place) -> str:
    """The place's name that is good from any working directory."""
    return str(path(place).absolute())


def relative(place: Place, start: Place) -> str:
    """How to come from the folder `start` to `place`: a relative path where there is one."""
    if is_remote(place) != is_remote(start):
        return absolute(place)
    # Of a symbolic link, ".." is the parent of the folder that it leads to.
    there, here = (os.path.join(*path(p).resolve().parts) for p in (place, start))
    return os.path.relpath(there, here)


def join(start: Place, name: str) -> Path:
    """`start`/`name`, where `name` comes from `relative`: it may climb, or be another place."""
    if is_remote(name) or os.path.isabs(name):
        return path(name)
    found = path(start) / name
    return found.resolve() if is_remote(start) else found


def upload(folder: Path, target: Path, last: str = "") -> None:
    """Copy the files of a local folder into `target` of a bucket, the one named `last` last: where
    it is there, all are. Raises StorageError."""
    for file in sorted(folder.rglob("*"), key=lambda f: (f.name == last, f)):
        if file.is_file() and file.name != _LOCK:
            _gs().files().put_file(str(file), str(target / file.relative_to(folder)))


_LOCK = ".lock"  # of a scratch folder


def scratch() -> Path:
    """A new folder of this machine for what is then copied to a bucket; the caller removes it, and
    here those that killed processes left behind are removed."""
    root = Path(tempfile.gettempdir())
    for old in root.glob("jaxcomp-*"):
        # No such file: not one of ours. BlockingIOError: its process is alive.
        with contextlib.suppress(OSError), (old / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=".jaxcomp-", dir=root))
    # Never closed: the system frees it when this process ends, however it ends.
    fcntl.flock(os.open(made / _LOCK, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
    return made.rename(root / made.name.removeprefix("."))  # locked before anyone may look at it


class AppendFile:
    """A file that grows, also in a bucket, where objects appear whole or not at all.

    There it grows in a nameless file of this machine and is uploaded whole by `sync` and `close`; a
    killed process loses what it wrote after the last `sync`. `start` is what it begins with (None:
    what is there already). Raises OSError, StorageError.
    """

    def __init__(self, place: Place, start: str | None = None):
        self.path, self.remote = path(place), is_remote(place)
        if self.remote and start is None:
            start = self.path.read_text() if self.path.is_file() else ""
        if self.remote:
            self._file: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close
        else:
            self._file = self.path.open("ab" if start is None else "wb", buffering=0)
        self._synced = -1  # bytes that the bucket has
        self.write(start or "")

    def write(self, content: str | bytes) -> None:
        self._file.write(content.encode() if isinstance(content, str) else content)

    def fileno(self) -> int:
        """For a writer that needs a descriptor; what it writes is synced as well."""
        return self._file.fileno()

    def sync(self) -> None:
        """Returns when everything written so far is where it belongs."""
        size = os.fstat(self.fileno()).st_size
        if self.remote and size != self._synced:
            self.path.write_bytes(os.pread(self.fileno(), size, 0))
            self._synced = size

    flush = sync

    def close(self) -> None:
        if not self._file.closed:
            with self._file:
                self.sync()
