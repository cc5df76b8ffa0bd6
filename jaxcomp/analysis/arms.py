"""The pull of the prior against size in several sweeps of one world with bands of people.

Each sweep is an arm: what of the compressor is trained, on which text, against which decoder. The
first is the one that is reported on; its own test is the sweep's answer (overwriting.py). Here
stand the secondary tests, all at the primary ratio and each adjusted by Holm's method over the
arms in which it is made:

- the pull of the prior rises with size, in the other arms;
- in every arm, it rises with size in band middle; the pull among errors rises; erased values come
  back as the favourite more often (one-sided permutation tests as in stats.py);
- in every arm, among the pretraining seeds of a setup it goes together with what the pretrained
  model knows of band upper (two-sided, ranks inside a setup, so size explains nothing of it).

An arm with under three pretraining seeds is shown and takes no part in a test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from jaxcomp.analysis import charts, figures, overwriting, stats
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.correlations import cells, inside_setups
from jaxcomp.analysis.document import Block, Head, Para, Table
from jaxcomp.analysis.paired_tests import holm
from jaxcomp.analysis.partial_correlation import Correlation
from jaxcomp.analysis.stats import MIN_REPLICATES, Point, Trend
from jaxcomp.analysis.tables import cell, header, number, p_value, points
from jaxcomp.config import Config, ConfigError
from jaxcomp.evals.metrics import PRIMARY, PULL, Headline, of_role
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Results
from jaxcomp.training.identity import SIDE_FIELDS, differences, under

KNOWN = "knowledge/base/upper/bits"
BANDS = ("head", "upper", "middle", "tail", "neutral")
_MAY_DIFFER = (
    *SIDE_FIELDS, "sweep", "compressor", "base_seed", "seed", "memory", "train", "families",
    "decoder", "folders.decoder", "people.train_prior_strength", "people.decoder_prior_strength",
)  # fmt: skip


class Tested(NamedTuple):
    """The trend of a metric with size in one arm; `adjusted`: None where it is not tested."""

    arm: str
    ends: str  # the smallest and the largest size of each family
    trend: Trend
    adjusted: float | None


def check(first: Config, other: Config) -> None:
    """Raises ConfigError where two sweeps do not ask the same question of the same world."""
    strays = [
        path
        for path, *_ in differences(asdict(first), asdict(other))
        if not under(path, _MAY_DIFFER)
    ]
    if strays:
        raise ConfigError(
            f"--compare: {other.name} differs from {first.name} in {', '.join(strays)}; expected "
            "sweeps of one world that differ in what is trained, its text, or the decoder"
        )


def blocks(arms: Sequence[Results]) -> list[Block]:
    """The figure, what each arm retains and preserves, then the secondary tests."""
    names = _names([arm.cfg for arm in arms])
    held = dict(zip(names, arms, strict=True))
    head = of_role(arms[0].cfg, PULL)
    return [
        Head("What is trained, and against which decoder"),
        _plot(held, head),
        _arms_table(held),
        _bands_table(held, head),
        Para(
            f"Secondary tests, at {arms[0].cfg.sweep.primary_ratio}x. p: one-sided, that it rises "
            "with size, then adjusted by Holm's method over the arms of its table that have one."
        ),
        *(_trends_table(held, *asked) for asked in _endpoints(head)),
        _knowledge_table(held, head),
    ]


def _names(cfgs: Sequence[Config]) -> list[str]:
    """The names of the sweeps, without their first word where all share it."""
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) < len(names):
        raise ConfigError(f"--compare: sweeps {', '.join(names)}; expected each of them once")
    parts = [name.partition("-") for name in names]
    short = len({first for first, *_ in parts}) == 1 and all(rest for *_, rest in parts)
    return [rest if short else name for name, (*_, rest) in zip(names, parts, strict=True)]


def _endpoints(head: Headline) -> list[tuple[Headline, bool]]:
    """Each metric that is tested, and whether the first arm's test is among these."""
    middle = head._replace(label="pull of the prior (middle)", metric=_of_band(head, "middle"))
    errors = head._replace(
        label="excess of errors to the favourite (upper)", metric="counterfactual/pull/upper"
    )
    erased = head._replace(
        label="erased values back as the favourite (upper)",
        metric="erased/nonfavourite/upper/overwritten",
    )
    return [(head, False), (middle, True), (errors, True), (erased, True)]


def _of_band(head: Headline, band: str) -> str:
    return f"{head.metric.rpartition('/')[0]}/{band}"


def tested(held: Mapping[str, Results], head: Headline, first: bool) -> list[Tested]:
    """The trend of `head` with size in every arm, but for the first unless `first`."""
    out = []
    for name, arm in list(held.items())[0 if first else 1 :]:
        at, sizes = _points(arm, head.metric), grid.sizes(arm.cfg, arm.cfg.sweep.primary_ratio)
        found = stats.sample(at, sizes)
        ends = "; ".join(
            " → ".join(number(found.value_RC[:, c].mean(), head.unit) for c in (small, large))
            for small, *_, large in map(found.columns, found.families)
        )
        out.append(Tested(name, ends, stats.trend(at, sizes), None))
    adjusted = holm({t.arm: t.trend.p_rise for t in out if t.trend.bases >= MIN_REPLICATES})
    return [t._replace(adjusted=adjusted.get(t.arm)) for t in out]


