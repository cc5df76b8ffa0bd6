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
        record, where = self._source[i], f"{self._name}: record {i}"
        if self._field not in record:
            raise no_field(self._name, f"record {i}", self._field, sorted(record))
        value = record[self._field]
        value = value.item() if isinstance(value, np.ndarray) else value
        if not isinstance(value, bytes | str):
            raise DataError(
                f"{where}: field {self._field!r} is {type(value).__name__}; expected text"
            )
        try:
            return value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 at byte {error.start}") from error


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
