"""Training, validation and test splits that keep works whole and drop near-duplicates.

A work's documents stay together. Where the data names works, or has many sources, whole works or
sources are held out by a hash. Where documents are numbered pieces of longer works (ids such as
"sotu-17"), one stretch of consecutive numbers of each source is held out, and documents near its
borders, which may belong to a work that straddles it, are used nowhere. Held-out documents that
share much wording with training documents (another edition, a quotation) are dropped as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcomp.data.documents import MANY_SOURCES, DataError, Documents, str_at
from jaxcomp.data.npz import packed, unpacked
from jaxcomp.runtime import live
from jaxcomp.runtime.cache import cache_dir, damaged, write_atomically

SHARE = 0.05  # of the documents, for validation and for test each
BORDER = 16  # documents of a held-out stretch dropped at either end (at most an eighth of it)
SHINGLE = 7  # words; compared by their consonants, so that old and new spelling agree
OVERLAP = 0.1  # a held-out document with a larger share of shingles seen in training is dropped
_CHECKED = 200_000  # documents; beyond it the wording is not compared (it would take minutes)
_RULE = 3  # of the cached splits: another number after a change of this module

Split = dict[str, np.ndarray]


def split_documents(docs: Documents, seed: int = 0) -> Mapping[str, Documents]:
    """{"train", "val", "test"} -> documents; a function of the data and the seed only.

    Raises:
      DataError: too few documents (or works) to hold any out.
    """
    return {name: docs.view(rows) for name, rows in split_rows(docs, seed).items()}


def split_rows(docs: Documents, seed: int) -> Split:
    """Row numbers of each split, ascending and disjoint; found once, and kept in the cache."""
    rules = [docs.fingerprint, len(docs), seed, SHARE, BORDER, SHINGLE, OVERLAP, MANY_SOURCES]
    key = hashlib.sha256(json.dumps([*rules, _CHECKED, _RULE]).encode()).hexdigest()[:16]
    file = cache_dir() / "splits" / f"{key}.npz"
    try:
        return unpacked(file.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        damaged(file, error)
    groups = _groups(docs, seed)
    rows = {name: np.sort(np.asarray(found, np.int64)) for name, found in groups.items()}
    if docs.quick and len(docs) <= _CHECKED:
        rows = _without_overlap(docs, rows)
    if min(len(r) for r in rows.values()) == 0:
        found = ", ".join(f"{name} {len(r)}" for name, r in rows.items())
        raise DataError(
            f"{len(docs)} document(s) cannot be split into unseen works ({found}); expected at "
            "least some dozens of documents, or a 'work' or 'source' field with several values"
        )
    write_atomically(file, packed(rows))
    return rows


def _list(column: Any) -> Sequence[str] | None:
    return column.to_pylist() if hasattr(column, "to_pylist") else column


def _groups(docs: Documents, seed: int) -> dict[str, list[int]]:
    ids, sources, works = map(_list, (docs.ids, docs.sources, docs.works))
    # Places restart in every file: here rows are numbered through.
    rows = list(map(str, range(len(docs))))
    ids = rows if docs.names_are_places else ids
    if works and all(works):
        return _buckets([f"{s}\0{w}" for s, w in zip(sources or works, works, strict=True)], seed)
    if sources and len(set(sources)) >= MANY_SOURCES:
        return _buckets(sources, seed)
    if not ids:
        return _buckets(rows, seed)
    matches = [re.fullmatch(r"(.*?)(\d+)", name) for name in ids]
    parts = [(match[1], int(match[2])) for match in matches if match and len(match[2]) <= 12]
    if len(parts) < len(ids):
        return _buckets(ids, seed)
    names = [prefix for prefix, _ in parts] if sources is None else sources
    numbered = _numbered(names, parts)
    if numbered is None and sources is not None:
        # Numbers of a source repeat: what stands before them in the ids names its works.
        names = [s + prefix for s, (prefix, _) in zip(sources, parts, strict=True)]
        numbered = _numbered(names, parts)
        if numbered is not None and len(numbered) >= MANY_SOURCES:
            return _buckets(names, seed)
    if numbered is None:
        return _buckets(ids, seed)
    found = _stretches(numbered, seed)
    if not (found["test"] and found["val"]):  # all are too short to have stretches
        return _buckets(names, seed)
    return found


def _hash(*parts: object) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _buckets(keys: Sequence[str], seed: int) -> dict[str, list[int]]:
    """Rows of one key together, by its hash."""
    place = {key: _hash(seed, key) for key in set(keys)}
    test = {k for k, at in place.items() if at < SHARE}
    val = {k for k, at in place.items() if SHARE <= at < 2 * SHARE}
    if not test or not val:
        # So few works that chance may leave a split without any: take the lowest by hash instead.
        ranked = sorted(place, key=lambda k: (place[k], k))
        test, val = set(ranked[:1]), set(ranked[1:2])
    out: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, key in enumerate(keys):
        out["test" if key in test else "val" if key in val else "train"].append(row)
    return out


def _stretches(numbered: dict[str, list[tuple[int, int]]], seed: int) -> dict[str, list[int]]:
    """One stretch of each source's (number, row) for test and one for validation."""
    out: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for source, pieces in numbered.items():
        order = [row for _, row in sorted(pieces)]
        held = max(1, round(SHARE * len(order)))
        half = len(order) // 2
        start = int(_hash(seed, source) * max(1, half - held + 1))
        out["train"] += order
        if len(order) < 3:
            continue
        border = min(BORDER, held // 8)
        stretches = {"test": start, "val": start + half}
        for name, at in stretches.items():
            out[name] += order[at + border : at + held - border]
        gone = {r for at in stretches.values() for r in order[at : at + held]}
        out["train"] = [r for r in out["train"] if r not in gone]
    return out


def _numbered(
    names: Sequence[str], parts: list[tuple[str, int]]
) -> dict[str, list[tuple[int, int]]] | None:
    """(number, row) of the rows of each name; None where a number comes twice."""
    out: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, (name, (_, number)) in enumerate(zip(names, parts, strict=True)):
        out[name].append((number, row))
    if any(len({n for n, _ in pieces}) < len(pieces) for pieces in out.values()):
        return None
    return out


def _without_overlap(docs: Documents, rows: Split) -> Split:
    dropped = sorted(_overlapping(docs, rows))
    if dropped:
        logging.getLogger(__name__).info(
            "%d held-out documents share wording with training documents and are not used",
            len(dropped),
        )
    kept = {n: rows[n][~np.isin(rows[n], dropped)] for n in ("val", "test")}
    return {"train": rows["train"], **kept}


def _overlapping(docs: Documents, rows: Split) -> set[int]:
    """Held-out rows of whose shingles a share above OVERLAP stands in training documents."""
    held = {int(r): _shingles(str_at(docs.texts, r)) for n in ("val", "test") for r in rows[n]}
    wanted = set().union(*held.values()) if held else set()
    seen: set[int] = set()
    count = len(rows["train"])
    with live.phase("comparing held-out with training documents", count, "documents") as progress:
        for progress.done, row in enumerate(rows["train"]):
            seen |= wanted & _shingles(str_at(docs.texts, row))
    return {r for r, own in held.items() if own and len(own & seen) > OVERLAP * len(own)}


class _Consonants(dict[int, str]):
    """A table for `str.translate`: what is no letter of a to z parts words."""

    def __missing__(self, code: int) -> str:
        return self.setdefault(code, " ")


_CONSONANTS = _Consonants(
    {ord(c): c for c in "bcdfghklmnpqrstxz"} | {ord(c): "" for c in "aeijouvwy"}
)


def _shingles(text: str) -> set[int]:
    words = text.lower().translate(_CONSONANTS).split()
    return set(map(hash, zip(*(words[i:] for i in range(SHINGLE)), strict=False)))
