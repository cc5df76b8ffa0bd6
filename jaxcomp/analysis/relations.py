"""Correlations of rank and entropy with fidelity along training, raw and given step and loss.

Inside runs: the rank correlation of a predictor (effective rank, entropy) with fidelity over the
checkpoints of a run, raw, given the step, and given step and loss. The steps of one run are no
independent draws, so there is no p-value; an interval is over whole runs, from three on.

Between runs, at equal loss: each run is read where its loss first falls to a level that every run
reaches. There a run is one point, and runs can be permuted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.analysis.partial_correlation import Correlation, partial_correlation, partial_rho
from jaxcomp.evals.checkpoints import Followed, Row
from jaxcomp.evals.metrics import FIDELITY, LOSS, PREDICTOR, Headline, headline, headlines, of_role

LEVELS = 5
DRAWS = 2000
RUNS = 4  # fewer have too few orders for a permutation test to say anything at 5%
STEPS = 4  # checkpoints of a run; fewer go together by chance
PAIRS = headline("pairs/all/pair_accuracy")


class Relation(NamedTuple):
    """A predictor and an outcome over the checkpoints of all runs, inside runs."""

    predictor: str
    outcome: str
    given: str  # "", "step", "step and loss"
    found: Correlation  # `p` is not to be read; low, high NaN under three runs
    each: list[float]  # rho of each run alone, NaN where there is none


class Level(NamedTuple):
    """All runs at one loss (nats a token). A metric that a run's checkpoints lack is NaN."""

    loss: float
    values: dict[str, list[float]]  # metric -> one value a run
    between: dict[tuple[str, str], Correlation]  # (predictor, outcome) -> over runs; from RUNS on


class Peak(NamedTuple):
    """Where fidelity was best, and how far it is from there at the end. The peak is chosen on one
    half of the passages and both values are measured on the other; the interval is a paired
    bootstrap over those passages."""

    step: int
    best: float
    last: float
    low: float  # of last - best, 95%
    high: float


def measures(run: Followed) -> tuple[str, list[Headline], list[Headline]]:
    """The loss's metric, the predictors and the outcomes of runs of this kind."""
    heads = heads_of(run)
    predictors = [h for h in heads if h.role == PREDICTOR]
    outcomes = [h for h in heads if h == PAIRS or h.role in FIDELITY]
    return of_role(run.cfg, LOSS).metric, predictors, outcomes


def heads_of(run: Followed) -> tuple[Headline, ...]:
    """The headlines of a run of this kind, and PAIRS where its checkpoints were asked them."""
    asked = bool(run.rows) and PAIRS.metric in run.rows[0].metrics
    return (*headlines(run.cfg), PAIRS) if asked else headlines(run.cfg)


def relations(runs: Sequence[Followed]) -> list[Relation]:
    """Every predictor with every outcome, given nothing, the step, and step and loss; NaN for runs
    of fewer than STEPS checkpoints, and where the covariates explain one of the two whole; such
    runs are no part of `found`."""
    loss, predictors, outcomes = measures(runs[0])
    steps = np.array([row.step for run in runs for row in run.rows], float)
    losses = _column(runs, loss)
    which = np.repeat(np.arange(len(runs)), [len(run.rows) for run in runs])
    given: dict[str, np.ndarray | None] = {
        "": None,
        "step": steps[:, None],
        "step and loss": np.stack([steps, losses], axis=1),
    }
    out = []
    for x in predictors:
        for y in outcomes:
            x_N, y_N = _column(runs, x.metric), _column(runs, y.metric)
            for name, z_NK in given.items():
                each = [
                    partial_rho(x_N[at], y_N[at], None if z_NK is None else z_NK[at])
                    if at.sum() >= STEPS
                    else math.nan
                    for at in (which == r for r in range(len(runs)))
                ]
                # Where the step explains all ranks of a run, it says nothing of what is left.
                telling = np.isin(which, np.flatnonzero(np.isfinite(each)))
                found = partial_correlation(
                    x_N[telling],
                    y_N[telling],
                    None if z_NK is None else z_NK[telling],
                    which[telling],
                )
                out.append(Relation(x.metric, y.metric, name, found, each))
    return out


