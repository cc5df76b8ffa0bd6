"""What is finished: one JSON file a job, written whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxcomp import storage
from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.sweep import grid

DONE, FAILED = "done", "failed"


class DiskFullError(RuntimeError):
    """Nothing more can be written; what is finished is kept."""


def disk_full(path: Path | str) -> DiskFullError:
    return DiskFullError(
        f"the disk that holds {path} is full: free some space and run the same command again; "
        "finished jobs are kept"
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises DiskFullError."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises DiskFullError."""
    try:
        storage.write_bytes(path, content)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path.parent) from e
        raise


class Ledger:
    """The rows of a sweep under `workdir/ledger/`."""

    def __init__(self, workdir: Path):
        self.workdir = storage.path(workdir)
        self.folder = self.workdir / "ledger"

    def check(self, cfg: Config) -> None:
        """Raises ConfigError if the workdir belongs to another config."""
        path = self.workdir / "sweep.json"
        if not path.exists():
            return
        found = grid.differences(read(path)["identity"], _identity(cfg))
        if found:
            field, old, new = found[0]
            more = f" (and {len(found) - 1} more fields)" if len(found) > 1 else ""
            raise ConfigError(
                f"{self.workdir} was made by another config: {field} was {_short(old)}, now "
                f"{_short(new)}{more}; use the old config, or another --workdir (with "
                f"--reuse={self.workdir} to take over the jobs that are the same)"
            )

    def open(self, cfg: Config) -> None:
        """Bind the workdir to `cfg`. Raises ConfigError if it belongs to another config."""
        self.check(cfg)
        hashes = {job.id: job.hash for job in grid.expand(cfg)}
        made_by = {"identity": _identity(cfg), "config": to_dict(cfg), "jobs": hashes}
        text = json.dumps(made_by, indent=1, sort_keys=True) + "\n"
        path = self.workdir / "sweep.json"
        if not path.exists() or path.read_text() != text:
            write_text(path, text)

    def jobs(self, cfg: Config) -> list[grid.Job]:
        """The jobs of `cfg`, with the hashes that they had when the workdir was made.

        So a report needs neither the data nor the models: these may have moved since.
        """
        path = self.workdir / "sweep.json"
        kept = read(path).get("jobs", {}) if path.is_file() else {}
        return [dataclasses.replace(j, hash=kept.get(j.id, j.hash)) for j in grid.expand(cfg)]

    def row(self, job: grid.Job) -> dict[str, Any] | None:
        """The job's row, done or failed, if it was made by the same config."""
        path = self.folder / f"{job.id}.json"
        if not path.exists():
            return None
        row = read(path)
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

    def reuse(self, jobs: Iterable[grid.Job], folders: Iterable[Path]) -> int:
        """Take over finished rows with the same config hash from other workdirs or ledgers."""
        wanted = {job.hash: job for job in jobs if not self.done(job)}
        count = 0
        for folder in folders:
            own = (folder / "ledger").is_dir()
            ledger = folder / "ledger" if own else folder
            rows = [row for row in map(read, sorted(ledger.glob("*.json"))) if "hash" in row]
            if not rows and not own:
                raise ConfigError(
                    f"--reuse={folder}: holds no ledger; expected a sweep's workdir or its ledger"
                )
            for row in rows:
                job = wanted.get(row["hash"])
                if row["status"] == DONE and job is not None:
                    content = {k: row[k] for k in ("metrics", "intervals", "timings") if k in row}
                    self.write(job, DONE, reused_from=folder.name, **content)
                    del wanted[row["hash"]]
                    count += 1
        return count


def read(path: Path) -> dict[str, Any]:
    """A JSON file. Raises ConfigError that names the file where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ConfigError(f"{path}: not JSON ({e}); delete it and run the same command") from e


def _identity(cfg: Config) -> dict[str, Any]:
    """Through JSON, so that tuples and lists compare equal."""
    return json.loads(json.dumps(grid.sweep_identity(cfg)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
