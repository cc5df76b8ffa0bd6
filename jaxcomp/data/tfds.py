"""TFDS data sets, whose records are read on access."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.config import DataConfig
from jaxcomp.data.documents import DataError, Documents, no_field


class _TfdsTexts(Sequence[str]):
    def __init__(self, source, name: str, field: str):
        self._source, self._name, self._field = source, name, field

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i):
        value = self._source[i]
        if self._field not in value:
            raise no_field(self._name, f"record {i}", self._field, sorted(value))
        value = value[self._field]
        if isinstance(value, np.ndarray):
            value = value.item()
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._name}: record {i}: not UTF-8 at byte {error.start}"
                ) from error
        if not isinstance(value, str):
            raise DataError(f"{self._name}: record {i}: field {self._field!r} is "
                            f"{type(value).__name__}; expected text")  # fmt: skip
        return value


def load(data: DataConfig, options: Any = None) -> Documents:
    import tensorflow_datasets as tfds  # slow to import, and only this kind of source needs it

    name, where = data.tfds_name, os.path.expanduser(data.path) or None
    try:
        source = tfds.data_source(name, split=data.tfds_split, data_dir=where, download=False)
    except Exception as error:  # TFDS raises many unrelated types for an unprepared data set
        raise DataError(
            f"tfds data set {name!r}, split {data.tfds_split!r}, in data.path = {data.path!r}: "
            f"cannot be opened ({type(error).__name__}: {error}); prepare it with "
            'file_format="array_record" (the only format readable without tensorflow)'
        ) from error
    texts = _TfdsTexts(source, name, data.text_field)
    if not len(texts):
        raise DataError(f"tfds data set {name!r}: split {data.tfds_split!r} is empty")
    _ = texts[0]  # a wrong field fails now, not in the middle of training
    info = json.dumps([name, data.tfds_split, data.text_field, len(texts), texts[0][:1000]])
    fingerprint = hashlib.sha256(info.encode()).hexdigest()[:16]
    return Documents(texts, None, None, None, fingerprint, quick=False)
