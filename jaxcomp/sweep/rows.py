"""Finished jobs of other sweeps, and the Parquet table that publishes them.

A row of the table is the row of a ledger. Its values are columns: `hash`, `family`, `ratio`, ...,
`metrics/NAME`, `timings/NAME`, and `intervals/NAME` as [low, high]. A value that its column's type
cannot hold (null, a whole number among floats) is in the column `rest`, as JSON. So `read` returns
the very rows that `write` was given.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.config import ConfigError
from jaxcomp.runtime import strict_json
from jaxcomp.sweep import grid, store
from jaxcomp.sweep.store import Row

NAME = "rows.parquet"  # in a sweep's report
VERSION = "1"
_VERSION, _DIGEST = "jaxcomp_rows", "sha256"
_REST = "rest"
_GROUPS = ("metrics", "intervals", "timings")
_FIX = "restore it, or make it again with `jaxcomp report`"


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows of ledgers as one table; equal rows give equal bytes.

    Raises DiskFullError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {float: pa.float64(), int: pa.int64(), str: pa.string(), list: pa.list_(pa.float64())}
    cells = [_cells(row) for row in rows]
    columns: dict[str, pa.Array] = {}
    for name in sorted({name for row in cells for name in row}):
        values = [row.get(name) for row in cells]
        kind = next((k for k in types if any(_fits(v, k) for v in values)), None)
        if kind is not None:
            kept = [row.pop(name) if _fits(row.get(name), kind) else None for row in cells]
            columns[name] = pa.array(kept, types[kind])
    rest = [json.dumps(row, sort_keys=True) if row else None for row in cells]
    columns[_REST] = pa.array(rest, pa.string())
    table, content = pa.table(columns), io.BytesIO()
    with pq.ParquetWriter(
        content,
        table.schema,
        compression="zstd",
        compression_level=19,
        # With hundreds of columns and few rows these would be half of the file.
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_VERSION: VERSION, _DIGEST: _digest(rows)})
    store.write_bytes(path, content.getvalue())


def read(path: Path) -> list[Row]:
    """The rows of a table, with keys in the order of a ledger's file.

    Raises ConfigError: damaged, another version, or not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = path.read_bytes()
    try:
        found = pq.read_schema(pa.BufferReader(content)).metadata or {}
        marks = {key.decode(): value.decode() for key, value in found.items()}
        if _DIGEST not in marks:
            raise ConfigError(
                f"{path}: no table of finished jobs; expected {NAME} of a sweep's report"
            )
        if marks.get(_VERSION) != VERSION:
            raise ConfigError(
                f"{path}: a table of version {marks.get(_VERSION)}, expected {VERSION}; "
                "use the jaxcomp that made it"
            )
        table = pq.read_table(pa.BufferReader(content))
        rows = [_row(cells, str(path)) for cells in table.to_pylist()]
        whole = _digest(rows) == marks[_DIGEST]
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: damaged ({first}); {_FIX}") from error
    if not whole:
        raise ConfigError(f"{path}: damaged (other rows than were written); {_FIX}")
    return rows


def finished(jobs: Iterable[grid.Job], places: Iterable[Path]) -> list[tuple[grid.Job, Row]]:
    """Those of `jobs` (by config hash) that are finished in other workdirs, or in tables of rows.

    Raises ConfigError for a place that holds neither, and for a damaged row.
    """
    wanted = {job.hash: job for job in jobs}
    found: list[tuple[grid.Job, Row]] = []
    for place in places:
        for where, row, fix in _rows_of(place):
            if row["status"] == store.DONE and row["hash"] in wanted:
                job = wanted[row["hash"]]
                store.check_size(where, row, job, fix)
                found.append((job, row))
    return found


def _rows_of(place: Path) -> Iterator[tuple[str, Row, str]]:
    """(name for errors, row, what to do where it is damaged) of a workdir, table or folder of
    tables."""
    if (place / "ledger").is_dir():
        fix = "remove it from there, and its job is run again"
        for path in sorted((place / "ledger").glob("*.json")):
            yield str(path), store.read(path, fix) | {"reused_from": place.name}, fix
        return
    tables = [place] if place.is_file() else sorted(place.glob("*.parquet"))
    if not tables:
        raise ConfigError(
            f"--reuse={place}: holds no ledger and no table of finished jobs; expected a sweep's "
            f"workdir, a {NAME} of its report, or a folder of such tables"
        )
    for path in tables:
        for number, row in enumerate(read(path)):
            where = f"{path}: row {number}"
            row = store.renamed(store.check(row, where, _FIX))
            yield where, row | {"reused_from": row.get("sweep", path.stem)}, _FIX


def _cells(row: Row) -> dict[str, Any]:
    """The values of a row by column."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if key in _GROUPS and value and isinstance(value, dict):
            cells |= {f"{key}/{name}": inner for name, inner in value.items()}
        else:
            cells[key] = value
    return cells


def _row(cells: dict[str, Any], what: str) -> Row:
    """The row of which these are the cells."""
    rest = strict_json.parse(cells.pop(_REST) or "{}", what, dict)
    row: Row = {}
    for name, value in sorted((rest | {k: v for k, v in cells.items() if v is not None}).items()):
        group, mark, inner = name.partition("/")
        if mark and group in _GROUPS:
            row.setdefault(group, {})[inner] = value
        else:
            row[name] = value
    return row


def _fits(value: Any, kind: type) -> bool:
    """Does a column of this type return the value as it is?"""
    if kind is list:
        return type(value) is list and [type(x) for x in value] == [float, float]
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
