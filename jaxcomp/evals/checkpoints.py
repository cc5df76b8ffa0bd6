"""Evaluation along the saved checkpoints of a run.

Each checkpoint is measured as the finished run is (`evals.evaluate`), and its row is on the disk
before the next one begins, so that a stopped command goes on where it stopped. How many checkpoints
a run keeps is `train.keep_checkpoints`, how often it saves one `train.checkpoint_every`; neither
changes its result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxcomp.config import Config, to_dict
from jaxcomp.evals.bootstrap import counted, finite
from jaxcomp.evals.evaluate import evaluate
from jaxcomp.evals.metrics import endpoints
from jaxcomp.evals.versions import EVALUATION
from jaxcomp.inference.load import open_run
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.checkpoint import saved_steps
from jaxcomp.training.compressor import load_run, tokenizers
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import CheckpointError, open_manifest
from jaxcomp.training.metrics import duration

ROWS = "trajectory.jsonl"
Say = Callable[[str], None]
More = Callable[[Path, int], dict[str, Any]]  # (run, step) -> further numbers by name


class Row(NamedTuple):
    """One checkpoint. `metrics`: the metrics page; `passages`: what each passage gives to the
    primary endpoint, (kept, slots), in the order of the set."""

    step: int
    metrics: dict[str, Any]
    passages: list[tuple[float, float]]


class Followed(NamedTuple):
    """A run and its rows by step; `made` of them were measured now. `moved`: what `open_run` is to
    be given for base models that have moved."""

    place: Path
    cfg: Config
    rows: list[Row]
    made: int
    moved: Mapping[str, str] = MappingProxyType({})


def follow(
    place: str | Path, *, more: More | None = None, say: Say | None = None, **moved: str
) -> Followed:
    """Measures every saved checkpoint of the finished run in `place` that has no row yet, and keeps
    the rows in its trajectory.jsonl. `more` adds numbers of its own to every row. `moved`: as in
    `open_run`.

    Raises:
        ExportError, CheckpointError: `place` is no finished run, holds a single checkpoint, or its
            rows are of another run; what `evaluate` raises.
    """
    say = say or (lambda text: None)
    place = paths.path(place)
    cfg, root = open_run(place, **moved)
    steps = saved_steps(place)
    if len(steps) < 2:
        raise CheckpointError(
            f"{place}: {len(steps)} checkpoint(s) saved; a trajectory needs at least 2: train with "
            "--train.keep_checkpoints=100 and a --train.checkpoint_every that gives as many as you "
            "want (neither changes the result)"
        )
    rows = _Rows(place, cfg, more is not None)
    todo = [step for step in steps if step not in rows.found]
    toks = tokenizers(cfg, root)
    began = time.perf_counter()
    for done, step in enumerate(todo):
        with use_mesh(mesh_for(cfg)):
            model = load_run(cfg, place, root=root, step=step)
            found = evaluate(cfg, model, *toks)
        metrics = finite(found.metrics | (more(place, step) if more is not None else {}))
        rows.add(Row(step, metrics, counted(found.passages, endpoints(cfg)[1].metric)))
        spent = time.perf_counter() - began
        left = duration(spent / (done + 1) * (len(todo) - done - 1))
        say(f"checkpoint {step:,}: {done + 1} of {len(todo)} measured, {left} left")
    found = [rows.found[step] for step in sorted(rows.found)]
    return Followed(place, cfg, found, len(todo), moved)


class _Rows:
    """The rows of one run on disk, below a line that says what they are of."""

    def __init__(self, place: Path, cfg: Config, more: bool):
        self.file = place / ROWS
        about = {
            "version": EVALUATION,
            "run": open_manifest(place).config_hash,
            "eval": to_dict(cfg.eval),
            "more": more,
        }
        self.lines = self._lines()
        if self.lines and self.lines[0] != about:
            differ = sorted(k for k in about if self.lines[0].get(k) != about[k])
            raise CheckpointError(
                f"{self.file} is of another {' and '.join(differ)}; remove it to measure again"
            )
        self.lines = self.lines or [about]
        try:
            self.found = {
                line["step"]: Row(
                    line["step"], line["metrics"], [tuple(p) for p in line["passages"]]
                )
                for line in self.lines[1:]
            }
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{self.file} is damaged ({error!r}); remove it") from error

    def add(self, row: Row) -> None:
        """On the disk, whole, when it returns."""
        self.lines.append(row._asdict())
        self.found[row.step] = row
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in self.lines)
        paths.write_bytes(self.file, text.encode())

    def _lines(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        try:
            return [
                strict_json.parse(line, f"line {number}", dict)
                for number, line in enumerate(self.file.read_bytes().splitlines(), 1)
            ]
        except strict_json.JsonError as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); remove it") from error
