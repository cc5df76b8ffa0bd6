"""Rank and entropy among the replicates of a setup: made results with known answers."""

import numpy as np
import pytest

from jaxcomp import settings
from jaxcomp.sweep import grid
from jaxcomp.sweep.explains import blocks, explained
from jaxcomp.sweep.forms import Table, markdown
from jaxcomp.sweep.results import Result, Results

RANK, ENTROPY, LOSS = "ordinary/rank", "ordinary/entropy_source", "ordinary/loss"
KEPT, DRIFT = "counterfactual/nonfavourite/all/kept", "ordinary/drift"


def results(value, seeds=4):
    """`value(size number, replicate, random) -> (loss, rank, kept)` at every job."""
    cfg = settings.load(
        "configs/tiny.py:full",
        [("sweep.seeds", ",".join(map(str, range(seeds)))), ("sweep.lr_grid", "")],
    )
    rng, order, rows = np.random.default_rng(0), [], []
    for job in grid.expand(cfg):
        if job.base_seed or job.setup.ratio != 16:
            continue
        order += [s for s in [job.setup] if s not in order]
        loss, rank, kept = value(order.index(job.setup), job.seed, rng)
        metrics = {LOSS: loss, RANK: rank, ENTROPY: loss, KEPT: kept, DRIFT: 1 - kept}
        rows.append(Result(job, metrics, {}, None))
    return Results(cfg, rows, [], [], [], [])


def one(found, predictor, outcome):
    return next(e for e in found if (e.predictor.metric, e.outcome.metric) == (predictor, outcome))


def test_what_only_size_carries_is_no_correlation_at_fixed_size():
    """Rank and fidelity both rise with size, and apart from that have nothing in common."""
    found = explained(
        results(lambda s, _, rng: (1.0, s + 0.1 * rng.normal(), s + 0.1 * rng.normal()), seeds=20)
    )
    e = one(found, RANK, KEPT)
    assert (e.setups, e.found.n) == (9, 180)
    assert abs(e.found.rho) < 0.25  # three standard errors


def test_what_goes_together_inside_setups_is_seen_whatever_their_levels():
    def value(size, replicate, rng):
        luck = rng.normal()
        return 1.0, luck - 10 * size, 0.5 + 0.01 * luck + size

    found = explained(results(value))
    assert one(found, RANK, KEPT).found.rho == pytest.approx(1.0)
    assert one(found, RANK, DRIFT).found.rho == pytest.approx(-1.0)
    assert one(found, RANK, KEPT).found.p < 0.01


def test_single_models_explain_nothing():
    assert explained(results(lambda *_: (1.0, 1.0, 1.0), seeds=1)) == []
    assert blocks([]) == []


def test_the_table_says_what_cannot_be_measured():
    made = blocks(explained(results(lambda s, _, rng: (rng.normal(), 2.0, rng.normal()))))
    table = next(b for b in made if isinstance(b, Table))
    constant = [r for r in table.rows if r[1] == "effective rank"]
    assert constant
    assert all(r[3:6] == ["–", "–", "–"] for r in constant)
    assert "exploratory" in markdown("x", made)
