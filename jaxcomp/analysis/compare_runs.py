"""Sweeps of one grid against different decoders: of another shape, or taught by another reference.

A decoder learns to be steered by one reference compressor, and may suit compressors of that size
best. So an effect of size is claimed only where both sweeps show it clearly, in one direction, and
put the sizes in the same order.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.analysis import decoder_names, stats
from jaxcomp.analysis.tables import points
from jaxcomp.config import Config, ConfigError
from jaxcomp.evals.metrics import endpoints
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results


class Pair(NamedTuple):
    """The trend of one endpoint at one ratio in both sweeps."""

    metric: str
    ratio: int
    first: stats.Trend
    second: stats.Trend
    orders: tuple[str, str]  # the sizes of each family by their means, lowest first

    @property
    def claimed(self) -> bool:
        """Both rise, or both fall, clearly, over enough base seeds, with one order of sizes."""
        if self.orders[0] != self.orders[1]:
            return False
        enough = min(self.first.bases, self.second.bases) >= stats.MIN_REPLICATES
        ways = {stats.way(self.first), stats.way(self.second)}
        return enough and (ways == {"falls"} or ways == {"rises"})


def pairs(first: Results, second: Results) -> list[Pair]:
    """The verdict's two endpoints at each ratio that both sweeps have.

    Raises ConfigError where the two are not sweeps of the same sizes against different decoders.
    """
    same_sizes(first.cfg, second.cfg)
    if decoder_names.same(first.cfg, second.cfg):
        raise ConfigError(
            "--beside: the other sweep has the same decoder; expected one against a decoder that "
            "another reference compressor taught (as :full,reference=2 of configs/tiny.py)"
        )
    ratios = sorted(set(grid.ratios(first.cfg)) & set(grid.ratios(second.cfg)))
    out = []
    for head in endpoints(first.cfg):
        for ratio in ratios:
            one, two = (points(r.rows, head.metric, ratio) for r in (first, second))
            sizes = grid.sizes(first.cfg, ratio)
            trends = stats.trend(one, sizes), stats.trend(two, sizes)
            out.append(Pair(head.label, ratio, trends[0], trends[1], (order(one), order(two))))
    return out


def same_sizes(first: Config, other: Config) -> None:
    """Raises ConfigError where the other grid has other sizes, or other shapes of those names."""
    mine, theirs = grid.sizes(first), grid.sizes(other)
    if mine != theirs:
        raise ConfigError(
            f"--beside: {other.name} has sizes {theirs}, {first.name} has {mine}; expected the "
            "same families and sizes"
        )
    shapes = grid.shapes(first), grid.shapes(other)
    odd = [f"{f}/{s}" for f in mine for s in sorted(mine[f]) if len({x[f][s] for x in shapes}) > 1]
    if odd:
        raise ConfigError(
            f"--beside: {', '.join(odd)} of {other.name} has another shape than that of "
            f"{first.name}; expected one shape (families) under one name"
        )


def different(others: Sequence[Config]) -> None:
    """Raises ConfigError where two of the other sweeps have one decoder: it would count twice."""
    for one, two in itertools.combinations(others, 2):
        if decoder_names.same(one, two):
            raise ConfigError(
                f"--beside: {one.name} and {two.name} have the same decoder; expected sweeps "
                "against different ones"
            )


def order(found: Sequence[stats.Point]) -> str:
    """`llama 24 < 40 < 64, qwen3 16 < 24`: by the mean over replicates."""
    values: dict[str, dict[str, list[float]]] = {}
    for p in found:
        if p.value is not None:
            values.setdefault(p.family, {}).setdefault(p.size, []).append(p.value)
    return ", ".join(
        f"{family} {' < '.join(sorted(sizes, key=lambda s: (statistics.fmean(sizes[s]), s)))}"
        for family, sizes in sorted(values.items())
    )


def decoder_of(first: Config, other: Config) -> str:
    """What the other sweep's decoder is, beside the first's."""
    mine, theirs = first.decoder, other.decoder
    if theirs.model != mine.model:
        m = theirs.model
        shape = f"{m.model_type} {m.hidden_size} wide, {m.num_hidden_layers} layers"
        return f"another decoder ({shape})"
    if theirs.reference != mine.reference:
        return "a decoder that another reference compressor taught"
    return "another decoder"


def claims(found: list[Pair]) -> list[str]:
    return [f"{p.metric} {stats.way(p.first)} at {p.ratio}x" for p in found if p.claimed]


def in_all(compared: Sequence[list[Pair]]) -> str:
    """Of several other decoders: what holds against every one of them."""
    first = claims(compared[0])
    held = [c for c in first if all(c in claims(found) for found in compared)]
    return (
        f"Against all {len(compared) + 1} decoders, effects of size: {'; '.join(held) or 'none'}."
    )


def sentence(found: list[Pair], name: str, decoder: str) -> str:
    """In words; `name` is the other sweep's, `decoder` as of `decoder_of`."""
    claimed = claims(found)
    said = f"{'; '.join(claimed)}. No other is" if claimed else "none, so none is"
    n = min((p.second.replicates for p in found), default=0)
    plural = "replicate" if n == 1 else "replicates"
    return (
        f"Beside {name}, the same sizes against {decoder} "
        f"({n} {plural}). Effects of size that are clear and in one direction in both sweeps, with "
        f"the sizes in one order: {said} claimed."
    )


def rows(found: list[Pair]) -> list[list[str]]:
    """Cells of a table: endpoint, ratio, trend and order in each sweep, claimed or not."""
    return [
        [
            p.metric,
            f"{p.ratio}x",
            cell(p.first),
            cell(p.second),
            *p.orders,
            "yes" if p.claimed else "no",
        ]
        for p in found
    ]


def cell(t: stats.Trend) -> str:
    """A trend in one cell; p-values only where there are base seeds enough for a test."""
    if not t.replicates:
        return "–"
    if t.bounds is None or t.bases < stats.MIN_REPLICATES:
        return f"{t.rho:+.2f} (n = {t.replicates})"
    low, high = t.bounds
    return f"{t.rho:+.2f} [{low:+.2f}, {high:+.2f}] (fall {t.p_fall:.2g}, rise {t.p_rise:.2g})"
