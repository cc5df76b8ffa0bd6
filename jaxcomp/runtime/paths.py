"""Where files live: folders of this machine and gs:// buckets, by one set of calls.

A local path stays a `pathlib.Path`; gs:// becomes one of `runtime.gs`, which is imported only then.
Never `Path(x)` of what may be gs://: that makes "gs:/bucket", a folder of this machine.

What differs: an object of a bucket appears whole or not at all, so nothing is renamed; nothing can
be appended (`AppendFile`); libraries that need a real file get one of this machine
(`MirroredFolder`, `runtime.mirror`); and a claim needs a conditional write (`sweep/claims.py`).
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jaxcomp.config import ConfigError
from jaxcomp.runtime.errors import StorageError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "AppendFile",
    "MirroredFolder",
    "StorageError",
    "absolute",
    "atomically",
    "cache_dir",
    "check_readable",
    "check_writable",
    "copy_into",
    "is_remote",
    "join",
    "path",
    "relative",
    "rmtree",
    "save_tensors",
    "size",
    "write_bytes",
]  # fmt: skip
Place = str | os.PathLike[str]


def cache_dir() -> Path:
    """$JAXCOMP_CACHE, else $XDG_CACHE_HOME/jaxcomp, else ~/.cache/jaxcomp. Safe to delete."""
    if own := os.environ.get("JAXCOMP_CACHE"):
        return _local(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return _local(base or "~/.cache") / "jaxcomp"


def is_remote(place: Place) -> bool:
    """Is it in a bucket? Raises ConfigError for a scheme that is not supported."""
    name = os.fspath(place)
    if name.startswith("gs:/") and not name.startswith("gs://"):
        raise ConfigError(f"{name}: expected gs://bucket/folder, with two slashes")
    scheme, mark, rest = name.partition("://")
    if not mark:
        return False
    if scheme != "gs" or not rest.strip("/"):
        raise ConfigError(f"{name}: expected a folder of this machine, or gs://bucket/folder")
    return True


def path(place: Place) -> Path:
    """`pathlib.Path`, or for gs:// an object with its methods (`jaxcomp.runtime.gs.GsPath`).

    The one reading of a path that a flag, a config or a file gives: `~` is the home folder.

    Raises ConfigError for another scheme, or where gs:// needs a package that is not installed;
    StorageError for `~` where no home folder is known.
    """
    if not is_remote(place):
        return _local(place)
    from jaxcomp.runtime import gs

    gs.need_gcsfs()
    return cast(Path, gs.GsPath(os.fspath(place)))


def _local(place: Place) -> Path:
    name = os.path.expanduser(place)  # leaves ~nobody as it is, as a shell does
    if name == "~" or name.startswith("~/"):
        raise StorageError(
            f"{name}: no home folder is known; name the whole path, or set JAXCOMP_CACHE, or HOME"
        )
    return Path(name)


def check_writable(folder: Place) -> None:
    """Looks, before any long work, whether a run may write to `folder` of a bucket.

    A local folder says so itself, with the first file. Raises StorageError.
    """
    if is_remote(folder):
        from jaxcomp.runtime import gs

        gs.check_writable(gs.GsPath(os.fspath(path(folder))))


def check_readable(place: Place) -> None:
    """Raises StorageError where `place` is in a bucket that is not there or may not be read."""
    if is_remote(place):
        from jaxcomp.runtime import gs

        gs.check_readable(gs.GsPath(os.fspath(path(place))))


def write_bytes(place: Place, content: bytes) -> None:
    """Writes a file so that it is absent, as it was, or whole. Raises OSError, StorageError."""
    target = path(place)
    if is_remote(target):
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    atomically(target, lambda part: part.write_bytes(content))


def atomically(target: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file beside `target` of this machine, then gives it that name: `target`
    is absent, as it was, or whole. Raises OSError, which names `target`."""
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
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


def save_tensors(
    tensors: dict[str, np.ndarray], target: Path, about: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file, whole or not at all. Raises OSError, StorageError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, metadata=about)
        except SafetensorError as error:  # holds what the system said as text only
            code = re.search(r"(?:code:|os error) (\d+)", str(error))
            if code is None:
                raise StorageError(f"{target}: cannot be written ({error})") from error
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

    atomically(target, write)


def size(place: Place) -> int:
    """Bytes of a file."""
    about = path(place).stat()
    return getattr(about, "length", None) or getattr(about, "st_size", 0)


def rmtree(folder: Place) -> None:
    """Removes a folder with all that is in it. Raises FileNotFoundError where there is none."""
    if is_remote(folder):
        cast(Any, path(folder)).rmtree()
    else:
        shutil.rmtree(folder)


