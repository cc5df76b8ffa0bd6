"""The ledger of finished jobs: one JSON file per job, written atomically."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.evals import metric
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.paths import write_bytes
from jaxcomp.sweep import grid
from jaxcomp.training.identity import differences, of_sweep

DONE, FAILED = "done", "failed"
SWEEP = "sweep.json"  # of a sweep's workdir: what it belongs to
FIX = "delete it and run the sweep again"
Row = dict[str, Any]  # as `Ledger.write` makes it and `read` checks it


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OSError, StorageError."""
    write_bytes(path, text.encode())


class Ledger:
    """The rows of a sweep under `workdir/ledger/`."""

    def __init__(self, workdir: Path):
        self.workdir = paths.path(workdir)
        self.folder = self.workdir / "ledger"

    def check(self, cfg: Config) -> None:
        """Raises ConfigError if the workdir belongs to another config, or if a plugin is missing
        whose metrics its rows hold."""
        path = self.workdir / SWEEP
        if not path.exists():
            return
        found = differences(made_by(path)["identity"], _identity(cfg))
        if found:
            field, old, new = found[0]
            rest = len(found) - 1
            more = f" (and {rest} more field{'s' * (rest > 1)})" if rest else ""
            raise ConfigError(
                f"{self.workdir} was made by another config: {field} was {_short(old)}, now "
                f"{_short(new)}{more}; use the old config, or another --workdir (with "
                f"--reuse={self.workdir} to take over the jobs that are the same)"
            )
        names = {Path(name).name for name in cfg.plugins}
        gone = [x for x in made_by(path)["config"].get("plugins", ()) if Path(x).name not in names]
        lost = self._undeclared() if gone else []
        if lost:
            raise ConfigError(
                f"{path}: this sweep had --plugins={','.join(gone)}, which this command lacks, and "
                f"no plugin declares the column{'s' * (len(lost) > 1)} {', '.join(lost[:5])}; add "
                "it, or use another --workdir"
            )

    def _undeclared(self) -> list[str]:
        """Columns of held-out sets in finished rows that no metric declares."""
        rows = (read(path) for path in sorted(self.folder.glob("*.json")))
        found = {name for row in rows for name in row.get("metrics", {})}
        return sorted(x for x in found if metric.is_of_set(x) and not metric.is_declared(x))

    def open(self, cfg: Config) -> None:
        """Bind the workdir to `cfg`. Raises ConfigError if it belongs to another config."""
        self.check(cfg)
        hashes = {job.id: job.hash for job in grid.expand(cfg)}
        content = {"identity": _identity(cfg), "config": to_dict(cfg), "jobs": hashes}
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        path = self.workdir / SWEEP
        if not path.exists() or path.read_text() != text:
            write_text(path, text)

    def jobs(self, cfg: Config) -> list[grid.Job]:
        """The jobs of `cfg`, with the hashes that they had when the workdir was made: the data and
        the models may have moved since."""
        path = self.workdir / SWEEP
        kept = made_by(path)["jobs"] if path.is_file() else {}
        return [dataclasses.replace(j, hash=kept.get(j.id, j.hash)) for j in grid.expand(cfg)]

    def row(self, job: grid.Job) -> Row | None:
        """The job's row, done or failed, if it was made by the same config.

        Raises ConfigError for a damaged one.
        """
        path = self.folder / f"{job.id}.json"
        if not path.exists():
            return None
        row = read(path)
        check_size(str(path), row, job, FIX)
        return row if row["hash"] == job.hash else None

    def done(self, job: grid.Job) -> bool:
        row = self.row(job)
        return row is not None and row["status"] == DONE

    def write(self, job: grid.Job, status: str, **content: Any) -> None:
        row = {
            "id": job.id,
            "hash": job.hash,
            "status": status,
            "family": job.setup.family,
            "size": job.setup.size,
            "ratio": job.setup.ratio,
            "base_seed": job.base_seed,
            "seed": job.seed,
            "lr": job.config.train.optim.lr,
            "lr_multiple": job.lr_multiple,
            **content,
        }
        text = json.dumps(row, indent=1, sort_keys=True)
        write_text(self.folder / f"{job.id}.json", text + "\n")

    def reuse(self, found: Iterable[tuple[grid.Job, Row]]) -> int:
        """Take over rows (of `rows.finished`) of jobs that are not done here; returns how many."""
        count = 0
        for job, row in found:
            if not self.done(job):
                content = {k: row[k] for k in ("metrics", "intervals", "timings") if k in row}
                self.write(job, DONE, reused_from=row["reused_from"], **content)
                count += 1
        return count


def read(path: Path, fix: str = FIX) -> Row:
    """A row of a ledger. Raises ConfigError for a damaged one; `fix` says what to do then."""
    return renamed(check(strict_json.read(path, dict, ConfigError, fix), str(path), fix))


def renamed(row: Row) -> Row:
    """A checked row with today's names of metrics (`evals.metric.FORMER`)."""
    groups = {
        name: dict(sorted((metric.renamed(key), value) for key, value in row[name].items()))
        for name in ("metrics", "intervals")
        if name in row
    }
    return row | groups


def check(row: Row, where: str, fix: str) -> Row:
    """Return a row whose values are those of a row. Raises ConfigError for others."""

    def expect(fits: bool, name: str, value: Any, expected: str) -> None:
        if not fits:
            raise _damaged(where, name, value, expected, fix)

    status = row.get("status")
    for name in ("id", "hash", "status", *(["error"] if status == FAILED else [])):
        expect(isinstance(row.get(name), str), name, row.get(name), "text")
    expect(status in (DONE, FAILED), "status", status, f"{DONE} or {FAILED}")
    for name, fits, expected in _NUMBERS if status == DONE else ():
        group = row.get(name, None if name == "metrics" else {})
        expect(isinstance(group, dict), name, group, "an object")
        for key, value in group.items():
            expect(fits(value), f"{name}.{key}", value, expected)
    return row


def check_size(where: str, row: Row, job: grid.Job, fix: str) -> None:
    """A size is placed by its parameters in every table; a rate that diverged has no numbers."""
    params = row["metrics"].get("params") if row["status"] == DONE else 0
    if job.recipe and not _is_number(params):
        raise _damaged(where, "metrics.params", params, "a number", fix)


def made_by(path: Path) -> dict[str, Any]:
    """What sweep.json says: identity, config and jobs (id -> hash). Raises ConfigError."""
    content = {"jobs": {}} | strict_json.read(path, dict, ConfigError, FIX)
    for name in ("identity", "config", "jobs"):
        if not isinstance(content.get(name), dict):
            raise _damaged(str(path), name, content.get(name), "an object", FIX)
    return content


def _damaged(where: str, name: str, value: Any, expected: str, fix: str) -> ConfigError:
    return ConfigError(f"{where}: {name} = {_short(value)}, expected {expected}; {fix}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


_NUMBERS = (
    ("metrics", lambda value: value is None or _is_number(value), "a finite number or null"),
    ("intervals", _is_interval, "two finite numbers"),
    ("timings", _is_number, "a finite number"),
)


def _identity(cfg: Config) -> dict[str, Any]:
    """Through JSON, so that tuples and lists compare equal."""
    return json.loads(json.dumps(of_sweep(cfg)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
