"""The page of `eval --checkpoints=all`: checkpoints.md and .html, with plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcomp.analysis import charts, document, equal_loss
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.correlations import cells
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.overlaps import overlaps
from jaxcomp.analysis.relations import (
    RUNS,
    STEPS,
    Relation,
    after_peak,
    heads_of,
    levels,
    measures,
    relations,
)
from jaxcomp.analysis.tables import counted, header, number, phrase
from jaxcomp.evals.bootstrap import ratio_interval
from jaxcomp.evals.checkpoints import Followed, Row
from jaxcomp.evals.metrics import Headline, endpoints


def write(runs: Sequence[Followed], folder: Path) -> Path:
    """The document of one run or of several of one kind, into `folder`; the page's place."""
    terms = {h.label: f"{h.meaning} ({h.metric})" for h in heads_of(runs[0])}
    title = f"Training dynamics: {', '.join(names(runs))}"
    return document.write(folder, "checkpoints", title, _blocks(runs), terms)


def names(runs: Sequence[Followed]) -> list[str]:
    """llama/24 r16 b0 s0, by which the jobs of a sweep differ."""
    return [
        f"{r.cfg.compressor} r{r.cfg.memory.ratio} b{r.cfg.base_seed} s{r.cfg.seed}" for r in runs
    ]


def _blocks(runs: Sequence[Followed]) -> list[Block]:
    heads = {h.metric: h for h in heads_of(runs[0])}
    out: list[Block] = [
        _plots(runs),
        Head("Past the peak"),
        _peaks(runs),
        Head("Rank, uncertainty and faithfulness, inside runs"),
        _relations(relations(runs), heads),
    ]
    if len(runs) > 1:
        out += [*_equal_loss(runs, heads), Head("Between the memories of the runs")]
        out.append(_overlaps(runs))
    return out


def _overlaps(runs: Sequence[Followed]) -> Table:
    called, rows = names(runs), []
    for (i, j), found in overlaps(runs).items():
        cells = ["other passages, ratio, tokenizer or width", "–", "–", "–"]
        if found is not None:
            cells = [f"{found.cka:.3f}", f"{found.cosine:.3f}", f"{found.chance:.3f}"]
            cells.append(" and ".join(map(str, found.dimensions)))
        rows.append([called[i], called[j], *cells])
    caption = (
        "Memories of the finished runs on the same held-out passages, vector by vector, less their "
        "mean. CKA: linear, debiased; 1 where one is the other up to rotation and scale, about 0 "
        "where they are unrelated. Cosine: mean over the principal angles of the fewest directions "
        "that hold 90% of each one's variance (last column), and what random subspaces would give."
    )
    return Table(["run", "and", "CKA", "cosine", "by chance", "directions"], rows, caption)


def _peaks(runs: Sequence[Followed]) -> Table:
    unit = endpoints(runs[0].cfg)[1].unit
    header = ["run", "best at step", "there", "at the end", "end less best", "steps"]
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        peak, last = after_peak(run.rows), run.rows[-1].step
        if peak is None:
            rows.append([name, "not measurable", *["–"] * 3, f"{last:,}"])
            continue
        low, high = (number(v, unit, signed=True) for v in (peak.low, peak.high))
        span = f"{number(peak.last - peak.best, unit, signed=True)} [{low}, {high}]"
        both = [number(v, unit) for v in (peak.best, peak.last)]
        rows.append([name, f"{peak.step:,}", *both, span, f"{last:,}"])
    caption = (
        "The checkpoint with the best primary endpoint on every second passage; both values, in "
        "percent, are of the other passages; 95% interval: paired bootstrap over those."
    )
    return Table(header, rows, caption, 1)