def with_knowledge(held: Mapping[str, Results], head: Headline) -> dict[str, Correlation]:
    """Of every arm with seeds enough: `head` with the pretrained model's bits of band upper, inside
    setups."""
    found = {}
    for name, arm in held.items():
        rows = [r for r in arm.rows if r.job.setup.ratio == arm.cfg.sweep.primary_ratio]
        if len({r.job.base_seed for r in rows}) >= MIN_REPLICATES:
            found[name] = inside_setups(rows, KNOWN, head.metric)[0]
    adjusted = holm({name: c.p for name, c in found.items()})
    return {name: c._replace(p=adjusted[name]) for name, c in found.items()}


def _points(arm: Results, metric: str) -> list[Point]:
    return points(arm.rows, metric, arm.cfg.sweep.primary_ratio)


def _mean(arm: Results, metric: str) -> stats.Estimate | None:
    """Over all sizes, a replicate's mean over sizes being one value."""
    sizes = grid.sizes(arm.cfg, arm.cfg.sweep.primary_ratio)
    found = stats.sample(_points(arm, metric), sizes)
    if not len(found.base_R):
        return None
    return stats.estimate(found, [1 / len(found.setups)] * len(found.setups))


# --- the section ------------------------------------------------------------------------------


def _plot(held: Mapping[str, Results], head: Headline) -> Chart:
    """A row a family, a panel a decoder, a line an arm."""
    panels: dict[str, dict[float, list[charts.Point]]] = defaultdict(lambda: defaultdict(list))
    for name, arm in held.items():
        for point in figures.sizes(arm, head, arm.cfg.sweep.primary_ratio):
            family = panels[point["series"]]
            family[arm.cfg.people.decoder_prior_strength].append(
                {**point, "series": name, "link": None}
            )
    rows = [
        [
            charts.lines(
                found,
                f"{family}, decoder's text: {strength:.0%} favourites",
                figures.SIZE,
                head.label,
                log=True,
                share=True,
            )
            for strength, found in sorted(decoders.items())
        ]
        for family, decoders in sorted(panels.items())
    ]
    caption = (
        f"{head.meaning[0].upper()}{head.meaning[1:]}. Means with 95% intervals; a line an arm."
    )
    return Chart("arms", rows, f"{head.label} against size, a line an arm", caption)


def _arms_table(held: Mapping[str, Results]) -> Table:
    kept = of_role(next(iter(held.values())).cfg, PRIMARY)
    body = []
    for t, (name, arm) in zip(tested(held, kept, True), held.items(), strict=True):
        gate = overwriting.gate(arm)
        body.append(
            [
                name, str(t.trend.bases), "–" if gate is None else "yes" if gate.open else "no",
                cell(_mean(arm, overwriting.RETAINED), "share"), t.ends, _rho(t.trend),
            ]
        )  # fmt: skip
    heads = ["arm", "pretraining seeds", "larger know more", "knowledge retained (%)"]
    caption = (
        "Retained: of the pretrained model's knowledge after training, mean over sizes ± half of "
        "its 95% interval. Facts preserved: the smallest → the largest size of each family."
    )
    return Table([*heads, header(kept), "rho with size"], body, caption, 1)


def _bands_table(held: Mapping[str, Results], head: Headline) -> Table:
    body = [
        [name, *(cell(_mean(arm, _of_band(head, band)), head.unit, True) for band in BANDS)]
        for name, arm in held.items()
    ]
    caption = (
        "Pull of the prior, mean over sizes ± half of its 95% interval, in percentage points. "
        "Neutral facts are a control: nobody has a favourite there."
    )
    return Table(["arm", *BANDS], body, caption, 1)


def _trends_table(held: Mapping[str, Results], head: Headline, first: bool) -> Table:
    body = [
        [t.arm, t.ends, _rho(t.trend), p_value(t.trend.p_rise), p_value(t.adjusted)]
        for t in tested(held, head, first)
    ]
    caption = f"{head.metric}: the smallest → the largest size of each family, means over seeds."
    return Table(["arm", header(head), "rho with size", "p", "p (Holm)"], body, caption, 1)


def _knowledge_table(held: Mapping[str, Results], head: Headline) -> Table:
    body = [[name, *cells(c), str(c.n)] for name, c in with_knowledge(held, head).items()]
    caption = (
        f"{head.label[0].upper()}{head.label[1:]} with what the pretrained model knows of band "
        "upper (bits), among the pretraining seeds of a setup; 95% bootstrap over setups; p "
        "two-sided, adjusted by Holm's method."
    )
    return Table(["arm", "rho", "95% interval", "p (Holm)", "models"], body, caption, 1)


def _rho(t: Trend) -> str:
    bounds = "" if t.bounds is None else f" [{t.bounds[0]:+.2f}, {t.bounds[1]:+.2f}]"
    return f"{t.rho:+.2f}{bounds}" if t.replicates else "–"
