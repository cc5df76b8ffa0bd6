"""Orbax's settings, and its log messages."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils.epath.gpath import PosixGPath

from jaxcomp.runtime import paths

# What Orbax raises of a checkpoint that is damaged.
DAMAGED = (ValueError, KeyError, OSError, TypeError, AttributeError)
_FULL = "No space left on device"
_SPEC = " [tensorstore_spec"
_MOST = 200  # characters of an error
_LOOK_S = 2.0
_NEVER = r"coroutine '(_read_array|async_serialize|Store\.)\S* was never awaited"
_LATE = re.compile(rf"Event loop is closed|TensorStore details|{_NEVER}")


def folder_for(folder: Path) -> Any:
    """`folder` as Orbax takes it."""
    return str(folder) if paths.is_remote(folder) else _Literal(folder)


class _Literal(PosixGPath):
    """A folder whose name may hold what a glob reads as a pattern: Orbax looks for the files it
    wrote with one, and would not find them in `runs/a[b]c`."""

    def glob(self, pattern: str) -> Iterator[_Literal]:
        return map(type(self), Path(self).glob(pattern))


def brief(error: Exception) -> str:
    """An error of Orbax without the settings of its storage, which fill pages."""
    text = " ".join(str(error).split())
    if _FULL in text:
        return _FULL
    text = text.partition(_SPEC)[0].partition(" [source locations")[0]
    return f"{type(error).__name__}: {text[:_MOST] + '...' if len(text) > _MOST else text}"


def result(pending: Any) -> None:
    """Waits for a save that was started. Raises what it failed of: of several processes the one
    whose save fails would wait ten minutes for the others, but Orbax logs its error at once."""
    while True:
        began = time.monotonic()
        try:
            pending.result(timeout=_LOOK_S)
            return
        except TimeoutError:
            if time.monotonic() - began < _LOOK_S:  # not ours
                raise
            if _failures:
                raise _failures[0] from None


_failures: list[BaseException] = []  # of the save that is under way


def starting() -> None:
    """Call it before a save is started."""
    _failures.clear()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs the traceback of a failed save in each of its threads, and raises the same."""
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(error.__traceback__) if error else []
    places = [record.pathname, *(frame.filename for frame in frames)]
    own = any("/orbax/" in name for name in places) or _SPEC in str(error)
    if own and error is not None:
        _failures.append(error)
    return not own


def _unraisable(found: Any, say: Any = sys.unraisablehook) -> None:
    """Other reads and writes end after the first one failed, when nobody waits for them."""
    file = getattr(getattr(found.object, "cr_code", None), "co_filename", "")
    if "/orbax/" not in file and not _LATE.search(str(found.exc_value)):
        say(found)


sys.unraisablehook = _unraisable
warnings.filterwarnings("ignore", _NEVER, RuntimeWarning)
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_not_of_orbax)
