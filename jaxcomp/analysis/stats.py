"""Intervals and trends of a sweep: hierarchical bootstrap, and Spearman's rho with size.

The unit of a claim about size is a *replicate*: one base seed x training seed, in which every size
of a family was trained once. Passages are not replicates of a claim about size, because all
passages of a run share one set of weights. Training seeds of one base share its errors, so a claim
takes three base seeds (verdict.few); under three, runs are drawn in their place, for an interval of
these bases and of no others.

**Interval.** Saravanan et al. (2020): base seeds are drawn with replacement, then training seeds
inside each drawn base. Passages, where their records are there, are drawn once for all runs, since
all runs rebuild the same ones. One base seed, and one passage, fewer is drawn than there are (Rao
and Wu 1988), which gives the variance of a mean without bias. The interval is the value ±
Student's t x the standard deviation over the draws: percentiles of three base seeds never leave
their range, which holds the mean three times in four. It is wide at three base seeds, as it should
be; with several training seeds a base it holds more than 95%, since their noise is counted in both
steps (Davison and Hinkley 1997, 3.8).

**Trend.** Spearman's rank correlation of a metric with the number of compressor parameters, inside
each replicate and family, averaged. Its null distribution permutes the sizes inside each. For equal
sets of sizes this is Page's test (1963), whose L is a sum of these rho up to a constant. Where
there are three or more base seeds, training seeds that share a base model are permuted together,
since their errors are not independent.

Letters here: R replicates, C columns (setups), D draws, W passages.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

ALPHA = 0.05
MIN_REPLICATES = 3  # base seeds (of an interval: or runs): fewer cannot separate size from chance
DRAWS = 20_000  # of the permutation test where the exact distribution is too large
EXACT = 200_000
BOOTSTRAP = 2000


class Point(NamedTuple):
    """One trained setup: where it stands on the size axis and what was measured (None: missing).

    `sums_2W`: numerators and denominators of the passages, where the value is a sum over a sum and
    the records are there.
    """

    family: str
    size: str
    params: float
    base_seed: int
    seed: int
    value: float | None
    sums_2W: np.ndarray | None = None


class Estimate(NamedTuple):
    """A mean over replicates and its interval; None where there are under 3 to show one."""

    value: float
    half: float | None  # half of the interval's width
    n: int  # runs, or replicates
    levels: tuple[str, ...]  # drawn: base seeds | runs, training seeds, passages

    @property
    def bounds(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.value - self.half, self.value + self.half)


class Trend(NamedTuple):
    """Mean Spearman correlation with size, and one-sided permutation p-values."""

    rho: float
    p_fall: float
    p_rise: float
    replicates: int
    bases: int  # base seeds among them
    half: float | None = None  # of the 95% interval of rho

    @property
    def bounds(self) -> tuple[float, float] | None:
        if self.half is None:
            return None
        return max(-1.0, self.rho - self.half), min(1.0, self.rho + self.half)


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


class Sample(NamedTuple):
    """One metric at one ratio, of whole replicates."""

    setups: tuple[tuple[str, str], ...]  # C x (family, size), smallest first inside a family
    base_R: np.ndarray  # base seed of each replicate
    value_RC: np.ndarray
    sums_2RCW: np.ndarray | None  # of the passages; None unless every run has them

    def columns(self, family: str) -> list[int]:
        return [i for i, setup in enumerate(self.setups) if setup[0] == family]

    @property
    def families(self) -> list[str]:
        return sorted({family for family, _ in self.setups})

    @property
    def bases(self) -> int:
        return len(np.unique(self.base_R))

    @property
    def units(self) -> int:
        """What is independent: base seeds where there are three; else, of these bases, runs."""
        return self.bases if self.bases >= MIN_REPLICATES else len(self.base_R)


def sample(points: Sequence[Point], sizes: Sizes | None = None) -> Sample:
    """Whole replicates only, as `replicates` says; R is 0 where there is none."""
    rows: dict[tuple[int, int], list[Point]] = defaultdict(list)
    for block in replicates(points, sizes):
        for p in block:
            rows[p.base_seed, p.seed].append(p)
    table = [row for _, row in sorted(rows.items())]
    if not table:
        return Sample((), np.zeros(0, int), np.zeros((0, 0)), None)
    sums = None
    if all(p.sums_2W is not None for row in table for p in row):
        sums = np.moveaxis(np.array([[p.sums_2W for p in row] for row in table]), 2, 0)
    return Sample(
        tuple((p.family, p.size) for p in table[0]),
        np.array([row[0].base_seed for row in table]),
        np.array([[p.value for p in row] for row in table], float),
        sums,
    )


def drawn(found: Sample, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`weight_DR` of the replicates (sums 1) and `value_DRC` in each draw of the bootstrap.

    `value_DRC` has one row for all draws where no passages enter.
    """
    rng = np.random.default_rng(seed)
    weight_DR = _weights(found.base_R, rng)
    if found.sums_2RCW is None:
        return weight_DR, found.value_RC[None]
    count = found.sums_2RCW.shape[-1]
    times_DW = rng.multinomial(max(count - 1, 1), np.full(count, 1 / count), size=BOOTSTRAP)
    top_DRC, bottom_DRC = np.einsum("dw,krcw->kdrc", times_DW, found.sums_2RCW, optimize=True)
    some = bottom_DRC > 0
    value_DRC = np.where(some, top_DRC / np.where(some, bottom_DRC, 1.0), found.value_RC)
    return weight_DR, value_DRC


