"""What a plan found, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcomp.sweep.plan import flops
from jaxcomp.sweep.plan.hlo import received
from jaxcomp.sweep.plan.main import Row
from jaxcomp.sweep.plan.roofline import Cost, cost
from jaxcomp.sweep.plan.topology import GIB

HEAD = (
    "setup",
    "slice",
    "chips",
    "mesh (replica, fsdp, tp)",
    "examples a chip, micro-batches",
    "remat",
    "HBM used / free, GiB a chip",
    "PFLOP a step, compressor + decoder",
    "moved between chips, GiB a chip",
    "compute / HBM / links (waited for), s",
    "bound by",
    "step, s",
    "tokens/s/chip",
    "MFU",
    "chip-hours",
    "USD",
    "compiled in, s",
)

LEGEND = """\
- HBM: what the compiler reserves for the train step (arguments, temporaries, results that take no
  argument's place, code).
- PFLOP: every slot counts, padding too, with recomputation; a multiply-add is two operations.
- moved: what a chip receives in a step, read from the compiled program.
- compute, HBM, links: seconds that the step would take if nothing else limited it, by operations at
  the chip's bf16 peak, bytes estimated from shapes at the memory's speed, and bytes that the
  compiled program moves between chips at the links' speed (in brackets: those that it moves while
  the cores have nothing to compute). The largest is the bound.
- step: the largest of the three and what is waited for, over {efficiency} (--efficiency, an
  assumption). tokens: slots of both towers. MFU: 4P for a frozen tower through which gradients
  flow, 6P for a trained one, without recomputation, over that time at the peak.
- chip-hours: of `train.optim.steps` updates, without evaluation or starts. USD a chip-hour: {rates}
  (--rate; the default is a list price that may be out of date)."""


def table(rows: Sequence[Row], efficiency: float, rate: float | None) -> str:
    """All rows, what failed, the total, and what the columns mean."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD))]
    total = [0.0, 0.0]
    for row in rows:
        found = None if row.failure else _cost(row, efficiency, rate)
        lines.append(_row(_cells(row, found)))
        if found is not None:
            total = [total[0] + found.hours, total[1] + found.price]
    fits = sum(not row.failure for row in rows)
    out = ["\n".join(lines), "\n".join(_decoding(rows))]
    out += [_failures(rows)] if fits < len(rows) else []
    out.append(
        f"{fits} of {len(rows)} setups fit. In all {total[0]:,.0f} chip-hours, USD {total[1]:,.0f}."
    )
    out.append(_legend(rows, efficiency, rate))
    return "\n\n".join(part for part in out if part) + "\n"


def _cost(row: Row, efficiency: float, rate: float | None) -> Cost:
    own = row.where.chip.rate if rate is None else rate
    return cost(row.config, row.where, row.layout, row.roofline, efficiency, own)


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
        return [*first, "does not fit", *["-"] * (len(HEAD) - len(first) - 1)]
    work, roof = flops.train_step(layout.applied(row.config)), row.roofline
    step = row.programs.get("train")
    memory = moved = seconds = "not compiled"
    if step is not None:
        memory = f"{step.used / GIB:.1f} / {(where.chip.hbm - step.used) / GIB:.1f}"
        moved = f"{sum(c.times * received(c) for c in step.collectives) / GIB:.2f}"
        seconds = f"{sum(p.seconds for p in row.programs.values()):.0f}"
    return [
        *first,
        memory,
        " + ".join(f"{w.executed / 1e15:.2f}" for w in work.values()),
        moved,
        f"{roof.compute:.3f} / {roof.hbm:.3f} / {roof.links:.3f} ({roof.waited:.3f})",
        roof.bound,
        f"{found.step:.3f}",
        f"{found.tokens:,.0f}",
        f"{found.mfu:.0%}",
        f"{found.hours:,.0f}",
        f"{found.price:,.0f}",
        seconds,
    ]


def _decoding(rows: Sequence[Row]) -> list[str]:
    """HBM of the programs that rebuild texts."""
    compiled = [row for row in rows if not row.failure and "decode" in row.programs]
    if not compiled:
        return []
    head = ("setup", "slice", "compress", "prefill", "decode")
    lines = ["HBM used by rebuilding `eval.batch` texts, GiB a chip:", ""]
    lines += [_row(head), _row(["---"] * len(head))]
    for row in compiled:
        used = [f"{row.programs[name].used / GIB:.1f}" for name in head[2:]]
        lines.append(_row([row.name, row.where.name, *used]))
    return lines


def _failures(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if row.failure:
            fix = f"the smallest slice that does: {row.instead}" if row.instead else "none does"
            lines.append(f"- {row.name} does not fit {row.where.name}: {row.failure}; {fix}")
    return "\n".join(lines)


def _legend(rows: Sequence[Row], efficiency: float, rate: float | None) -> str:
    kinds = {row.where.kind: row.where.chip for row in rows}
    rates = ", ".join(f"{k} {c.rate if rate is None else rate:.2f}" for k, c in kinds.items())
    return LEGEND.format(efficiency=f"{efficiency:g}", rates=rates)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
