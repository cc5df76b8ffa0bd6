"""Size against size in a report: differences, peaks and shapes of the verdict's two metrics."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import NamedTuple

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.monotonicity import Peak, peaks
from jaxcomp.analysis.paired_tests import Pair, pairs
from jaxcomp.analysis.tables import points, text
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
    """Of whole replicates; empty lists where there is none."""
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


def shown(e: stats.Estimate) -> str:
    """`0.182 ± 0.05`, or `0.182 (n = 1)` where there is no interval."""
    return f"{e.value:.4g} (n = {e.n})" if e.half is None else f"{e.value:.4g} ± {e.half:.2g}"


def pairs_csv(found: list[Evidence]) -> str:
    """All pairs of sizes of a family, at every ratio; columns as in the metrics page."""
    lines: list[list[str]] = [list(COLUMNS)]
    for e in found:
        for p in e.pairs:
            low, high = p.change.bounds or (None, None)
            cells = (
                e.head.metric, e.ratio, p.family, p.small, p.large, p.change.n, p.change.value,
                low, high, p.p, p.adjusted, p.least, p.p_passages,
            )  # fmt: skip
            lines.append([text(c) for c in cells])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def blocks(found: list[Evidence], primary_ratio: int) -> list[Block]:
    """The pairs at the primary ratio (or the first there is), and all peaks."""
    if not found:
        return []
    ratios = [e.ratio for e in found]
    ratio = primary_ratio if primary_ratio in ratios else ratios[0]
    at = [e for e in found if e.ratio == ratio]
    return [
        Head(f"Size against size, at {ratio}x"),
        _pair_table(at),
        Para(_pair_note(at)),
        Head("Where the best size is"),
        _peak_table(found),
        Para(
            "The size with the best mean over replicates, and the share of the bootstrap's draws "
            "in which each size is the best; between the two sizes of the interval lie 95% of "
            "the draws. Monotone: p of the test that the means only rise or only fall with size "
            "(distance from the nearer isotonic fit); small means that they do not."
            + _of_these(found)
        ),
    ]


def _pair_table(found: list[Evidence]) -> Table:
    header = ["family", "sizes"]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for e in found:
        passages = any(p.p_passages is not None for p in e.pairs)
        header += [f"change of {e.head.label}", "p", "p (Holm)"]
        header += ["p over passages"] if passages else []
        for p in e.pairs:
            cells = rows.setdefault(
                (p.family, p.small, p.large), [p.family, f"{p.small} → {p.large}"]
            )
            cells += [shown(p.change), f"{p.p:.2g}", f"{p.adjusted:.2g}"]
            cells += [f"{p.p_passages:.2g}"] if p.p_passages is not None else []
    return Table(header, list(rows.values()))


def _pair_note(found: list[Evidence]) -> str:
    every = [p for e in found for p in e.pairs]
    said = (
        "Large less small, mean over replicates. p: two-sided sign flips of the differences inside "
        "a replicate (a base seed where there are three, else a run); Holm: adjusted over all "
        f"pairs of the family. {_reach(found)}{_of_these(found)}"
    )
    if any(p.p_passages is not None for p in every):
        said += " p over passages: of these trained models and no others, unadjusted."
    return said + " Other ratios: pairs.csv."


def _of_these(found: list[Evidence]) -> str:
    few = any(e.bases < stats.MIN_REPLICATES for e in found)
    return " Under three base seeds all of it is of these bases and of no others." if few else ""


def _reach(found: list[Evidence]) -> str:
    """Says where no pair can be told apart, whatever the numbers: Holm's least p is that of one
    pair times the number of pairs."""
    lowest: dict[str, float] = {}
    least = 1.0
    for e in found:
        counts = Counter(p.family for p in e.pairs)
        for p in e.pairs:
            least = min(least, p.least)
            adjusted = min(1.0, p.least * counts[p.family])
            lowest[p.family] = min(lowest.get(p.family, 1.0), adjusted)
    beyond = [family for family, p in sorted(lowest.items()) if p >= stats.ALPHA]
    said = (
        f"With these replicates there is no p under {least:.2g} and none by Holm under "
        f"{min(lowest.values(), default=1.0):.2g}"
    )
    if not beyond:
        return f"{said}."
    which = "no pair" if len(beyond) == len(lowest) else f"no pair of {', '.join(beyond)}"
    return f"{said}, so {which} can be told apart at 0.05 here."


def _peak_table(found: list[Evidence]) -> Table:
    header = ["metric", "ratio", "family", "best size", "there", "95% of draws", "share of draws"]
    rows = []
    for e in found:
        for p in e.peaks:
            shares = ", ".join(f"{size} {share:.0%}" for size, share in p.shares if share > 0.005)
            span = f"{p.low} to {p.high}" if p.low != p.high else p.low
            several = p.low is not None
            rows.append(
                [
                    f"{e.best} {e.head.label}",
                    f"{e.ratio}x",
                    p.family,
                    p.size,
                    shown(p.value),
                    span or "–",
                    shares if several else "–",
                    "–" if p.p_bent is None else f"{p.p_bent:.2g}",
                ]
            )
    return Table([*header, "monotone (p)"], rows)
