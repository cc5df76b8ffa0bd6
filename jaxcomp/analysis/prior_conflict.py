"""The table of whose prior wins, by size, for compressors pretrained on other favourites."""

from __future__ import annotations

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Folded, Table
from jaxcomp.analysis.tables import cell, points
from jaxcomp.evals.metrics.prior_conflict import column
from jaxcomp.sweep.collect import Results

_HEADER = (
    "family", "size", "parameters", "ratio", "preserved (%)", "decoder's (%)", "compressors' (%)",
    "compressors' if even (%)", "pull (points)", "lead (points)", "whose prior wins",
)  # fmt: skip
_CAPTION = (
    "Contested facts of counterfactual passages: the source states neither the decoder's favourite "
    "nor that of the compressors' base models. Mean over pretraining seeds ± half of its 95% "
    "interval. If even: what the compressors' favourites would get if all other values were "
    "equally frequent. Pull: compressors' less that. Lead: decoder's less compressors'. A prior "
    "wins where the interval of the lead excludes 0 (exploratory, one word a row, unadjusted). The "
    "training text favours the decoder's favourites too (world.train_prior_strength)."
)


def folded(results: Results) -> list[Folded]:
    """Nothing where the base models were pretrained on the world's own favourites."""
    if not results.cfg.world.base_favourites:
        return []
    setups = {(r.job.setup.line, r.metrics["params"], *r.job.setup[1:3]) for r in results.rows}
    rows = [_row(results, *setup) for setup in sorted(setups)]
    return [Folded("Whose prior wins", [Table(_HEADER, rows, _CAPTION)])]


def _row(results: Results, line: str, params: float, size: str, ratio: int) -> list[str]:
    def mean(plus: str, minus: str = "") -> stats.Estimate | None:
        every = [_of(results, name, line, size, ratio) for name in (plus, minus) if name]
        return stats.mean(every[0] if not minus else _less(*every))

    lead = mean("decoder", "compressor")
    cells = [mean("preserved"), mean("decoder"), mean("compressor"), mean("even")]
    cells += [mean("compressor", "even"), lead]
    said = [cell(c, "share") for c in cells]
    return [line, size, f"{params:,}", f"{ratio}x", *said, winner(lead)]


def winner(lead: stats.Estimate | None) -> str:
    """Of the lead of the decoder's prior over the compressors'."""
    if lead is None or lead.bounds is None or "base seeds" not in lead.levels:
        return "inconclusive"
    low, high = lead.bounds
    return "decoder's" if low > 0 else "compressors'" if high < 0 else "inconclusive"


def _of(results: Results, name: str, line: str, size: str, ratio: int) -> list[stats.Point]:
    found = points(results.rows, column(name), ratio)
    return [p for p in found if (p.family, p.size) == (line, size)]


def _less(one: list[stats.Point], other: list[stats.Point]) -> list[stats.Point]:
    return [
        a._replace(value=a.value - b.value, sums_2W=None)
        for a, b in zip(one, other, strict=True)
        if a.value is not None and b.value is not None
    ]
