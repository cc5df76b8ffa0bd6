"""Cloud Storage for `etils.epath` over gcsfs, without TensorFlow.

`GsPath` is `epath.Path` of gs://, also for Orbax, once this module is imported; below it lies one
file system for fsspec, pyarrow and epath alike. Imported only for a path that begins with gs://.
"""

from __future__ import annotations

import logging
import os
import posixpath
import uuid
from typing import Any

import fsspec
from etils import epath
from etils.epath.gpath import PosixGPath
from fsspec import asyn
from gcsfs.core import GCSFileSystem

from jaxcomp.runtime import network
from jaxcomp.runtime.errors import StorageError

_TIMEOUT_S = 120.0  # of one request; gcsfs tries six times
_ROLES = "roles/storage.objectAdmin and roles/storage.bucketViewer"

os.environ.setdefault("EPATH_USE_TF", "false")
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its errors are raised as well


class _Files(GCSFileSystem):
    """gcsfs whose errors are one StorageError, and whose folders can be made.

    A missing object stays FileNotFoundError. Nothing is remembered of what a folder holds, since
    other machines write to it.
    """

    def __init__(self, *args: Any, **options: Any):
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"  # an emulator knows no accounts
        options |= {"use_listings_cache": False, "requests_timeout": _TIMEOUT_S}
        super().__init__(*args, **options)

    async def _call(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        try:
            return await super()._call(method, path, *args, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            # b/BUCKET/o/KEY, or https://.../b/BUCKET/o
            bucket = f"/{path.format(*args)}".partition("/b/")[2].split("/")[0]
            raise explained(f"gs://{bucket}", error) from error

    call = asyn.sync_wrapper(_call)

    async def _exists(self, path: str, **options: Any) -> bool:
        try:  # fsspec's own takes any error for "no"
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    async def _ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        found = await super()._ls(path, detail=True, **options)
        own = str(self._strip_protocol(path)).rstrip("/")  # a folder's own object is no part of it
        found = [e for e in found if (e["type"], e["name"].rstrip("/")) != ("directory", own)]
        return found if detail else [e["name"] for e in found]

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Writes the empty object "key/", as the console does: Orbax makes a folder and then looks
        whether it is there."""
        if not await self._exists(path):
            await self._pipe_file(f"{path.rstrip('/')}/", b"")
        elif not exist_ok:
            raise FileExistsError(f"{path} exists already")

    async def _mkdir(self, path: str, **options: Any) -> None:
        await self._makedirs(path, exist_ok=True)

    mkdir = asyn.sync_wrapper(_mkdir)


for _name in ("gs", "gcs"):
    fsspec.register_implementation(_name, _Files, clobber=True)


def files() -> Any:
    """The gcsfs file system; looks for credentials when it is first made."""
    return fsspec.filesystem("gcs")


@epath.register_path_cls("gs://")
class GsPath(PosixGPath):
    """gs://bucket/key."""

    def resolve(self, strict: bool = False) -> GsPath:
        return type(self)("gs://" + posixpath.normpath(str(self).removeprefix("gs://")))


def check(place: str | os.PathLike[str], write: bool = False) -> None:
    """Raises StorageError where the bucket of `place` cannot be listed or, with `write`, a small
    object be written and deleted, and the bucket's settings be read, as Orbax will."""
    folder, bucket = os.fspath(place).rstrip("/"), _bucket(place)
    server = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    if not network.reachable(server):
        raise explained(place, ConnectionError(f"{server} does not answer"))
    try:
        files().call("GET", "b/{}/o", bucket, maxResults=1)
        if write:
            trial = f"{folder}/.probe-{uuid.uuid4().hex}"
            files().pipe_file(trial, b"")
            files().rm_file(trial)
            files().call("GET", "b/{}", bucket)
    except FileNotFoundError as error:
        raise explained(place, error) from error


def _bucket(place: str | os.PathLike[str]) -> str:
    return os.fspath(place).removeprefix("gs://").split("/")[0]


def explained(place: str | os.PathLike[str], error: BaseException) -> StorageError:
    """The StorageError for what gcsfs, the network or the credentials said of `place`."""
    name, bucket = os.fspath(place), _bucket(place)
    said = " ".join(str(error).split())[:240] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return StorageError(
            f"{name}: there is no bucket {bucket}; check the name, or make it with `gcloud storage "
            f"buckets create gs://{bucket} --location=REGION` in the region of the machines"
        )
    if "Forbidden" in said or getattr(error, "code", None) == 403:
        return StorageError(
            f"{name}: no permission in the bucket {bucket}; give this account {_ROLES} on it "
            f"({said})"
        )
    if type(error).__module__.startswith("google.auth") or getattr(error, "code", None) == 401:
        return StorageError(
            f"{name}: the bucket {bucket} refuses this machine's credentials; log in with `gcloud "
            f"auth application-default login`, and have the account given {_ROLES} ({said})"
        )
    return StorageError(
        f"{name}: the bucket {bucket} cannot be used ({type(error).__name__}: {said}); check this "
        "machine's network (on a VM without an external address: Private Google Access), and run "
        "the same command again"
    )
