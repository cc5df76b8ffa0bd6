"""Tables of a report that compare sizes: differences, peaks and shapes of the two endpoints."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Folded, Table
from jaxcomp.analysis.monotonicity import Peak, peaks
from jaxcomp.analysis.paired_tests import Pair, pairs
from jaxcomp.analysis.tables import cell, csv_of, header, p_value, points
from jaxcomp.evals.metrics import HIGHER, Headline, endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results

COLUMNS = (
    "metric", "ratio", "family", "small", "large", "n", "change", "low", "high", "p", "p_holm",
    "p_least", "p_passages",
)  # fmt: skip


class Evidence(NamedTuple):
    """One of the two metrics at one ratio."""

    head: Headline
    ratio: int
    best: str  # lowest | highest
    pairs: list[Pair]
    peaks: list[Peak]
    bases: int  # base seeds in whole replicates


def gather(results: Results) -> list[Evidence]:
    """Of whole replicates; empty where there is none."""
    out = []
    for head in endpoints(results.cfg):
        best = "highest" if head.better == HIGHER else "lowest"
        for ratio in grid.ratios(results.cfg):
            sizes = grid.sizes(results.cfg, ratio)
            found = stats.sample(points(results.rows, head.metric, ratio), sizes)
            if found.units:
                both = pairs(found), peaks(found, best == "highest")
                out.append(Evidence(head, ratio, best, *both, found.bases))
    return out


def pairs_csv(found: list[Evidence]) -> str:
    """All pairs of sizes of a family, at every ratio."""
    return csv_of(
        [
            COLUMNS,
            *(
                (
                    e.head.metric, e.ratio, p.family, p.small, p.large, p.change.n, p.change.value,
                    *(p.change.bounds or (None, None)), p.p, p.adjusted, p.least, p.p_passages,
                )
                for e in found
                for p in e.pairs
            ),
        ]
    )  # fmt: skip


def folded(found: list[Evidence], primary_ratio: int) -> list[Folded]:
    """The pairs at the primary ratio (or the first there is), and all peaks; nothing under three
    pretraining seeds, which cannot tell two sizes apart."""
    found = [e for e in found if e.bases >= stats.MIN_REPLICATES]
    if not found:
        return []
    ratios = [e.ratio for e in found]
    ratio = primary_ratio if primary_ratio in ratios else ratios[0]
    return [
        Folded(
            f"Every size against every other, at {ratio}x",
            [_pair_table([e for e in found if e.ratio == ratio])],
        ),
        Folded("Which size is best, and is the metric monotone?", [_peak_table(found)]),
    ]


def _pair_table(found: list[Evidence]) -> Table:
    head = ["family", "sizes"]
    rows: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for e in found:
        passages = any(p.p_passages is not None for p in e.pairs)
        head += [f"change of {header(e.head)}", "p", "p (Holm)"]
        head += ["p over passages"] if passages else []
        for p in e.pairs:
            cells = rows[p.family, p.small, p.large]
            cells += [cell(p.change, e.head.unit, signed=True), p_value(p.p), p_value(p.adjusted)]
            cells += [p_value(p.p_passages)] if passages else []
    counts = Counter((e.head, p.family) for e in found for p in e.pairs)
    least = min(p.least for e in found for p in e.pairs)
    holm = min(1.0, least * min(counts.values()))
    reach = ", so no pair can be significant at 0.05" if holm >= stats.ALPHA else ""
    caption = (
        "The larger size less the smaller one: mean over pretraining seeds ± half of its 95% "
        "interval. p: two-sided sign flips of the differences inside a pretraining seed; Holm: "
        "adjusted over all pairs of the family. With so few seeds no p can be under "
        f"{least:.2g}, none by Holm under {holm:.2g}"
        f"{reach}. p over passages: of these trained models only, "
        "unadjusted. Other ratios: pairs.csv."
    )
    body = [[family, f"{small} → {large}", *c] for (family, small, large), c in rows.items()]
    return Table(head, body, caption)


def _peak_table(found: list[Evidence]) -> Table:
    rows = []
    for e in found:
        for p in e.peaks:
            shares = ", ".join(f"{size} {share:.0%}" for size, share in p.shares if share > 0.005)
            span = f"{p.low} to {p.high}" if p.low != p.high else str(p.low)
            rows.append(
                [
                    f"{e.best} {header(e.head)}", f"{e.ratio}x", p.family, p.size,
                    cell(p.value, e.head.unit), span, shares, p_value(p.p_bent),
                ]
            )  # fmt: skip
    return Table(
        [
            "metric", "ratio", "family", "best size", "value there", "best size, 95% interval",
            "share of draws", "monotone (p)",
        ],
        rows,
        "The size with the best mean over pretraining seeds ± half of its 95% interval; between "
        "which sizes the best one lies in 95% of bootstrap draws, and in which share of them each "
        "size is best. Monotone: p of the test that the means only rise or only fall with size "
        "(distance from the nearer isotonic fit); a small p means that they do not.",
    )  # fmt: skip
