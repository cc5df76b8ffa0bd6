"""Answer quality against the tokens that the decoder reads: soft memory and hard selection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcomp.analysis import charts, document
from jaxcomp.analysis.charts import Chart, Point
from jaxcomp.analysis.document import Table
from jaxcomp.evals.qa.conditions import in_order
from jaxcomp.evals.qa.scoring import PASSAGE, PRIMARY
from jaxcomp.evals.qa.selection import name_of
from jaxcomp.training.manifest import read_json

TITLE = "Answer quality against tokens kept"


def write(file: Path) -> Path:
    """The page of a result of `--task=qa` or `overwriting` with `--select`, and its PNG, beside the
    result; the page's place."""
    result = read_json(file, "about", "conditions", "selection")
    stem = f"{file.stem}-tokens"
    rows = [
        [p["about"]["answer from"], f"{p['x']:.1f}", p["about"][_quality(result)]]
        for p in points(result)
    ]
    header = ["answer from", "tokens read", _quality(result)]
    caption = (
        "Tokens read: the decoder's tokens of the text, or vectors of the memory (of the rebuilt "
        "text those of its memory); mean over items. "
        "Intervals: 95%, over passages of this one pair."
    )
    return document.write(
        file.parent, stem, TITLE, [chart(result, stem), Table(header, rows, caption, 1)]
    )


def chart(result: Mapping[str, Any], name: str) -> Chart:
    """A line for each selection; points for the memory, the text rebuilt from it and the full
    text. Without text: in the caption."""
    shown = [p for p in points(result) if p["x"] > 0]
    what = _quality(result)
    panel = charts.lines(shown, TITLE, "tokens or vectors read", what, log=True, share=True)
    nothing = _found(result, "nothing")
    caption = f"Without text: {nothing['value']:.1%}." if nothing else ""
    return Chart(name, [[panel]], f"{what} against tokens read, a line for each selection", caption)


def points(result: Mapping[str, Any]) -> list[Point]:
    """A point for each condition that was measured."""
    selected, out = result["selection"], []
    one = next(iter(selected.values()))
    read = {"nothing": 0.0, "text": one["text"]}
    read |= {"memory": one["vectors"], "rebuilt": one["vectors"]}
    read |= {name: found["tokens"] for name, found in selected.items()}
    for condition in in_order(result["conditions"]):
        if found := _found(result, condition):
            kept = read[condition]
            about = {"answer from": condition, _quality(result): f"{found['value']:.1%}"}
            about["tokens"] = f"{kept:.1f}"
            out.append({"x": kept, "series": name_of(condition), "about": about, **found})
    return out


def _quality(result: Mapping[str, Any]) -> str:
    return "mean F1" if result["about"]["task"] == "qa" else "in-context answers"


def _found(result: Mapping[str, Any], condition: str) -> dict[str, float | None] | None:
    """The mean F1, or the share of in-context answers by the primary scoring, with its interval."""
    one = result["conditions"][condition]
    found = one["f1"] if result["about"]["task"] == "qa" else one[PRIMARY][PASSAGE]
    value = found.get("mean", found.get("rate"))
    return None if value is None else {"value": value, "low": found["low"], "high": found["high"]}
