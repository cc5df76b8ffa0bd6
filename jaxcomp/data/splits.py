"""Which documents are for training, validation and test, so that no held-out work was trained on.

A work's documents stay together. Where the data names works, or has many sources, whole works or
sources are held out by a hash. Where documents are numbered pieces of longer works (ids such as
"sotu-17"), one stretch of consecutive numbers of each source is held out, and documents near its
borders, which may belong to a work that straddles it, are used nowhere. Held-out documents that
share much wording with training documents (another edition, a quotation) are dropped as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcomp.config import DataConfig
from jaxcomp.data import phases
from jaxcomp.data.documents import MANY_SOURCES, Columns, DataError, Documents
from jaxcomp.data.large import LargeDocuments, too_few
from jaxcomp.data.readers import files_of, fingerprint
from jaxcomp.data.sources import load_documents
from jaxcomp.runtime.cache import cache_dir, read_json, write_atomically

SHARE = 0.05  # of the documents, for validation and for test each
BORDER = 16  # documents of a held-out stretch dropped at either end (at most an eighth of it)
SHINGLE = 7  # words; compared by their consonants, so that old and new spelling agree
OVERLAP = 0.1  # a held-out document with a larger share of shingles seen in training is dropped
RULE = "split2"  # by what stands before the number of an id; rows without ids by their place
_CHECKED = 200_000  # documents; beyond it the wording is not compared (it would take minutes)

Split = dict[str, np.ndarray]


def split_documents(
    docs: Documents | LargeDocuments, seed: int = 0
) -> Mapping[str, Documents | LargeDocuments]:
    """{"train", "val", "test"} -> documents; a function of the data and the seed only.

    Of a large set whole works, sources or runs of rows are held out by a hash; its wording is not
    compared, for that would read all of it.

    Raises:
      DataError: too few documents (or works) to hold any out.
    """
    if isinstance(docs, LargeDocuments):
        found = docs.split(functools.partial(_hash, seed), SHARE, BORDER)
        if not all(map(len, found.values())):
            raise too_few(docs, found)
        return found
    if split_otherwise(docs, seed):
        docs = docs.view(docs.rows)
        docs.fingerprint = hashlib.sha256(f"{docs.fingerprint}-{RULE}".encode()).hexdigest()[:16]
    return {name: docs.view(rows) for name, rows in split_rows(docs, seed).items()}


def split_rows(docs: Documents, seed: int) -> Split:
    """Row numbers of each split, ascending and disjoint."""
    groups = _groups(_columns(docs), len(docs), seed)
    rows = {name: np.sort(np.asarray(found, np.int64)) for name, found in groups.items()}
    if docs.in_memory and len(docs) <= _CHECKED:
        rows = _without_overlap(docs, rows, seed)
    if min(len(r) for r in rows.values()) == 0:
        found = ", ".join(f"{name} {len(r)}" for name, r in rows.items())
        raise DataError(
            f"{len(docs)} document(s) cannot be split into unseen works ({found}); expected at "
            "least some dozens of documents, or a 'work' or 'source' field with several values"
        )
    return rows


def rule_of(data: DataConfig) -> str:
    """What the identity of a sweep names beside the files of text: `RULE` where it changes what is
    held out of them, else "". Remembered in the cache, so that a finished sweep reads no text."""
    files = files_of(data.path)
    return RULE if _ruled(data, fingerprint(files, data.text_field)) else ""


@functools.lru_cache(maxsize=8)
def _ruled(data: DataConfig, known: str) -> bool:
    file = cache_dir() / "splits" / f"{RULE}-{known}-{data.seed}.json"
    found = read_json(file, bool)
    if found is None:
        docs = load_documents(data)
        found = isinstance(docs, Documents) and split_otherwise(docs, data.seed)
        write_atomically(file, json.dumps(found).encode())
    return found


def split_otherwise(docs: Documents, seed: int) -> bool:
    """Whether versions before `RULE` held out other rows of these documents: a run's identity must
    then be another one too, and only then."""
    if docs.former is None:
        return False
    before = _groups(docs.former, len(docs), seed, by_prefix=False)
    return before != _groups(_columns(docs), len(docs), seed)


def _columns(docs: Documents) -> Columns:
    _, ids, sources, works = docs.columns
    # Places restart in every file: here rows are numbered through.
    return (list(map(str, range(len(docs)))) if docs.names_are_places else ids), sources, works


def _groups(
    columns: Columns, count: int, seed: int, by_prefix: bool = True
) -> dict[str, list[int]]:
    ids, sources, works = columns
    if works and all(works):
        return _buckets([f"{s}\0{w}" for s, w in zip(sources or works, works, strict=True)], seed)
    if sources and len(set(sources)) >= MANY_SOURCES:
        return _buckets(sources, seed)
    if not ids:
        return _buckets([str(i) for i in range(count)], seed)
    matches = [re.fullmatch(r"(.*?)(\d+)", name) for name in ids]
    parts = [(match[1], int(match[2])) for match in matches if match and len(match[2]) <= 12]
    if len(parts) < len(ids):
        return _buckets(ids, seed)
    names = [prefix for prefix, _ in parts] if sources is None else sources
    numbered = _numbered(names, parts)
    if numbered is None and by_prefix and sources is not None:
        # Numbers of a source repeat: what stands before them in the ids names its works.
        names = [s + prefix for s, (prefix, _) in zip(sources, parts, strict=True)]
        numbered = _numbered(names, parts)
        if numbered is not None and len(numbered) >= MANY_SOURCES:
            return _buckets(names, seed)
    if numbered is None:
        return _buckets(ids, seed)
    found = _stretches(numbered, seed)
    if by_prefix and not (found["test"] and found["val"]):  # all are too short to have stretches
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


def _without_overlap(docs: Documents, rows: Split, seed: int) -> Split:
    rules = [docs.fingerprint, seed, SHARE, BORDER, SHINGLE, OVERLAP]
    key = hashlib.sha256(json.dumps([*rules, _ONLY_CONSONANTS.pattern]).encode()).hexdigest()[:16]
    file = cache_dir() / "splits" / f"{key}.json"
    found = read_json(file, list)
    held = np.concatenate([rows["val"], rows["test"]])
    if found is None or not np.isin(found, held).all():
        found = sorted(_overlapping(docs, rows))
        write_atomically(file, json.dumps(found).encode())
    dropped = set(found)
    kept = {n: rows[n][~np.isin(rows[n], sorted(dropped))] for n in ("val", "test")}
    if dropped:
        logging.getLogger(__name__).info(
            "%d held-out documents share wording with training documents and are not used",
            len(dropped),
        )
    return {"train": rows["train"], **kept}


def _overlapping(docs: Documents, rows: Split) -> set[int]:
    """Held-out rows of whose shingles a share above OVERLAP stands in training documents."""
    held = {int(r): _shingles(docs.columns[0][r]) for n in ("val", "test") for r in rows[n]}
    wanted = set().union(*held.values()) if held else set()
    seen: set[int] = set()
    count = len(rows["train"])
    with phases.phase("comparing held-out with training documents", count, "documents") as progress:
        for progress.done, row in enumerate(rows["train"]):
            seen |= wanted & _shingles(docs.columns[0][row])
    return {r for r, own in held.items() if own and len(own & seen) > OVERLAP * len(own)}


_ONLY_CONSONANTS = re.compile(r"[^bcdfghklmnpqrstxz ]+")


def _shingles(text) -> set[int]:
    text = text if isinstance(text, str) else text.as_py()
    words = _ONLY_CONSONANTS.sub("", re.sub(r"[^a-z]+", " ", text.lower())).split()
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)}
