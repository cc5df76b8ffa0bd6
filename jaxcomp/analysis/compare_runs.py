"""Comparison of sweeps with the same sizes against different decoders.

A decoder is adapted to read memory vectors of one reference compressor, and may suit compressors of
that size best. So an effect of size is claimed only where both sweeps show it clearly, in one
direction, and rank the sizes identically.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.analysis import stats
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.tables import counted, p_value, points
from jaxcomp.config import Config, ConfigError
from jaxcomp.data.sources import source_of
from jaxcomp.evals.metrics import endpoints
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import paths
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results
from jaxcomp.training import identity, manifest


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
    if same_decoder(first.cfg, second.cfg):
        raise ConfigError(
            "--compare: the other sweep has the same decoder; expected one against another decoder "
            "(as :full,reference=2 of configs/tiny.py)"
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
            f"--compare: {other.name} has sizes {theirs}, {first.name} has {mine}; expected the "
            "same families and sizes"
        )
    shapes = grid.shapes(first), grid.shapes(other)
    odd = [f"{f}/{s}" for f in mine for s in sorted(mine[f]) if len({x[f][s] for x in shapes}) > 1]
    if odd:
        raise ConfigError(
            f"--compare: {', '.join(odd)} of {other.name} has another shape than that of "
            f"{first.name}; expected one shape (families) under one name"
        )


def different(others: Sequence[Config]) -> None:
    """Raises ConfigError where two of the other sweeps have one decoder: it would count twice."""
    for one, two in itertools.combinations(others, 2):
        if same_decoder(one, two):
            raise ConfigError(
                f"--compare: {one.name} and {two.name} have the same decoder; expected sweeps "
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
        return "a decoder adapted with another reference compressor"
    return "another decoder"


def claims(found: list[Pair]) -> list[str]:
    return [f"{p.metric} {stats.way(p.first)} at {p.ratio}x" for p in found if p.claimed]


def blocks(results: Results, others: Sequence[Results]) -> list[Block]:
    """Does an effect of size hold against other decoders too? Raises ConfigError as `pairs` does,
    and where two of the others have one decoder."""
    if not others:
        return []
    different([other.cfg for other in others])
    every = [pairs(results, other) for other in others]
    out: list[Block] = [Head("Against other decoders")]
    if len(every) > 1:
        held = [c for c in claims(every[0]) if all(c in claims(found) for found in every)]
        said = "; ".join(held) or "none"
        out.append(Para(f"Effects of size against all {len(every) + 1} decoders: {said}."))
    for found, other in zip(every, others, strict=True):
        n = min((p.second.replicates for p in found), default=0)
        out.append(
            Para(
                f"{other.cfg.name} has the same sizes against {decoder_of(results.cfg, other.cfg)} "
                f"({counted(n, 'run')} per size). Effects of size that are clear and in one "
                "direction in both sweeps, with the sizes ranked identically: "
                f"{'; '.join(claims(found)) or 'none'}."
            )
        )
        names = results.cfg.name, other.cfg.name
        header = ["metric", "ratio", *names, *(f"order in {n}" for n in names), "effect claimed"]
        rows = [
            [
                p.metric, f"{p.ratio}x", cell(p.first), cell(p.second), *p.orders,
                "yes" if p.claimed else "no",
            ]
            for p in found
        ]  # fmt: skip
        caption = "Spearman's rho with size, as under Trends with size; sizes by their means."
        out.append(Table(header, rows, caption))
    return out


def cell(t: stats.Trend) -> str:
    """A trend in one cell; an interval and p-values only where there are base seeds enough."""
    if not t.replicates:
        return "–"
    if t.bounds is None or t.bases < stats.MIN_REPLICATES:
        return f"{t.rho:+.2f}"
    low, high = t.bounds
    ps = f"p fall {p_value(t.p_fall)}, rise {p_value(t.p_rise)}"
    return f"{t.rho:+.2f} [{low:+.2f}, {high:+.2f}] ({ps})"


def same_decoder(first: Config, other: Config) -> bool:
    """By the hash on the decoder's card, or that it will have: a folder may be named or found, and
    the same decoder may stand in several. A folder without a card counts by its weights."""
    folders = [cfg.folders.get("decoder") for cfg in (first, other)]
    if folders[0] and folders[0] == folders[1]:
        return True
    if not any(folders) and not any(source_of(cfg).facts for cfg in (first, other)):
        # Their hashes are of the text, which a report can do without.
        return first.decoder == other.decoder
    return _mark(first) == _mark(other)


def _mark(cfg: Config) -> str:
    folder = cfg.folders.get("decoder")
    if not folder:
        try:
            return identity.decoder_hash(cfg)
        except ConfigError:  # of text that is not here
            return "unknown"
    if is_id(folder):
        return folder
    found = manifest.weights_identity(paths.path(folder))
    return found.get("config_hash") or ",".join(found["files"]) or folder
