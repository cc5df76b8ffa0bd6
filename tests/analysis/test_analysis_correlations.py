"""Rank and entropy among the replicates of a setup: made results with known answers."""

import numpy as np
import pytest

from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.correlations import explained, folded
from jaxcomp.analysis.document import Table
from jaxcomp.cli import overrides
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import Result, Results

RANK, ENTROPY, LOSS = "ordinary/rank", "ordinary/entropy_source", "ordinary/loss"
KEPT, DRIFT = "counterfactual/nonfavourite/all/preserved", "ordinary/drift"


def results(value, bases=4, seeds=1):
    """`value(size number, base seed, random) -> (loss, rank, kept)` at every job."""
    numbers = {"base_seeds": bases, "seeds": seeds}
    fields = [(f"sweep.{k}", ",".join(map(str, range(n)))) for k, n in numbers.items()]
    cfg = overrides.load("configs/tiny.py:full", [*fields, ("sweep.lr_grid", "")])
    rng, order, rows = np.random.default_rng(0), [], []
    for job in grid.expand(cfg):
        if job.setup.ratio != 16:
            continue
        order += [s for s in [job.setup] if s not in order]
        loss, rank, kept = value(order.index(job.setup), job.base_seed, rng)
        metrics = {LOSS: loss, RANK: rank, ENTROPY: loss, KEPT: kept, DRIFT: 1 - kept}
        rows.append(Result(job, metrics, {}, None))
    return Results(cfg, rows, [], [], [], [])


def one(found, predictor, outcome):
    return next(e for e in found if (e.predictor.metric, e.outcome.metric) == (predictor, outcome))


def test_what_only_size_carries_is_no_correlation_at_fixed_size():
    """Rank and fidelity both rise with size, and apart from that have nothing in common."""
    found = explained(
        results(lambda s, _, rng: (1.0, s + 0.1 * rng.normal(), s + 0.1 * rng.normal()), bases=20)
    )
    e = one(found, RANK, KEPT)
    assert (len(e.setups), e.found.n) == (9, 180)
    assert abs(e.found.rho) < 0.25  # three standard errors


def test_what_goes_together_inside_setups_is_seen_whatever_their_levels():
    def value(size, base, rng):
        luck = rng.normal()
        return 1.0, luck - 10 * size, 0.5 + 0.01 * luck + size

    found = explained(results(value))
    assert one(found, RANK, KEPT).found.rho == pytest.approx(1.0)
    assert one(found, RANK, DRIFT).found.rho == pytest.approx(-1.0)
    assert one(found, RANK, KEPT).found.p < 0.01


def test_training_seeds_of_a_base_are_one_point():
    """Inside a base rank and fidelity go together; its means go apart, and they alone count."""

    def value(size, base, rng):
        luck = rng.normal()
        return 1.0, 10 * base + luck, -10 * base + luck

    made = results(value, bases=3, seeds=5)
    e = one(explained(made), RANK, KEPT)
    assert (len(e.setups), e.found.n) == (9, 27)
    assert e.found.rho == pytest.approx(-1.0)
    mine = [r for r in made.rows if r.job.setup == e.pairs[0].setup and r.job.base_seed == 0]
    assert e.pairs[0].x == pytest.approx(np.mean([r.metrics[RANK] for r in mine]))
    # A run that lacks one of the two says nothing of the other either.
    mine[0].metrics[KEPT] = None
    e = one(explained(made), RANK, KEPT)
    assert e.pairs[0].x == pytest.approx(np.mean([r.metrics[RANK] for r in mine[1:]]))


@pytest.mark.parametrize("seeds", [1, 4])
def test_single_bases_explain_nothing(seeds):
    made = results(lambda _s, _b, rng: tuple(rng.normal(size=3)), bases=1, seeds=seeds)
    assert explained(made) == []
    assert folded(made) == []


def test_the_page_has_a_panel_a_pair_at_the_primary_ratio_and_says_what_cannot_be_measured():
    (made,) = folded(results(lambda s, _, rng: (rng.normal(), 2.0, rng.normal())))
    table, chart = made.blocks
    assert isinstance(table, Table)
    assert isinstance(chart, Chart)
    constant = [r for r in table.rows if r[1] == "effective rank"]
    assert constant
    assert all(r[3:6] == ["–", "–", "–"] for r in constant)
    assert "exploratory" in table.caption
    assert "At 16x; a point a pretraining seed" in chart.caption
    assert len(chart.rows) == 2  # predictors