def _weights(base_R: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bases, number_R = np.unique(base_R, return_inverse=True)
    if len(bases) < MIN_REPLICATES:
        number_R = np.arange(len(base_R))
    units = int(number_R.max()) + 1
    chosen = max(units - 1, 1)
    times = rng.multinomial(chosen, np.full(units, 1 / units), size=BOOTSTRAP)
    weight_DR = np.zeros((BOOTSTRAP, len(base_R)))
    for unit in range(units):
        inside = np.flatnonzero(number_R == unit)
        seeds = rng.multinomial(times[:, unit] * len(inside), np.full(len(inside), 1 / len(inside)))
        weight_DR[:, inside] = seeds / len(inside) / chosen
    return weight_DR


def half_width(
    found: Sample, all_D: np.ndarray, replicates_D: np.ndarray, level: float = 0.95
) -> float | None:
    """Half of the two-sided interval from a statistic's draws; None under 3 units.

    `replicates_D` are its draws with all passages as they are. Degrees of freedom: units - 1, and
    those of the passages where these vary more (Satterthwaite 1946).
    """
    from scipy.stats import t as student

    if found.units < MIN_REPLICATES:
        return None
    spread = float(np.std(all_D))
    if spread <= 1e-12 * float(np.max(np.abs(all_D))):
        return 0.0  # all the same, but for rounding
    free = found.units - 1.0
    if found.sums_2RCW is not None:
        of_replicates = min(float(np.var(replicates_D)) / spread**2, 1.0)
        count = found.sums_2RCW.shape[-1]
        free = 1 / (of_replicates**2 / free + (1 - of_replicates) ** 2 / max(count - 1, 1))
    return float(student.ppf(0.5 + level / 2, free)) * spread


def estimate(
    found: Sample, contrast_C: Sequence[float] | np.ndarray, seed: int = 0, level: float = 0.95
) -> Estimate:
    """A weighted sum of columns, mean over replicates: one column, or a difference of two."""
    contrast_C = np.asarray(contrast_C, float)
    weight_DR, value_DRC = drawn(found, seed)
    own_R = found.value_RC @ contrast_C
    all_D = np.sum(weight_DR * (value_DRC @ contrast_C), axis=1)
    half = half_width(found, all_D, weight_DR @ own_R, level)
    return Estimate(
        float(own_weights(found.base_R) @ own_R), half, len(found.base_R), levels(found)
    )


def own_weights(base_R: np.ndarray) -> np.ndarray:
    """Every unit (see `Sample.units`) counts the same, as in the draws."""
    bases, number_R, count = np.unique(base_R, return_inverse=True, return_counts=True)
    if len(bases) < MIN_REPLICATES:
        return np.full(len(base_R), 1 / len(base_R))
    return 1 / (len(bases) * count[number_R.reshape(-1)])


def unit_means(found: Sample) -> np.ndarray:
    """`value_UC` of what is independent: base seeds, over their training seeds, or runs."""
    bases, number_R = np.unique(found.base_R, return_inverse=True)
    if len(bases) < MIN_REPLICATES:
        return found.value_RC
    return np.array([found.value_RC[number_R == u].mean(axis=0) for u in range(len(bases))])


def levels(found: Sample) -> tuple[str, ...]:
    """Which levels of the hierarchy enter an interval."""
    bases, count = np.unique(found.base_R, return_counts=True)
    if len(bases) >= MIN_REPLICATES:
        out = ["base seeds"] + (["training seeds"] if count.max() > 1 else [])
    else:
        out = ["runs"]
    return (*out, *(["passages"] if found.sums_2RCW is not None else []))


def mean(points: Sequence[Point]) -> Estimate | None:
    """Of one setup, over all of its runs; None where nothing was measured."""
    held = [p for p in points if p.value is not None and math.isfinite(p.value)]
    if not held:
        return None
    sums = None
    if all(p.sums_2W is not None for p in held):
        sums = np.moveaxis(np.array([[p.sums_2W] for p in held]), 2, 0)
    one = Sample(
        ((held[0].family, held[0].size),),
        np.array([p.base_seed for p in held]),
        np.array([[p.value] for p in held], float),
        sums,
    )
    return estimate(one, [1.0])


def trend(points: Sequence[Point], sizes: Sizes | None = None, *, seed: int = 0) -> Trend:
    """Does the value rise or fall with size? NaN correlation where no complete replicate exists."""
    blocks = replicates(points, sizes)
    count = len({(b[0].base_seed, b[0].seed) for b in blocks})
    if not blocks:
        return Trend(math.nan, 1.0, 1.0, 0, 0)
    bases = len({b[0].base_seed for b in blocks})
    together = bases >= MIN_REPLICATES
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
    rho = float(observed / len(blocks))
    half = _rho_half(sample(points, sizes), seed)
    return Trend(rho, float(p_fall), float(p_rise), count, bases, half)


def _rho_half(found: Sample, seed: int) -> float | None:
    weight_DR, value_DRC = drawn(found, seed)

    def rho(value_XRC: np.ndarray) -> np.ndarray:
        return np.mean([_rhos(value_XRC[..., found.columns(f)]) for f in found.families], axis=0)

    all_D = np.sum(weight_DR * rho(value_DRC), axis=1)
    return half_width(found, all_D, weight_DR @ rho(found.value_RC))


def _rhos(value_DRC: np.ndarray) -> np.ndarray:
    """Spearman's rho of the columns with their order, which is that of size; 0 for a flat row."""
    from scipy.stats import rankdata

    y = rankdata(value_DRC, axis=-1)
    y = y - y.mean(axis=-1, keepdims=True)
    x = np.arange(y.shape[-1]) - (y.shape[-1] - 1) / 2
    scale = np.sqrt((x @ x) * np.sum(y * y, axis=-1))
    return np.where(scale > 0, y @ x / np.where(scale > 0, scale, 1.0), 0.0)


def _permuted_rho(block: list[Point], seed: int) -> np.ndarray:
    """Spearman's rho of a block under every order of its sizes (a sample above 7 sizes)."""
    from scipy.stats import rankdata

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


def way(t: Trend, alpha: float = ALPHA) -> str:
    """A trend in words; p-values are one-sided."""
    if t.p_fall < alpha:
        return "falls"
    return "rises" if t.p_rise < alpha else "has no clear trend"
