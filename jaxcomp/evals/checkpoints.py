"""Evaluation along the saved checkpoints of a run.

Each checkpoint is measured as the finished run is (`evals.evaluate`), and its row is on the disk
before the next one begins, so that a stopped command goes on where it stopped.
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
from jaxcomp.runtime import live, paths, strict_json
from jaxcomp.runtime.live import duration
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.checkpoint import saved_steps
from jaxcomp.training.compressor import load_run, tokenizers
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import CheckpointError, open_manifest

ROWS = "checkpoints.jsonl"
Say = Callable[[str], None]
More = Callable[[Path, int], dict[str, Any]]  # (run, step) -> further numbers by name


class Row(NamedTuple):
    """One checkpoint. `metrics`: the metrics page; `passages`: what each passage gives to the
    primary endpoint, (kept, facts), in the order of the set."""

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
    place: str | Path,
    *,
    more: More | None = None,
    say: Say = lambda text: None,
    **moved: str,
) -> Followed:
    """Measures every saved checkpoint of the finished run in `place` that has no row yet, and keeps
    the rows in its checkpoints.jsonl. `more` adds numbers of its own to every row. `moved`: as in
    `open_run`.

    Raises:
        ExportError, CheckpointError: `place` is no finished run, holds a single checkpoint, or its
            rows are of another run; what `evaluate` raises.
    """
    place = paths.path(place)
    cfg, root = open_run(place, **moved)
    steps = saved_steps(place)
    if len(steps) < 2:
        raise CheckpointError(
            f"{place}: {len(steps)} checkpoint(s) saved; training dynamics need at least 2: train "
            "with --train.keep_checkpoints=100 and a --train.checkpoint_every that gives as many "
            "as you want (neither changes the result)"
        )
    about = {
        "version": EVALUATION,
        "run": open_manifest(place).config_hash,
        "eval": to_dict(cfg.eval),
        "more": more is not None,
    }
    rows = _rows(place / ROWS, about)
    todo = [step for step in steps if step not in rows]
    toks = tokenizers(cfg, root)
    with live.line(place.name, len(todo), "checkpoints") as shown:
        for done, step in enumerate(todo, start=1):
            with use_mesh(mesh_for(cfg)):
                model = load_run(cfg, place, root=root, step=step)
                found = evaluate(cfg, model, *toks)
            metrics = finite(found.metrics | (more(place, step) if more is not None else {}))
            rows[step] = Row(step, metrics, counted(found.passages, endpoints(cfg)[1].metric))
            lines = [about, *(row._asdict() for row in rows.values())]
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
            paths.write_bytes(place / ROWS, text.encode())
            shown.done = done
            left = duration((time.monotonic() - shown.began) / done * (len(todo) - done))
            say(f"checkpoint {step:,}: {done} of {len(todo)} measured, {left} left")
    return Followed(place, cfg, [rows[step] for step in sorted(rows)], len(todo), moved)


def _rows(file: Path, about: dict[str, Any]) -> dict[int, Row]:
    """The rows of a run on disk by step, below a line that says what they are of."""
    if not file.is_file():
        return {}
    try:
        first, *lines = [
            strict_json.parse(line, f"line {number}", dict)
            for number, line in enumerate(file.read_bytes().splitlines(), 1)
        ] or [about]
        if first != about:
            differ = sorted(key for key in about if first.get(key) != about[key])
            raise CheckpointError(
                f"{file} is of another {' and '.join(differ)}; remove it to measure again"
            )
        passages = ([tuple(pair) for pair in line["passages"]] for line in lines)
        found = (Row(x["step"], x["metrics"], p) for x, p in zip(lines, passages, strict=True))
        return {row.step: row for row in found}
    except strict_json.JsonError as error:
        raise CheckpointError(f"{file} is damaged ({error}); remove it") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}); remove it") from error
