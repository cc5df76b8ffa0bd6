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
from jaxcomp.evals.qa.selection import SAGE, SELECTIONS, name_of
from jaxcomp.training.manifest import read_json

TITLE = "Answer quality against tokens kept"
# By task what is drawn, and its place among what was found in one condition.
QUALITY = {
    "qa": ("mean F1", ("f1",)),
    "ruler": ("expected texts found", ("recall",)),
    "overwriting": ("in-context answers", (PRIMARY, PASSAGE)),
}


def write(file: Path) -> Path:
    """The page of a result of a task of `QUALITY` with `--select`, and its figures, beside
    the result; the page's place."""
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
        file.parent, stem, TITLE, [*figures(result, stem), Table(header, rows, caption, 1)]
    )


def figures(result: Mapping[str, Any], stem: str) -> list[Chart]:
    """The memory and each selection, and the memory and the variants of SAGE. Full text and no
    text: in the caption."""
    what, every, out = _quality(result), points(result), []
    bounds = {"Full text": _found(result, "text"), "Without text": _found(result, "nothing")}
    caption = " ".join(f"{k}: {v['value']:.1%}." for k, v in bounds.items() if v)
    for name, title, series in (
        (stem, "Soft memory and selections", {*SELECTIONS} - {*SAGE} | {"sage"}),
        (f"{stem}-sage", "Soft memory and the variants of SAGE", {*SAGE}),
    ):
        shown = [p for p in every if p["series"] in series | {"memory"}]
        if len({p["series"] for p in shown}) > 1:
            x = "tokens or vectors read"
            panel = charts.lines(shown, title, x, what, log=True, share=True)
            out.append(Chart(name, [[panel]], f"{title}: {what} against tokens read", caption))
    return out


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
    return QUALITY[result["about"]["task"]][0]


def _found(result: Mapping[str, Any], condition: str) -> dict[str, float | None] | None:
    """The quality of one condition with its interval."""
    found = result["conditions"][condition]
    for name in QUALITY[result["about"]["task"]][1]:
        found = found[name]
    value = found.get("mean", found.get("rate"))
    return None if value is None else {"value": value, "low": found["low"], "high": found["high"]}
