"""Intervals and the one question of a sweep: does fidelity fall with size while loss falls?

The unit of a claim about size is a *replicate*: one base seed x training seed, in which every size
of a family was trained once. Passages are not replicates of a claim about size, because all
passages of a run share one set of weights.

The trend of a metric is Spearman's rank correlation with the number of compressor parameters,
taken inside each replicate and family and averaged. Its null distribution permutes the sizes inside
each. Where there are three or more base seeds, training seeds that share a base model are permuted
together, since their errors are not independent.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

ALPHA = 0.05
MIN_REPLICATES = 3
DRAWS = 20_000  # of the permutation test where the exact distribution is too large
EXACT = 200_000
UNDECIDED = "undecided: these models only"


class Point(NamedTuple):
    """One trained setup: where it stands on the size axis and what was measured (None: missing)."""

    family: str
    size: str
    params: float
    base_seed: int
    seed: int
    value: float | None


class Trend(NamedTuple):
    """Mean Spearman correlation with size, and one-sided permutation p-values."""

    rho: float
    p_fall: float
    p_rise: float
    replicates: int


class RatioVerdict(NamedTuple):
    """What is claimed at one ratio. `p` is of the conjunction "loss falls and fidelity falls"."""

    ratio: int
    word: str  # observed | not observed | undecided: these models only
    p: float  # Holm-adjusted for the secondary ratios
    loss: Trend
    kept: Trend
    detail: str


class Verdict(NamedTuple):
    sentence: str
    primary_ratio: int
    ratios: tuple[RatioVerdict, ...]


def bootstrap(
    values: Iterable[float], *, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None below two values.

    With three replicates it covers about three times in four, not nineteen in twenty: read it as
    the range of the replicates, and the permutation test as the evidence.
    """
    x = np.asarray([v for v in values if math.isfinite(v)], float)
    if len(x) < 2:
        return None
    picks = np.random.default_rng(seed).integers(len(x), size=(draws, len(x)))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(x[picks].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


Sizes = Mapping[str, Collection[str]]  # family -> its sizes in the grid


def replicates(points: Sequence[Point], sizes: Sizes | None = None) -> list[list[Point]]:
    """The (family, base seed, seed) groups of complete replicates, smallest size first.

    Complete is a base seed x training seed in which every size of every family was measured; one
    with a failed or missing size is left out rather than compared over fewer sizes. `sizes` is what
    the grid asks for (None: what the points hold). A family of one size has no trend and no part.
    """
    held: dict[str, set[str]] = defaultdict(set)
    for p in points:
        held[p.family].add(p.size)
    asked = held if sizes is None else sizes
    wanted = {family: set(names) for family, names in asked.items() if len(set(names)) >= 2}
    blocks: dict[tuple[int, int], dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for p in points:
        if p.value is not None and math.isfinite(p.value) and p.family in wanted:
            blocks[p.base_seed, p.seed][p.family].append(p)
    whole = {
        key: found
        for key, found in blocks.items()
        if {f: {p.size for p in block} for f, block in found.items()} == wanted
    }
    return [
        sorted(whole[key][family], key=lambda p: (p.params, p.size))
        for family in sorted(wanted)
        for key in sorted(whole)
    ]


def trend(points: Sequence[Point], sizes: Sizes | None = None, *, seed: int = 0) -> Trend:
    """Does the value rise or fall with size? NaN correlation where no complete replicate exists."""
    blocks = replicates(points, sizes)
    count = len({(b[0].base_seed, b[0].seed) for b in blocks})
    if not blocks:
        return Trend(math.nan, 1.0, 1.0, 0)
    together = len({b[0].base_seed for b in blocks}) >= MIN_REPLICATES
    clusters: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for block in blocks:
        key = (block[0].family, block[0].base_seed) + (() if together else (block[0].seed,))
        clusters[key].append(_permuted_rho(block, seed))
    # Row 0 of every cluster is the observed order.
    totals = [np.sum(rhos, axis=0) for _, rhos in sorted(clusters.items())]
    observed = sum(t[0] for t in totals)
    null, exact = _convolve(totals, seed)
    tiny = 1e-9
    extra = 0 if exact else 1
    p_fall = (np.sum(null <= observed + tiny) + extra) / (len(null) + extra)
    p_rise = (np.sum(null >= observed - tiny) + extra) / (len(null) + extra)
    return Trend(float(observed / len(blocks)), float(p_fall), float(p_rise), count)


def _permuted_rho(block: list[Point], seed: int) -> np.ndarray:
    """Spearman's rho of a block under every order of its sizes (a sample above 7 sizes)."""
    x = rankdata([p.params for p in block])
    y = rankdata([p.value for p in block])
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    if len(block) <= 7:
        orders = np.array(list(itertools.permutations(range(len(block)))))
    else:
        rng = np.random.default_rng(seed)
        orders = np.stack([np.arange(len(block)), *(rng.permutation(len(x)) for _ in range(5039))])
    if scale == 0:  # a metric that never changes has no trend
        return np.zeros(len(orders))
    return x[orders] @ y / scale


def _convolve(totals: list[np.ndarray], seed: int) -> tuple[np.ndarray, bool]:
    """Null distribution of the sum over clusters, exact where it is small enough."""
    if math.prod(len(t) for t in totals) <= EXACT:
        null = np.zeros(1)
        for t in totals:
            null = (null[:, None] + t[None, :]).ravel()
        return null, True
    rng = np.random.default_rng(seed)
    return sum((rng.choice(t, size=DRAWS) for t in totals), np.zeros(DRAWS)), False


def judge(
    loss: Mapping[int, Sequence[Point]],
    kept: Mapping[int, Sequence[Point]],
    primary_ratio: int,
    *,
    sizes: Sizes | None = None,
    endpoint: str = "counterfactual slots kept",
    alpha: float = ALPHA,
) -> Verdict:
    """In which ratios does loss fall with size while fidelity (`kept`, named `endpoint`) falls?

    Both must fall, each at level `alpha` (an intersection-union test: the larger p decides). The
    primary ratio is fixed in the config before running and tested alone; the others are secondary,
    adjusted by Holm's method. `sizes`: as for `replicates`.
    """
    trends = {r: (trend(loss[r], sizes), trend(kept[r], sizes)) for r in sorted(loss)}
    raw = {r: max(a.p_fall, b.p_fall) for r, (a, b) in trends.items()}
    adjusted = _holm({r: p for r, p in raw.items() if r != primary_ratio})
    if primary_ratio in raw:
        adjusted[primary_ratio] = raw[primary_ratio]
    out = tuple(_verdict_at(r, *trends[r], adjusted[r], alpha, endpoint) for r in trends)
    return Verdict(_sentence(out, primary_ratio, endpoint), primary_ratio, out)


def _holm(ps: dict[int, float]) -> dict[int, float]:
    worst, out = 0.0, {}
    for i, (key, p) in enumerate(sorted(ps.items(), key=lambda kv: (kv[1], kv[0]))):
        worst = max(worst, min(1.0, p * (len(ps) - i)))
        out[key] = worst
    return out


def way(t: Trend, alpha: float = ALPHA) -> str:
    """A trend in words; p-values are one-sided."""
    if t.p_fall < alpha:
        return "falls"
    return "rises" if t.p_rise < alpha else "has no clear trend"


def _verdict_at(
    ratio: int, loss: Trend, kept: Trend, p: float, alpha: float, endpoint: str
) -> RatioVerdict:
    detail = (
        f"loss {way(loss, alpha)} with size (rho {loss.rho:+.2f}, p {loss.p_fall:.3g}), "
        f"{endpoint} {way(kept, alpha)} (rho {kept.rho:+.2f}, p {kept.p_fall:.3g})"
    )
    if min(loss.replicates, kept.replicates) < MIN_REPLICATES:
        # Fewer replicates cannot tell a size from the luck of its one base model.
        detail = f"rho of loss {loss.rho:+.2f}, of {endpoint} {kept.rho:+.2f}"
        if not loss.replicates:
            detail = "no replicate in which every size, of two or more, was measured"
        elif not kept.replicates:
            detail = f"{endpoint}: not measured in every size of any replicate"
        return RatioVerdict(ratio, UNDECIDED, p, loss, kept, detail)
    return RatioVerdict(ratio, "observed" if p < alpha else "not observed", p, loss, kept, detail)


def _sentence(ratios: tuple[RatioVerdict, ...], primary_ratio: int, endpoint: str) -> str:
    """The verdict in words; every word of it follows from the numbers."""
    by_ratio = {v.ratio: v for v in ratios}
    if primary_ratio not in by_ratio:
        head = f"Primary endpoint (ratio {primary_ratio}) is not in this grid: {UNDECIDED}."
    else:
        v = by_ratio[primary_ratio]
        n = min(v.loss.replicates, v.kept.replicates)
        plural = "replicate" if n == 1 else "replicates"
        head = (
            f"Bigger but less faithful ({endpoint} at {primary_ratio}x, the primary endpoint): "
            f"{v.word} [{v.detail}; {n} {plural}]."
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for v in ratios:
        if v.ratio != primary_ratio:
            groups[v.word].append(f"{v.ratio}x")
    rest = "; ".join(f"{word} at {', '.join(which)}" for word, which in sorted(groups.items()))
    return head + (f" Secondary ratios (Holm-adjusted): {rest}." if rest else "")
