"""Named arrays to and from bytes."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

# What NumPy and zipfile raise of damaged bytes: NotImplementedError where the damage reads as a
# method of compression that zipfile does not know.
_DAMAGE = (
    OSError, TypeError, EOFError, LookupError, NotImplementedError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    """Raises ValueError for what is damaged."""
    try:
        with np.load(io.BytesIO(content)) as found:
            return dict(found)
    except _DAMAGE as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
