"""What `eval --checkpoints=all` writes: trajectory.md and .html, with plots."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcomp.analysis import equal_loss
from jaxcomp.analysis.document import Block, Head, Items, Para, Picture, Table, markdown, page
from jaxcomp.analysis.overlaps import overlaps
from jaxcomp.analysis.plots import COLOURS
from jaxcomp.analysis.relations import (
    RUNS,
    STEPS,
    Level,
    Relation,
    after_peak,
    heads_of,
    levels,
    measures,
    relations,
)
from jaxcomp.evals.checkpoints import Followed, Row
from jaxcomp.evals.intervals import ratio_interval
from jaxcomp.evals.metrics import Headline
from jaxcomp.sweep.store import write_bytes, write_text

PANEL = (3.4, 2.6)  # inches


def write(runs: Sequence[Followed], folder: Path) -> Path:
    """The document of one run or of several of one kind, into `folder`; the page's place."""
    blocks = _blocks(runs)
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(folder / block.name, block.png)
    title = f"Along the checkpoints: {', '.join(names(runs))}"
    write_text(folder / "trajectory.md", markdown(title, blocks))
    write_text(folder / "trajectory.html", page(title, blocks))
    return folder / "trajectory.html"


def names(runs: Sequence[Followed]) -> list[str]:
    """llama/24 r16 b0 s0, as the jobs of a sweep are told apart."""
    return [
        f"{r.cfg.compressor} r{r.cfg.memory.ratio} b{r.cfg.base_seed} s{r.cfg.seed}" for r in runs
    ]


def _blocks(runs: Sequence[Followed]) -> list[Block]:
    heads = {h.metric: h for h in heads_of(runs[0])}
    out: list[Block] = [
        Para(
            f"{sum(len(r.rows) for r in runs)} checkpoints of {len(runs)} run(s), each measured as "
            "a finished run is. Bars: 95% bootstrap over the passages of one checkpoint, which "
            "says nothing of other models."
        ),
        Picture("trajectory.png", _plots(runs)),
        Head("Past the peak"),
        Para(
            "The checkpoint with the best primary endpoint on every second passage, and both "
            "values on the other passages; the interval (95%) is a paired bootstrap over those."
        ),
        _peaks(runs),
        Head("Rank, entropy and fidelity, inside runs"),
        Para(
            "Spearman's rank correlation over the checkpoints of a run; of several runs, of ranks "
            "inside each, with a 95% bootstrap over whole runs (from three on); of runs with "
            f"{STEPS} checkpoints or more, whose own is no dash (there the covariates explain all "
            "ranks, and nothing is left to correlate). Given the step, or step and loss: the same "
            "after both are fitted on the covariates' ranks. "
            "Checkpoints of one run are no independent draws, so no p-value is given; what "
            "vanishes given the step says only that all change as training goes on."
        ),
        _relations(relations(runs), heads),
    ]
    if len(runs) > 1:
        out += [*_equal_loss(runs, heads), Head("Between the memories of the runs")]
        out += [Para(_OVERLAP), _overlaps(runs)]
    out += [
        Head("Definitions"),
        Items([f"{h.label}: {h.meaning} ({h.metric})" for h in heads.values()]),
    ]
    return out


_OVERLAP = (
    "Of the finished runs, on the same held-out passages, vector by vector, both less their mean. "
    "CKA: linear, debiased; 1 where one is the other up to rotation and scale, about 0 where they "
    "are unrelated. Cosine: mean over the principal angles of the fewest directions that hold 90% "
    "of each one's variance (their numbers beside it), and what random subspaces would give."
)


def _overlaps(runs: Sequence[Followed]) -> Table:
    called, rows = names(runs), []
    for (i, j), found in overlaps(runs).items():
        cells = ["other passages, ratio, tokenizer or width", "–", "–", "–"]
        if found is not None:
            cells = [f"{found.cka:.3f}", f"{found.cosine:.3f}", f"{found.chance:.3f}"]
            cells.append(" and ".join(map(str, found.dimensions)))
        rows.append([called[i], called[j], *cells])
    return Table(["run", "and", "CKA", "cosine", "by chance", "directions"], rows)


def _peaks(runs: Sequence[Followed]) -> Table:
    header = ["run", "best at step", "there", "at the end", "end - best", "of steps"]
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        peak, last = after_peak(run.rows), run.rows[-1].step
        if peak is None:
            rows.append([name, "not measurable", *["–"] * 3, f"{last:,}"])
            continue
        span = f"{peak.last - peak.best:+.3f} [{peak.low:+.3f}, {peak.high:+.3f}]"
        rows.append(
            [name, f"{peak.step:,}", f"{peak.best:.3f}", f"{peak.last:.3f}", span, f"{last:,}"]
        )
    return Table(header, rows)


