"""What a plan found: the same table and words as Markdown (printed) and as a page, with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxcomp.analysis import charts, document
from jaxcomp.analysis.charts import Chart, Point
from jaxcomp.analysis.document import Alert, Block, Folded, Head, Items, Para, Table
from jaxcomp.analysis.tables import counted
from jaxcomp.runtime import paths
from jaxcomp.sweep.plan import flops
from jaxcomp.sweep.plan.hlo import received
from jaxcomp.sweep.plan.main import Row
from jaxcomp.sweep.plan.roofline import Cost, cost
from jaxcomp.sweep.plan.timing import KINDS, Part
from jaxcomp.sweep.plan.topology import GIB

HEAD = (
    "setup",
    "slice",
    "chips",
    "mesh (replica, fsdp, tp)",
    "examples per chip, micro-batches",
    "remat",
    "HBM used / free, GiB per chip",
    "PFLOP per step, compressor + decoder",
    "moved between chips, GiB per chip",
    "at least: compute / HBM / links, s",
    "bound by",
    "step, s",
    "tokens/s/chip",
    "MFU",
    "chip-hours",
    "USD",
    "compiled in, s",
)

LEGEND = (
    "HBM: what the compiler reserves for the train step (arguments, temporaries, results that take "
    "no argument's place, code).",
    "PFLOP: every token position counts, padding too, with recomputation; a multiply-add is two "
    "operations.",
    "moved: what a chip receives in a step, read from the compiled program.",
    "at least: seconds that the step would take if nothing else limited it, by operations at the "
    "chip's bf16 peak, bytes estimated from shapes at the memory's speed, and bytes that the "
    "compiled program moves between chips at the links' speed. The largest is the bound.",
    "step: cycles that the compiler estimates for each instruction, times its executions, "
    "over the chip's clock; by formula: kernels of attention (all operations of the square at the "
    "peak), collectives that nothing is computed beside (bytes received at the links' speed), and "
    "instructions that the compiler gives no cycles (bytes at the memory's speed). Not compiled: "
    "the largest lower bound, so no less than it.",
    "tokens: positions of both towers. MFU: 4P for a frozen tower through which gradients flow, 6P "
    "for a trained one, without recomputation, over that time at the peak.",
    "chip-hours: of train.optim.steps updates, without evaluation or starts. USD per chip-hour: "
    "{rates} (--rate; the default is a list price that may be out of date).",
)
MEMORY = {"arguments": "c0", "temporaries": "c1", "results": "c2", "code": "c3", "free": "grid"}
TIME = {kind: f"c{i}" for i, kind in enumerate(KINDS)}


def printed(rows: Sequence[Row], rate: float | None) -> str:
    """What fits, the table, and what its columns mean, as Markdown."""
    return document.markdown("", _blocks(rows, rate))


def write(rows: Sequence[Row], rate: float | None, out: str) -> None:
    """Write what is printed to the file `out`, and the page beside it (its name with .html)."""
    blocks = _blocks(rows, rate)
    at = next(i for i, block in enumerate(blocks) if isinstance(block, Table))
    title = "Plan: what fits, how fast, at what price"
    page = document.page(title, [*blocks[:at], *_charts(rows), *blocks[at:]])
    place = paths.path(out)
    place.write_text(document.markdown("", blocks))
    place.with_suffix(".html").write_text(page)


def _blocks(rows: Sequence[Row], rate: float | None) -> list[Block]:
    costs = [None if row.failure else _cost(row, rate) for row in rows]
    held = [c for c in costs if c is not None]
    hours, price = (sum(getattr(c, name) for c in held) for name in ("hours", "price"))
    fit = f"{len(held)} of {counted(len(rows), 'setup')} fit."
    said = f"{fit} In all {hours:,.0f} chip-hours, USD {price:,.0f}."
    failed = [_failure(row) for row in rows if row.failure]
    out: list[Block] = [Para(said)]
    out += [Alert(f"{counted(len(failed), 'setup')} fit no given slice.", failed)] if failed else []
    out.append(Table(HEAD, [_cells(row, c) for row, c in zip(rows, costs, strict=True)]))
    timed = [row for row in rows if not row.failure and "train" in row.programs]
    if timed:
        head = ["setup", "slice", *KINDS, "whole step", "of it by formula"]
        sums = [
            [row.name, row.where.name, *_sums(row.programs["train"].timing.parts)] for row in timed
        ]
        out += [Head("Where the time goes"), Table(head, sums, "Seconds of a step on one chip.")]
        each = [_details(row) for row in timed]
        titles = [f"{row.name} on {row.where.name}" for row in timed]
        one = len(timed) == 1
        out += each[0] if one else [Folded(*fold) for fold in zip(titles, each, strict=True)]
    compiled = [row for row in timed if "decode" in row.programs]
    if compiled:
        names = ("compress", "prefill", "decode")
        used = [
            [row.name, row.where.name, *(f"{row.programs[n].used / GIB:.1f}" for n in names)]
            for row in compiled
        ]
        head = ["setup", "slice", *names]
        out.append(Head("Rebuilding texts"))
        out.append(Table(head, used, "HBM used by rebuilding eval.batch texts, GiB per chip."))
    kinds = {row.where.kind: row.where.chip for row in rows}
    rates = ", ".join(f"{k} {c.rate if rate is None else rate:.2f}" for k, c in kinds.items())
    words = [line.format(rates=rates) for line in LEGEND]
    return [*out, Head("Columns"), Items(words)]


def _cost(row: Row, rate: float | None) -> Cost:
    own = row.where.chip.rate if rate is None else rate
    return cost(row.config, row.where, row.layout, row.seconds, own)


def _failure(row: Row) -> str:
    least = f"the smallest slice that does: {row.instead}" if row.instead else "none does"
    return f"{row.name} does not fit {row.where.name}: {row.failure}; {least}"


def _cells(row: Row, found: Cost | None) -> list[str]:
    layout, where = row.layout, row.where
    first = [
        row.name,
        where.name,
        str(where.chips),
        str(layout.mesh),
        f"{layout.rows(row.config)}, {layout.accumulate}",
        layout.remat,
    ]
    if found is None:
        return [*first, "does not fit", *["–"] * (len(HEAD) - len(first) - 1)]
    work, roof = flops.train_step(layout.applied(row.config)), row.roofline
    step = row.programs.get("train")
    memory = moved = seconds = "not compiled"
    least, most = ("≥ ", "≤ ") if step is None else ("", "")
    if step is not None:
        memory = f"{step.used / GIB:.1f} / {(where.chip.hbm - step.used) / GIB:.1f}"
        moved = f"{sum(c.times * received(c) for c in step.collectives) / GIB:.2f}"
        seconds = f"{sum(p.seconds for p in row.programs.values()):.0f}"
    return [
        *first,
        memory,
        " + ".join(f"{w.executed / 1e15:.2f}" for w in work.values()),
        moved,
        f"{roof.compute:.3f} / {roof.hbm:.3f} / {roof.links:.3f}",
        roof.bound,
        f"{least}{row.seconds:.3f}",
        f"{most}{found.tokens:,.0f}",
        f"{most}{found.mfu:.0%}",
        f"{least}{found.hours:,.0f}",
        f"{least}{found.price:,.0f}",
        seconds,
    ]


def _sums(parts: Sequence[Part]) -> list[str]:
    """Seconds of each kind, of all, and of what no compiler estimated."""
    each = [sum(p.seconds for p in parts if p.kind == kind) for kind in KINDS]
    return [f"{t:.4f}" for t in (*each, sum(each), sum(p.formula for p in parts))]


def _details(row: Row) -> list[Block]:
    """By tower and direction, and the longest instructions."""
    timing = row.programs["train"].timing
    places = sorted({(p.tower, p.direction) for p in timing.parts})
    rows = [
        [*place, *_sums([p for p in timing.parts if (p.tower, p.direction) == place])]
        for place in places
    ]
    longest = [
        [
            i.operation,
            i.line,
            f"{i.tower}, {i.direction}",
            f"{i.times:,}",
            f"{i.seconds:.4f}",
            f"{i.seconds / timing.seconds:.1%}",
        ]
        for i in timing.longest
    ]
    head = ("operation", "source line", "tower, direction", "executions", "seconds", "of the step")
    return [
        Table(("tower", "direction", *KINDS, "whole step", "of it by formula"), rows),
        Table(head, longest, f"The {len(longest)} instructions that take longest.", 3),
    ]


# --- figures -----------------------------------------------------------------------------------


def _charts(rows: Sequence[Row]) -> list[Block]:
    """Memory and time by part, of the setups that fit."""
    fit = [row for row in rows if not row.failure]
    memory = {row.name: _memory(row) for row in fit if "train" in row.programs}
    time = {row.name: _time(row) for row in fit if "train" in row.programs}
    out = _chart("memory", "Memory by part", "a chip's HBM", "GiB", MEMORY, memory, "")
    return [*out, *_chart("time", "Time by part", "a step", "s", TIME, time, "")]


def _chart(
    name: str,
    title: str,
    whole: str,
    unit: str,
    colours: Mapping[str, str],
    bars: Mapping[str, Mapping[str, float]],
    caption: str,
) -> list[Block]:
    points = [p for bar, parts in bars.items() for p in _points(bar, parts, unit)]
    if not points:
        return []
    panel = charts.stacked(points, "Train step", f"share of {whole}", colours, list(bars))
    return [Head(title), Chart(name, [[panel]], f"{title} of each setup", caption, colours)]


def _memory(row: Row) -> dict[str, float]:
    step = row.programs["train"]
    parts = {name: getattr(step, name) / GIB for name in MEMORY if name != "free"}
    return parts | {"free": (row.where.chip.hbm - step.used) / GIB}


def _time(row: Row) -> dict[str, float]:
    parts = row.programs["train"].timing.parts
    return {kind: sum(p.seconds for p in parts if p.kind == kind) for kind in KINDS}


def _points(bar: str, parts: Mapping[str, float], unit: str) -> list[Point]:
    whole = sum(parts.values())
    return [
        {
            "bar": bar,
            "part": part,
            "share": value / whole,
            "place": place,
            "value": f"{value:.3g} {unit}",
        }
        for place, (part, value) in enumerate(parts.items())
    ]