def levels(runs: Sequence[Followed], count: int = LEVELS) -> list[Level]:
    """The runs at `count` losses between the highest that all begin above and the lowest that all
    reach; empty where there is no such range."""
    loss, predictors, outcomes = measures(runs[0])
    every = [_values(run, loss) for run in runs]
    low = max(float(np.nanmin(v)) for v in every)
    high = min(float(v[0]) for v in every)
    if not low < high:
        return []
    names = [h.metric for h in (*predictors, *outcomes)]
    out = []
    for level in np.linspace(low, high, count + 2)[1:-1]:
        values = {n: [at_loss(run.rows, loss, n, float(level)) for run in runs] for n in names}
        values["step"] = [at_loss(run.rows, loss, "step", float(level)) for run in runs]
        between = {
            (x.metric, y.metric): partial_correlation(values[x.metric], values[y.metric])
            for x in (predictors if len(runs) >= RUNS else ())
            for y in outcomes
        }
        out.append(Level(float(level), values, between))
    return out


def at_loss(rows: Sequence[Row], loss: str, metric: str, level: float) -> float:
    """`metric` ("step": the number of updates) where the loss first falls to `level`, on the
    straight line between the two checkpoints around that place; NaN where it never does."""
    found = around(rows, loss, level)
    if found is None:
        return math.nan
    before, row, share = found
    return _number(before, metric) * (1 - share) + _number(row, metric) * share


def around(rows: Sequence[Row], loss: str, level: float) -> tuple[Row, Row, float] | None:
    """The two checkpoints between which the loss first falls to `level`, and how far from the first
    to the second it does (a share); None where it never does."""
    before: Row | None = None
    for row in rows:
        if _number(row, loss) <= level:
            if before is None:
                return (row, row, 1.0) if _number(row, loss) == level else None
            a, b = _number(before, loss), _number(row, loss)
            return before, row, (a - level) / (a - b)
        before = row
    return None


def after_peak(rows: Sequence[Row], seed: int = 0) -> Peak | None:
    """None where a half has no fact, or there are fewer than two checkpoints."""
    table = np.array([row.passages for row in rows], float)  # rows x passages x (kept, facts)
    if len(rows) < 2 or table.ndim != 3:
        return None
    choose, test = table[:, 0::2], table[:, 1::2]
    if not choose[:, :, 1].sum(1).all() or not test[:, :, 1].sum(1).all():
        return None
    best = int(np.argmax(_rate(choose)))
    rates, count = _rate(test), test.shape[1]
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    drawn = np.einsum("dp,rpk->rdk", times, test[[best, -1]])  # sums of the draws, not means
    there, last = np.divide(
        drawn[..., 0], drawn[..., 1], out=np.full(drawn.shape[:2], np.nan), where=drawn[..., 1] > 0
    )
    low, high = np.nanpercentile(last - there, [2.5, 97.5])
    return Peak(rows[best].step, float(rates[best]), float(rates[-1]), float(low), float(high))


def _rate(table: np.ndarray) -> np.ndarray:
    """Sum over sum of each row; NaN where a draw holds no fact."""
    top, bottom = table[..., 0].sum(-1), table[..., 1].sum(-1)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _column(runs: Sequence[Followed], metric: str) -> np.ndarray:
    return np.concatenate([_values(run, metric) for run in runs])


def _values(run: Followed, metric: str) -> np.ndarray:
    return np.array([_number(row, metric) for row in run.rows])


def _number(row: Row, metric: str) -> float:
    value: Any = row.step if metric == "step" else row.metrics.get(metric)
    return math.nan if value is None else float(value)