def _relations(found: Sequence[Relation], heads: dict[str, Headline]) -> Table:
    header = ["predictor", "with", "given", "rho", "95%, over runs", "checkpoints", "each run"]
    rows = []
    for r in found:
        c = r.found
        rows.append(
            [
                heads[r.predictor].label,
                heads[r.outcome].label,
                r.given or "nothing",
                _signed(c.rho),
                "–" if math.isnan(c.low) else f"[{c.low:+.2f}, {c.high:+.2f}]",
                str(c.n),
                " ".join(_signed(rho) for rho in r.each),
            ]
        )
    return Table(header, rows)


def _equal_loss(runs: Sequence[Followed], heads: dict[str, Headline]) -> list[Block]:
    found = levels(runs)
    out: list[Block] = [Head("At equal loss")]
    if not found:
        return [*out, Para("No loss that every run begins above and reaches: nothing to compare.")]
    out.append(
        Para(
            "Every run where its loss first falls to a level, between its two checkpoints there, "
            "on a straight line. Runs, in order: " + "; ".join(names(runs)) + "."
        )
    )
    shown = ["step", *(name for name in found[0].values if name != "step")]
    rows = [
        [f"{level.loss:.3f}", heads[m].label if m in heads else m, *map(_value, level.values[m])]
        for level in found
        for m in shown
    ]
    out += equal_loss.blocks(runs)
    out.append(Table(["loss", "measure", *(f"run {i + 1}" for i in range(len(runs)))], rows))
    if len(runs) < RUNS:
        out.append(Para(f"With under {RUNS} runs, no correlation between runs is given."))
        return out
    out.append(Para("Between runs at that loss (Spearman's rho, two-sided permutation p):"))
    return [*out, _between(found, heads)]


def _between(found: Sequence[Level], heads: dict[str, Headline]) -> Table:
    rows = [
        [
            f"{level.loss:.3f}",
            heads[x].label,
            heads[y].label,
            _signed(c.rho),
            "–" if math.isnan(c.low) else f"[{c.low:+.2f}, {c.high:+.2f}]",
            f"{c.p:.3f}",
            str(c.n),
        ]
        for level in found
        for (x, y), c in level.between.items()
    ]
    return Table(["loss", "predictor", "with", "rho", "95%, over runs", "p", "runs"], rows)


def _signed(rho: float) -> str:
    return "–" if math.isnan(rho) else f"{rho:+.2f}"


def _value(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


# --- plots -------------------------------------------------------------------------------------


def _plots(runs: Sequence[Followed]) -> bytes:
    """Row one: loss, endpoint, rank, entropy against the step; row two: the endpoint against rank
    and entropy, darker as training goes on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loss, predictors, outcomes = measures(runs[0])
    heads = {h.metric: h for h in heads_of(runs[0])}
    along = [heads[loss], outcomes[0], *predictors]
    figure = Figure(figsize=(PANEL[0] * len(along), PANEL[1] * 2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, len(along), squeeze=False)
    for ax, head in zip(axes[0], along, strict=True):
        for i, (name, run) in enumerate(zip(names(runs), runs, strict=True)):
            _line(ax, run.rows, head.metric, head is outcomes[0], COLOURS[i % len(COLOURS)], name)
        ax.set_xlabel("step")
        ax.set_title(head.label, fontsize=9)
    axes[0][0].legend(fontsize=6, frameon=False)
    for ax, head in zip(axes[1], predictors, strict=False):
        for i, run in enumerate(runs):
            _scatter(ax, run.rows, head.metric, outcomes[0].metric, COLOURS[i % len(COLOURS)])
        ax.set_xlabel(head.label)
        ax.set_ylabel(outcomes[0].label, fontsize=8)
    for ax in axes[1][len(predictors) :]:
        ax.set_axis_off()
    for ax in axes.flat:
        ax.grid(alpha=0.3, linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=5)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _line(ax, rows: Sequence[Row], metric: str, bars: bool, colour: str, name: str) -> None:
    kept = [r for r in rows if r.metrics.get(metric) is not None]
    if not kept:
        return
    x, y = [r.step for r in kept], [r.metrics[metric] for r in kept]
    if not bars:
        ax.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1, label=name)
        return
    both = [(row.metrics[metric], *_bounds(row, row.metrics[metric])) for row in kept]
    sides = [[max(0.0, v - low) for v, low, _ in both], [max(0.0, up - v) for v, _, up in both]]
    ax.errorbar(x, y, yerr=sides, color=colour, marker="o", markersize=3, linewidth=1, capsize=2)


def _bounds(row: Row, value: float) -> tuple[float, float]:
    return ratio_interval(*np.array(row.passages, float).T) or (value, value)


def _scatter(ax, rows: Sequence[Row], x: str, y: str, colour: str) -> None:
    found = [r for r in rows if None not in (r.metrics.get(x), r.metrics.get(y))]
    shades = np.linspace(0.25, 1.0, len(found)) if found else []
    for row, alpha in zip(found, shades, strict=True):
        ax.plot(row.metrics[x], row.metrics[y], "o", color=colour, alpha=alpha, markersize=4)
