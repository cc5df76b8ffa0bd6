"""Rebuilt passages of a sweep, chosen by rule: the median, the best and the worst at each ratio."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcomp.analysis.document import Block, Example, Head, Para, Part
from jaxcomp.config import ConfigError
from jaxcomp.evals.metric import renamed_record
from jaxcomp.evals.metrics import endpoints
from jaxcomp.runtime import strict_json
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results

Record = dict[str, Any]


def blocks(results: Results, workdir: Path) -> list[Block]:
    """Source and rebuilt text of three passages a ratio, of its largest compressor; nothing where
    the records of passages are not there.

    Raises ConfigError for a damaged record.
    """
    shown: list[Block] = []
    run = None
    for ratio in grid.ratios(results.cfg):
        rows = [r for r in results.rows if r.job.setup.ratio == ratio]
        if rows:
            run = max(rows, key=lambda r: (r.metrics["params"], -r.job.base_seed, -r.job.seed))
            shown += _of_run(run, results, workdir)
    if not shown or run is None:
        return []
    rule = (
        "Passages of the largest compressor at each ratio (first pretraining seed), in order of "
        "the share of facts preserved, then of the loss: the median, the best and the worst one. "
        f"Where each word came from: `jaxcomp inspect --run=jobs/{run.job.id}` in the sweep's "
        "folder."
    )
    coloured = "Coloured: what became of each fact; a fact that was omitted is struck through."
    return [Head("Examples"), Para(rule, coloured), *shown]


def _of_run(run: Result, results: Results, workdir: Path) -> list[Block]:
    path = workdir / "jobs" / run.job.id / "passages.jsonl"
    column = endpoints(results.cfg)[1].metric
    # The passages of the primary endpoint, else of the loss: edits are not rebuilt as a text.
    for name in dict.fromkeys(h.metric.partition("/")[0] for h in reversed(endpoints(results.cfg))):
        rows = [r for r in _records(path) if r["set"] == name and r.get("rebuilt") is not None]
        found = [r for r in rows if r.get("loss") is not None]  # edits have none
        if found:
            break
    else:
        return []
    ranked = sorted(found, key=lambda r: (-_preserved(r), r.get("loss") or 0.0))
    picks = {"median": ranked[len(ranked) // 2], "best": ranked[0], "worst": ranked[-1]}
    setup = run.job.setup
    title = f"{setup.ratio}x, {setup.line} {setup.size}"
    return [
        Example(f"{title}: {name} ({_said(r, column)})", *parts(r)) for name, r in picks.items()
    ]


def _records(path: Path) -> list[Record]:
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    try:
        return [
            renamed_record(strict_json.parse(line, f"{path}, line {n}", dict))
            for n, line in enumerate(lines, start=1)
            if line
        ]
    except (strict_json.JsonError, KeyError, TypeError) as error:
        raise ConfigError(f"{error}; delete the job's folder and run the sweep again") from error


def _preserved(record: Record) -> float:
    facts = record.get("facts") or []
    return sum(f["outcome"] == "preserved" for f in facts) / len(facts) if facts else 0.0


def _said(record: Record, column: str) -> str:
    facts = record.get("facts") or []
    loss = f"loss {record['loss']:.2f} nats/token"
    if not facts:
        return loss
    return f"{sum(f['outcome'] == 'preserved' for f in facts)} of {len(facts)} facts, {loss}"


def parts(record: Record) -> tuple[list[Part], list[Part]]:
    """Source and rebuilt text, in pieces that say what became of the facts in them. Without facts,
    of the words: preserved, omitted, or (rebuilt) substituted."""
    source, rebuilt = record["text"], record["rebuilt"]
    facts = record.get("facts")
    if facts:
        return (
            _marked(source, [(f["value"], f["outcome"]) for f in facts]),
            _marked(rebuilt, [(f["rebuilt"], f["outcome"]) for f in facts if f["rebuilt"]]),
        )
    words = [re.findall(r"\S+|\s+", text) for text in (source, rebuilt)]
    out: tuple[list[Part], list[Part]] = [], []
    for op, a, b, c, d in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        gone = "substituted" if op == "replace" else "omitted"
        out[0].append(Part("".join(words[0][a:b]), "" if op == "equal" else gone))
        out[1].append(Part("".join(words[1][c:d]), "" if op == "equal" else "substituted"))
    return out


def _marked(text: str, values: Sequence[tuple[str, str]]) -> list[Part]:
    """The text with each value marked where it stands next, in the facts' order where it can be."""
    spans: list[tuple[int, int, str]] = []
    at = 0
    for value, outcome in values:
        pattern = rf"\b{re.escape(value)}\b"
        free = [
            m
            for m in re.finditer(pattern, text)
            if not any(m.start() < end and start < m.end() for start, end, _ in spans)
        ]
        if free:
            found = next((m for m in free if m.start() >= at), free[0])
            spans.append((found.start(), found.end(), outcome))
            at = found.end()
    out, at = [], 0
    for start, end, outcome in sorted(spans):
        out += [Part(text[at:start]), Part(text[start:end], outcome)]
        at = end
    return [p for p in [*out, Part(text[at:])] if p.text]
