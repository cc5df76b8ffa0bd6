"""Paths of Cloud Storage, gs://bucket/key, with the methods of `pathlib.Path` that jaxcomp uses.

Importing this module gives `epath.Path("gs://...")`, and so Orbax, this class too. The one that
etils brings has no directories, and Orbax makes one and then looks whether it is there: here
`mkdir` writes the empty object "key/" that the console and TensorFlow write as well. Listings are
never cached, since other machines write to the same folders.

Only `jaxcomp.runtime.paths` imports it, for a path that begins with gs://.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath
from etils.epath.gpath import PosixGPath
from etils.epath.stat_utils import StatResult

from jaxcomp.config import ConfigError
from jaxcomp.runtime.errors import StorageError

PREFIX = "gs://"
EMULATOR = "STORAGE_EMULATOR_HOST"
_ROLES = "roles/storage.objectAdmin and roles/storage.bucketViewer"
_TO_THE_BUCKET = 30.0  # seconds without any answer until the network counts as down
_RETRIES = 6


@functools.cache
def need_gcsfs() -> None:
    """Raises ConfigError where gcsfs is missing."""
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            "gs:// paths need gcsfs, which is not installed: install the extra `gcs` "
            "(uv sync --extra gcs, or pip install 'jaxcomp[gcs]')"
        )


@functools.cache
def files() -> Any:
    """The one gcsfs file system of this process; looks for credentials when it is first made."""
    need_gcsfs()
    # Else it asks for each bucket's kind over gRPC, again with every call where it may not know.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from fsspec.config import conf

    # Also for those that others make: epath's own, pyarrow's.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its errors are raised as well
    return fsspec.filesystem("gcs", requests_timeout=_TO_THE_BUCKET * 4)


@contextlib.contextmanager
def told(path: os.PathLike[str] | str) -> Iterator[None]:
    """Turns what the libraries raise into one StorageError; missing files stay what they are."""
    known = FileNotFoundError, FileExistsError, IsADirectoryError, StorageError, ConfigError
    try:
        yield
    except known:
        raise
    except Exception as error:
        raise explained(path, error) from error


def explained(path: os.PathLike[str] | str, error: BaseException) -> StorageError:
    """The StorageError for what gcsfs, tensorstore or the network said of `path`."""
    text = " ".join(str(error).split()) or type(error).__name__
    bucket, account = bucket_of(path), _account()
    code = getattr(error, "code", None)
    denied = ("Forbidden", "PERMISSION_DENIED", "HTTP response code: 403")
    if any(word in text for word in denied) or code in (403, "403"):
        return StorageError(
            f"{os.fspath(path)}: no permission in the bucket {bucket} for {account}; give it "
            f"{_ROLES} on that bucket ({text[:160]})"
        )
    if code in (401, "401") or "UNAUTHENTICATED" in text or "HTTP response code: 401" in text:
        return StorageError(
            f"{os.fspath(path)}: the bucket {bucket} refuses {account}: log in with `gcloud auth "
            f"application-default login`, and have it given {_ROLES}"
        )
    kind = type(error)
    if kind.__module__.split(".")[0] in ("aiohttp", "requests", "urllib3") or isinstance(
        error, (TimeoutError, ConnectionError)
    ):
        return _unreachable(path, f"{kind.__name__}: {text[:160]}")
    return StorageError(
        f"{os.fspath(path)}: the bucket {bucket} cannot be used ({kind.__name__}: {text[:240]}); "
        "run the same command again, it goes on from what is there"
    )


def _unreachable(path: os.PathLike[str] | str, why: str) -> StorageError:
    return StorageError(
        f"{os.fspath(path)}: no answer from {_host()} ({why}); check this machine's network (on a "
        "VM without an external address: Private Google Access), and run the same command again"
    )


def _host() -> str:
    return os.environ.get(EMULATOR) or "storage.googleapis.com"


def _account() -> str:
    """Who this process is, as far as its credentials say."""
    found = files().credentials.credentials
    if found is None:
        return "anonymous (no credentials were found)"
    names = ("service_account_email", "account", "_service_account_email")
    name = next((n for n in (getattr(found, at, "") for at in names) if n), "")
    return name if name and name != "default" else "the account of this machine"


def bucket_of(path: os.PathLike[str] | str) -> str:
    return os.fspath(path).removeprefix(PREFIX).split("/")[0]


def _key(path: os.PathLike[str] | str) -> str:
    return os.fspath(path).removeprefix(PREFIX).partition("/")[2]


@epath.register_path_cls(PREFIX)
class GsPath(PosixGPath):
    """gs://bucket/key. FileNotFoundError where there is none; else StorageError."""

    def _about(self) -> dict[str, Any] | None:
        with told(self):
            try:
                return files().info(str(self))
            except FileNotFoundError:
                return None

    def exists(self) -> bool:
        return self._about() is not None

    def is_dir(self) -> bool:
        found = self._about()
        return found is not None and found["type"] == "directory"

    def is_file(self) -> bool:
        found = self._about()
        return found is not None and found["type"] == "file"

    def stat(self) -> Any:
        found = self._about()
        if found is None:
            raise FileNotFoundError(f"{self} does not exist")
        changed = found.get("mtime")
        return StatResult(
            is_directory=found["type"] == "directory",
            length=found["size"],
            mtime=int(changed.timestamp()) if changed else 0,
            owner=None,
            group=None,
            mode=None,
        )

    def expanduser(self) -> GsPath:
        return self

    def resolve(self, strict: bool = False) -> GsPath:
        return type(self)(PREFIX + posixpath.normpath(str(self).removeprefix(PREFIX)))

    def absolute(self) -> GsPath:
        return self.resolve()

    def iterdir(self) -> Iterator[GsPath]:
        own = str(self).removeprefix(PREFIX).rstrip("/")
        with told(self):
            found = files().ls(str(self), detail=True)
        names = sorted({e["name"].rstrip("/") for e in found} - {own})
        return iter([type(self)(PREFIX + name) for name in names])

    def glob(self, pattern: str) -> Iterator[GsPath]:
        with told(self):
            found = files().glob(f"{self}/{pattern}")
        names = sorted({name for name in found if not name.endswith("/")})
        return iter([type(self)(PREFIX + name) for name in names])

    def walk(self, **kwargs: Any) -> Iterator[Any]:
        raise NotImplementedError(f"walk of {self}; use iterdir or glob")

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        if self.exists():
            if not exist_ok or self.is_file():
                raise FileExistsError(f"{self} exists already")
            return
        self._put(f"{self}/", b"")

    def rmtree(self, missing_ok: bool = False) -> None:
        with told(self):
            found = files().find(str(self))  # the objects "key/" of directories among them
            if not found:
                if missing_ok:
                    return
                raise FileNotFoundError(f"{self} does not exist")
            files().rm(found)

    def rmdir(self) -> None:
        self.rmtree()

    def unlink(self, missing_ok: bool = False) -> None:
        with told(self):
            try:
                files().rm_file(str(self))
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def read_bytes(self) -> bytes:
        with told(self):
            return files().cat_file(str(self))

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        self._put(str(self), bytes(data))
        return len(data)

    def _put(self, name: str, data: bytes) -> None:
        with told(self):
            try:
                files().pipe_file(name, data)
            except FileNotFoundError as error:  # of the bucket: an object needs no other folder
                raise _no_bucket(self) from error

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def open(self, mode: str = "r", **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if set(mode) - set("rwbt"):
            raise ValueError(f"{self}: mode {mode!r}; an object is read or written whole")
        with told(self):
            return files().open(str(self), mode, **kwargs)

    def rename(self, target: Any) -> Any:
        """Copies, then deletes: not atomic."""
        with told(self):
            files().mv(str(self), os.fspath(target), recursive=self.is_dir())
        return type(self)(target)

    def replace(self, target: Any) -> Any:
        return self.rename(target)

    def copy(self, dst: Any, overwrite: bool = False) -> Any:
        place = epath.Path(dst)
        if not overwrite and place.exists():
            raise FileExistsError(f"{place} exists already")
        place.write_bytes(self.read_bytes())
        return place


def upload(file: os.PathLike[str], place: GsPath) -> None:
    """Copies a file of this machine into the bucket."""
    with told(place):
        try:
            files().put_file(os.fspath(file), str(place))
        except FileNotFoundError as error:
            raise _no_bucket(place) from error


# --- conditional writes ------------------------------------------------------------------------


class Record(NamedTuple):
    """An object as it was when it was read; `content` None: there was none."""

    content: bytes | None
    generation: bytes


@functools.lru_cache(maxsize=64)
def _store(bucket: str) -> Any:
    import tensorstore as ts

    retries = {"max_retries": _RETRIES, "initial_delay": "500ms", "max_delay": "16s"}
    spec = {"driver": "gcs", "bucket": bucket, "context": {"gcs_request_retries": retries}}
    return ts.KvStore.open(spec).result()


def read_record(path: os.PathLike[str] | str) -> Record:
    with told(path):
        found = _store(bucket_of(path)).read(_key(path)).result()
    return Record(found.value if found.state == "value" else None, found.stamp.generation)


def swap(path: os.PathLike[str] | str, content: bytes | None, generation: bytes) -> bytes | None:
    """Writes (None: deletes) the object if it is still at `generation`; its new one.

    None where somebody was faster, which may also be this very call, retried after its answer was
    lost: `content` should say who wrote it.
    """
    with told(path):
        made = _store(bucket_of(path)).write(_key(path), content, if_equal=generation).result()
    return made.generation or None


def age(path: GsPath) -> float | None:
    """Seconds since the object was written, by the bucket's own clock; None: there is none."""
    found = path._about()
    if found is None or found.get("mtime") is None:
        return None
    probe = path.with_name(f".clock-{uuid.uuid4().hex}")
    probe.write_bytes(b"")
    now = probe._about()
    probe.unlink(missing_ok=True)
    return None if now is None else (now["mtime"] - found["mtime"]).total_seconds()


# --- before long work --------------------------------------------------------------------------


def check_writable(folder: GsPath) -> None:
    """Writes and deletes a small object in `folder`, and looks at its bucket as Orbax will.

    Raises StorageError: no network, no such bucket, no permission.
    """
    _reachable(folder)
    trial = folder / f".probe-{uuid.uuid4().hex}"
    trial.write_bytes(b"jaxcomp looks whether it may write here")
    trial.unlink()
    try:
        with told(folder):
            files().call("GET", "b/{}", bucket_of(folder))
    except StorageError as error:
        raise StorageError(f"{error}; objects can be written, but checkpoints need to read the "
                           "bucket's settings too (storage.buckets.get)") from error  # fmt: skip


def check_readable(path: GsPath) -> None:
    """Raises StorageError where nothing below `path` may be listed, or there is no bucket."""
    _reachable(path)
    with told(path):
        try:
            files().call("GET", "b/{}/o", bucket_of(path), prefix=_key(path), maxResults=1)
        except FileNotFoundError as error:
            raise _no_bucket(path) from error


def _no_bucket(path: os.PathLike[str] | str) -> StorageError:
    bucket = bucket_of(path)
    return StorageError(
        f"{os.fspath(path)}: there is no bucket {bucket}; check the name, or make it with `gcloud "
        f"storage buckets create gs://{bucket} --location=REGION` in the region of the machines"
    )


def _reachable(path: os.PathLike[str] | str) -> None:
    """gcsfs would try for minutes; a name that cannot be looked up is known at once."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if getproxies().get("https"):
        return
    host = urlsplit(_host() if "//" in _host() else f"https://{_host()}")
    try:
        socket.create_connection((host.hostname or "", host.port or 443), _TO_THE_BUCKET).close()
    except OSError as error:
        raise _unreachable(path, str(error)) from error
