"""Whose prior wins, size by size: a report's part on bases that believe other favourites."""

from __future__ import annotations

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.size_tables import shown
from jaxcomp.analysis.tables import points
from jaxcomp.sweep.collect import Results

_SPLIT = "counterfactual/split"


def blocks(results: Results) -> list[Block]:
    """Nothing where the bases read the world's own favourites, or no job is finished."""
    if not results.cfg.world.base_favourites or not results.rows:
        return []
    header = ["family", "size", "parameters", "ratio", "kept", "decoder's", "compressors'"]
    header += ["compressors' if even", "pull", "lead", "whose prior wins"]
    setups = {(r.job.setup.line, r.metrics["params"], *r.job.setup[1:3]) for r in results.rows}
    rows = [_row(results, *setup) for setup in sorted(setups)]
    return [Head("Whose prior wins"), Table(header, rows), Para(_NOTE)]


_NOTE = (
    "Contested slots of counterfactual passages: the source says neither the decoder's favourite "
    "nor that of the compressors' bases. Shares of them; mean over replicates ± half of its 95% "
    "interval. If even: what the compressors' favourites would get, were the slots that are not "
    "back as the decoder's favourite or kept spread evenly over the other values. Pull: "
    "compressors' less that; above 0 the bases' prior shows in the rebuilt text. Lead: decoder's "
    "less compressors'. A prior wins where the interval of the lead leaves out 0; else, and under "
    "three base seeds, it is undecided. The words are exploratory: one a row, unadjusted. The text "
    "that the compressors are trained on favours the decoder's favourites too (as far as "
    "world.train_prior_strength says), so whose prior wins is not of priors in weights alone."
)


def _row(results: Results, line: str, params: float, size: str, ratio: int) -> list[str]:
    def mean(plus: str, minus: str = "") -> stats.Estimate | None:
        every = [_of(results, name, line, size, ratio) for name in (plus, minus) if name]
        return stats.mean(every[0] if not minus else _less(*every))

    lead = mean("decoder", "compressor")
    cells = [mean("kept"), mean("decoder"), mean("compressor"), mean("even")]
    cells += [mean("compressor", "even"), lead]
    said = ["–" if c is None else shown(c) for c in cells]
    return [line, size, f"{params:,}", f"{ratio}x", *said, winner(lead)]


def winner(lead: stats.Estimate | None) -> str:
    """Of the lead of the decoder's prior over the compressors'."""
    if lead is None or lead.bounds is None or "base seeds" not in lead.levels:
        return "undecided"
    low, high = lead.bounds
    return "decoder's" if low > 0 else "compressors'" if high < 0 else "undecided"


def _of(results: Results, name: str, line: str, size: str, ratio: int) -> list[stats.Point]:
    found = points(results.rows, f"{_SPLIT}/{name}", ratio)
    return [p for p in found if (p.family, p.size) == (line, size)]


def _less(one: list[stats.Point], other: list[stats.Point]) -> list[stats.Point]:
    return [
        a._replace(value=a.value - b.value, sums_2W=None)
        for a, b in zip(one, other, strict=True)
        if a.value is not None and b.value is not None
    ]
