"""TFDS data sets, whose records are read on access."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np

from jaxcomp.config import DataConfig
from jaxcomp.data.documents import DataError, Documents, no_field
from jaxcomp.data.large import Group, Held, LargeDocuments

LARGE_RECORDS = 1 << 20  # of a TFDS set, above which it is known by its length alone
_RECORDS = 1024  # of one unit of such a set


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


def load(data: DataConfig) -> Documents | LargeDocuments:
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
    if len(texts) > LARGE_RECORDS:
        return _many_records(texts, name, fingerprint)
    return Documents(texts, None, None, None, fingerprint, in_memory=False)


class _Records:
    """`large.Reader` of a set whose every record can be read alone."""

    def __init__(self, texts: _TfdsTexts):
        self._texts = texts

    def texts(self, group: Group) -> Sequence[str]:
        return _Run(self._texts, group.first)

    def keys(self, group: Group) -> None:
        return None


class _Run(Sequence[str]):
    """`texts` from number `first` on."""

    def __init__(self, texts: _TfdsTexts, first: int):
        self._texts, self._first = texts, first

    def __len__(self) -> int:
        return len(self._texts) - self._first

    def __getitem__(self, i):
        return self._texts[self._first + i]


def _many_records(texts: _TfdsTexts, name: str, fingerprint: str) -> LargeDocuments:
    count = len(texts)
    groups = [
        # A byte each: nothing is held, so any order is as good to read as another.
        Group(name, i, min(_RECORDS, count - first), 1, first)
        for i, first in enumerate(range(0, count, _RECORDS))
    ]
    return LargeDocuments(groups, Held(_Records(texts), groups), fingerprint)