def absolute(place: Place) -> str:
    """The place's name that is good from any working directory."""
    return str(path(place) if is_remote(place) else path(place).absolute())


def relative(place: Place, start: Place) -> str:
    """How to come from the folder `start` to `place`: a relative path where there is one."""
    if is_remote(place) != is_remote(start):
        return absolute(place)
    if not is_remote(place):
        # Of a symbolic link, ".." is the parent of the folder that it leads to.
        return os.path.relpath(path(place).resolve(), path(start).resolve())
    ours, theirs = os.fspath(path(place)), os.fspath(path(start))
    if ours.split("/")[2] != theirs.split("/")[2]:
        return ours
    return posixpath.relpath(ours.removeprefix("gs:/"), theirs.removeprefix("gs:/"))


def join(start: Place, name: str) -> Path:
    """`start`/`name`, where `name` comes from `relative`: it may climb, or be another place."""
    if is_remote(name) or os.path.isabs(name):
        return path(name)
    if not is_remote(start):
        return path(start) / name
    bucket, _, key = os.fspath(start).removeprefix("gs://").partition("/")
    found = posixpath.normpath(posixpath.join("/", key, name)).lstrip("/")
    return path(f"gs://{bucket}/{found}" if found else f"gs://{bucket}")


def copy_into(folder: Place, source: Path, last: str = "") -> None:
    """Copies the files of the local folder `source` into `folder`, the one named `last` last.

    So a folder of a bucket whose file `last` is there is whole.
    """
    place = path(folder)
    for file in sorted(source.iterdir(), key=lambda f: (f.name == last, f.name)):
        if is_remote(place):
            from jaxcomp.runtime import gs

            gs.upload(file, gs.GsPath(str(place / file.name)))
        else:
            shutil.copyfile(file, place / file.name)


class AppendFile:
    """A file that grows, also where objects cannot be appended to.

    In a bucket it grows on this machine and is uploaded whole by `sync` and `close`; a killed
    process loses what it wrote after the last `sync`. A local file is flushed with every write.

    Args:
        place: the file.
        start: what it begins with; None: what is there already.

    Raises OSError, StorageError.
    """

    def __init__(self, place: Place, start: str | None = None):
        self.path = path(place)
        self.remote = is_remote(place)
        self._scratch: str | None = None
        self.local = self.path  # a file of this machine
        self._synced = -1 if start is not None else 0  # bytes that the bucket has
        if self.remote:
            if start is None and self.path.is_file():
                start = self.path.read_text()
                self._synced = len(start.encode())
            self._scratch = tempfile.mkdtemp(prefix="jaxcomp-")
            self.local = Path(self._scratch) / self.path.name
        self._file = self.local.open("a" if start is None else "w")
        self._file.write(start or "")
        self._file.flush()

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def fileno(self) -> int:
        """For a writer that needs a descriptor; what it writes is synced as well."""
        return self._file.fileno()

    def sync(self) -> None:
        """Returns when everything written so far is where it belongs."""
        if self.remote and self.local.stat().st_size != self._synced:
            content = self.local.read_bytes()
            self.path.write_bytes(content)
            self._synced = len(content)

    def close(self) -> None:
        try:
            if not self._file.closed:
                self._file.close()
                self.sync()
        finally:
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)


class MirroredFolder:
    """A folder of this machine, `local`, that `sync` and `close` copy to `place` in a bucket.

    For libraries that need real files (TensorBoard's events). What was in the bucket before stays
    there. Where `place` is local it is `local` itself, and there is nothing to copy.
    """

    def __init__(self, place: Place):
        self.path = path(place)
        self.remote = is_remote(place)
        self.local = Path(tempfile.mkdtemp(prefix="jaxcomp-")) if self.remote else self.path
        self._copied: dict[str, tuple[int, int]] = {}

    def sync(self) -> None:
        """Copies the files that changed since the last time. Raises StorageError."""
        if not self.remote:
            return
        from jaxcomp.runtime import gs

        for file in sorted(p for p in self.local.rglob("*") if p.is_file()):
            name, now = str(file.relative_to(self.local)), file.stat()
            mark = now.st_size, now.st_mtime_ns
            if self._copied.get(name) != mark:
                gs.upload(file, gs.GsPath(str(self.path / name)))
                self._copied[name] = mark

    def close(self) -> None:
        try:
            self.sync()
        finally:
            if self.remote:
                shutil.rmtree(self.local, ignore_errors=True)