def _relations(found: Sequence[Relation], heads: dict[str, Headline]) -> Table:
    header = ["predictor", "with", "given", "rho", "95% interval", "checkpoints", "each run"]
    rows = [
        [
            heads[r.predictor].label, heads[r.outcome].label, r.given or "nothing",
            *cells(r.found)[:2], str(r.found.n), " ".join(number(rho, "", True) for rho in r.each),
        ]
        for r in found
    ]  # fmt: skip
    caption = (
        "Spearman's rho over the checkpoints of a run; of several runs, of ranks inside each, with "
        f"a 95% bootstrap over whole runs (from three on); of runs with {STEPS} checkpoints or "
        "more. Given the step, or step and loss: after both are fitted on the covariates' ranks; a "
        "dash where these explain all ranks. Checkpoints of one run are not independent, so there "
        "is no p-value; what vanishes given the step shows only that all change with training."
    )
    return Table(header, rows, caption, 3)


def _equal_loss(runs: Sequence[Followed], heads: dict[str, Headline]) -> list[Block]:
    found = levels(runs)
    out: list[Block] = [Head("At equal loss")]
    if not found:
        return [*out, Para("No loss that every run begins above and reaches: nothing to compare.")]
    shown = ["step", *(name for name in found[0].values if name != "step")]
    rows = [
        [
            f"{level.loss:.3f}", header(heads[m]) if m in heads else m,
            *(number(v, heads[m].unit if m in heads else "") for v in level.values[m]),
        ]
        for level in found
        for m in shown
    ]  # fmt: skip
    caption = (
        "Every run where its loss first falls to a level, on a straight line between the two "
        f"checkpoints there. Runs, in order: {'; '.join(names(runs))}."
    )
    columns = ["loss (nats/token)", "measure", *(f"run {i + 1}" for i in range(len(runs)))]
    out += [*equal_loss.blocks(runs), Table(columns, rows, caption)]
    if len(runs) < RUNS:
        return [*out, Para(f"Correlations between runs are given from {RUNS} runs on.")]
    rows = [
        [f"{level.loss:.3f}", heads[x].label, heads[y].label, *cells(c), str(c.n)]
        for level in found
        for (x, y), c in level.between.items()
    ]
    columns = ["loss (nats/token)", "predictor", "with", "rho", "95% interval", "p", "runs"]
    caption = "Between runs at one loss: Spearman's rho, 95% bootstrap, two-sided permutation p."
    return [*out, Table(columns, rows, caption, 3)]


# --- plots -------------------------------------------------------------------------------------


def _plots(runs: Sequence[Followed]) -> Chart:
    """Row one: loss, endpoint, rank, uncertainty against the step; row two: the endpoint against
    rank and uncertainty."""
    loss, predictors, outcomes = measures(runs[0])
    heads = {h.metric: h for h in heads_of(runs[0])}
    along = [
        _panel(runs, head, None, head is outcomes[0])
        for head in (heads[loss], outcomes[0], *predictors)
    ]
    across = [_panel(runs, outcomes[0], x, False) for x in predictors]
    total = sum(len(r.rows) for r in runs)
    caption = (
        f"{total} checkpoints of {counted(len(runs), 'run')}, each measured as a finished run is. "
        "Bars: 95% bootstrap over the passages of one checkpoint, which says nothing of other "
        "models."
    )
    rows = [[p for p in row if p] for row in (along, across)]
    return Chart("checkpoints", [r for r in rows if r], "Metrics over training", caption)


def _panel(
    runs: Sequence[Followed], head: Headline, against: Headline | None, bars: bool
) -> charts.Panel | None:
    """A metric against the step, or against another metric; None where nothing was measured."""
    points = []
    for name, run in zip(names(runs), runs, strict=True):
        for row in run.rows:
            value, x = row.metrics.get(head.metric), row.step
            if against is not None:
                x = row.metrics.get(against.metric)
            if value is None or x is None:
                continue
            low, high = (_bounds(row, value) if bars else None) or (None, None)
            about = {"run": name, "step": f"{row.step:,}", head.label: phrase(value, head.unit)}
            point = {"x": x, "value": value, "low": low, "high": high, "series": name}
            points.append(point | {"about": about})
    if not points:
        return None
    share, title = head.unit == "share", head.label
    unit = "" if share else head.unit
    if against is None:
        return charts.lines(points, title, "step", unit, share=share)
    return charts.lines(points, title, header(against), unit, share=share, joined=False)


def _bounds(row: Row, value: float) -> tuple[float, float]:
    return ratio_interval(*np.array(row.passages, float).T) or (value, value)
