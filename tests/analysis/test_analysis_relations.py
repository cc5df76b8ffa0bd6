"""Correlations along checkpoints, equal loss, the peak: against made series with known answers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxcomp.analysis import checkpoints_page
from jaxcomp.analysis.checkpoints_page import write
from jaxcomp.analysis.overlaps import Overlap
from jaxcomp.analysis.relations import PAIRS, after_peak, at_loss, levels, measures, relations
from jaxcomp.cli import overrides
from jaxcomp.evals.checkpoints import Followed, Row

CFG = overrides.load("configs/tiny.py")
LOSS, RANK, ENTROPY = "ordinary/loss", "ordinary/rank", "ordinary/entropy_source"
KEPT, OVER, DRIFT = (
    "counterfactual/nonfavourite/all/preserved",
    "counterfactual/overwriting",
    "ordinary/drift",
)

pytestmark = pytest.mark.usefixtures("undrawn")


def run(loss, rank, kept, passages=()):
    """A run whose entropy is its loss, and whose drift and overwriting are what is not kept."""
    rows = []
    for i, values in enumerate(zip(loss, rank, kept, strict=True)):
        one, r, k = map(float, values)
        metrics = {LOSS: one, RANK: r, ENTROPY: one, KEPT: k, OVER: 1 - k, DRIFT: (1 - k) / 2}
        rows.append(Row(10 * (i + 1), metrics, list(passages[i]) if len(passages) else []))
    return Followed(Path("."), CFG, rows, 0)


def found(runs, predictor, outcome, given):
    return next(
        r
        for r in relations(runs)
        if (r.predictor, r.outcome, r.given) == (predictor, outcome, given)
    )


def test_the_measures_are_the_paper_s():
    loss, predictors, outcomes = measures(run([1], [1], [1]))
    assert loss == LOSS
    assert [h.metric for h in predictors] == [RANK, ENTROPY]
    assert [h.metric for h in outcomes] == [KEPT, OVER, DRIFT]


def test_few_checkpoints_go_together_by_chance():
    short = run([3, 2, 1], [1, 2, 3], [0.1, 0.2, 0.3])
    assert all(math.isnan(r.found.rho) and math.isnan(r.each[0]) for r in relations([short]))
    long = run([4, 3, 2, 1], [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    both = found([short, long], RANK, KEPT, "")
    assert (both.found.rho, both.found.n) == (1.0, 4)
    assert math.isnan(both.each[0])
    assert both.each[1] == 1.0


def test_pairs_that_were_asked_are_an_outcome():
    one = run([4, 3, 2, 1], [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    assert PAIRS not in measures(one)[2]
    for row in one.rows:
        row.metrics[PAIRS.metric] = -row.metrics[RANK]
    assert measures(one)[2][-1] is PAIRS
    assert found([one], RANK, PAIRS.metric, "").each == [-1.0]


def test_raw_is_spearman_and_what_only_training_time_carries_vanishes_given_the_step():
    rng = np.random.default_rng(0)
    t = np.arange(40.0)
    rank, kept = t + rng.normal(0, 3, 40), t / 40 + rng.normal(0, 0.05, 40)
    one = run(2 - t / 40, rank, kept)
    raw, partial = (found([one], RANK, KEPT, given) for given in ("", "step"))
    assert raw.each[0] == pytest.approx(spearmanr(rank, kept)[0])
    assert raw.each[0] > 0.9
    assert abs(partial.each[0]) < 0.35  # the noises are independent
    assert math.isnan(raw.found.low)  # one run: no interval over runs


def test_what_is_more_than_training_time_stays():
    rng = np.random.default_rng(1)
    t, extra = np.arange(40.0), rng.normal(0, 6, 40)
    one = run(2 - t / 40 + rng.normal(0, 0.02, 40), t + extra, (t + extra) / 60)
    assert found([one], RANK, KEPT, "step").each[0] > 0.95
    assert found([one], RANK, KEPT, "step and loss").each[0] > 0.95


def test_the_interval_is_over_runs():
    rng = np.random.default_rng(2)
    t = np.arange(12.0)
    runs = [run(2 - t / 12, t + rng.normal(0, 1, 12), t / 12) for _ in range(5)]
    one = found(runs, RANK, KEPT, "")
    assert len(one.each) == 5
    assert one.found.low <= one.found.rho <= one.found.high


def test_a_run_that_the_step_explains_whole_is_no_part_of_what_is_left():
    rng = np.random.default_rng(3)
    t = np.arange(12.0)
    smooth = [run(2 - t / 12, t, t / 12) for _ in range(4)]
    rough = run(2 - t / 12, t + rng.normal(0, 3, 12), t / 12 + rng.normal(0, 0.3, 12))
    one = found([*smooth, rough], RANK, KEPT, "step")
    assert [math.isnan(rho) for rho in one.each] == [True] * 4 + [False]
    assert (one.found.n, one.found.rho) == (12, pytest.approx(one.each[4]))
    assert math.isnan(one.found.low)  # of one run that varies


def test_a_run_is_read_where_its_loss_first_reaches_a_level():
    one = run([2.0, 1.0, 1.5, 0.5], [1, 2, 3, 4], [0.0, 0.4, 0.1, 0.8])
    assert at_loss(one.rows, LOSS, KEPT, 1.25) == pytest.approx(0.3)
    assert at_loss(one.rows, LOSS, "step", 1.25) == pytest.approx(17.5)
    assert at_loss(one.rows, LOSS, KEPT, 0.75) == pytest.approx(0.1 + 0.75 * 0.7)
    assert at_loss(one.rows, LOSS, KEPT, 2.0) == 0.0
    assert math.isnan(at_loss(one.rows, LOSS, KEPT, 2.5))
    assert math.isnan(at_loss(one.rows, LOSS, KEPT, 0.4))


def test_levels_lie_where_every_run_passes_and_runs_are_points_there():
    loss = np.linspace(2, 0.5, 16)
    runs = [run(loss + 0.1 * i, [i] * 16, [0.1 * i] * 16) for i in range(5)]
    every = levels(runs, 3)
    # From 0.9 (the last run's lowest) to 2.0 (where the first begins).
    assert [level.loss for level in every] == pytest.approx([1.175, 1.45, 1.725])
    for level in every:
        assert level.values[KEPT] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
        assert level.between[RANK, KEPT].rho == pytest.approx(1.0)
        assert level.between[RANK, OVER].rho == pytest.approx(-1.0)
        assert np.all(np.diff(level.values["step"]) > 0)  # worse runs get there later
    assert not levels([run([2, 1], [1, 1], [0, 0]), run([0.9, 0.8], [1, 1], [0, 0])])
    assert not levels(runs[:3], 1)[0].between  # three runs have too few orders


def test_a_peak_of_luck_is_no_fall():
    """Fidelity that only wobbles has a best checkpoint too; measured on other passages it is not
    better than the last one, in 95 of 100 worlds or so."""
    rng = np.random.default_rng(3)
    out = []
    for seed in range(100):
        facts = np.full((12, 80), 3.0)
        kept = rng.binomial(3, 0.5, (12, 80))
        passages = np.stack([kept, facts], axis=-1)
        peak: Any = after_peak(run(range(12), range(12), kept.mean(1) / 3, passages).rows, seed)
        out.append(peak.low <= 0 <= peak.high)
    assert np.mean(out) >= 0.88


def test_a_real_fall_after_the_peak_is_seen():
    rng = np.random.default_rng(4)
    chance = np.array([0.2, 0.5, 0.8, 0.6, 0.4])
    kept = rng.binomial(3, chance[:, None], (5, 200))
    passages = np.stack([kept, np.full((5, 200), 3)], axis=-1)
    peak: Any = after_peak(run(range(5), range(5), chance, passages).rows)
    assert peak.step == 30
    assert peak.high < -0.3
    assert peak.best == pytest.approx(0.8, abs=0.06)
    assert peak.last == pytest.approx(0.4, abs=0.06)


def test_without_facts_there_is_no_peak():
    none = np.zeros((3, 4, 2))
    assert after_peak(run(range(3), range(3), [0, 0, 0], none).rows) is None
    assert after_peak(run([1], [1], [0]).rows) is None


def test_a_document_of_several_runs_compares_them_at_equal_loss(tmp_path, monkeypatch):
    made = {(0, 1): Overlap(0.25, 0.5, 0.125, (3, 4)), (0, 2): None}
    monkeypatch.setattr(checkpoints_page, "overlaps", lambda runs: made)
    rng = np.random.default_rng(5)
    loss = np.linspace(2, 0.5, 8)
    passages = np.stack([rng.binomial(3, 0.5, (8, 20)), np.full((8, 20), 3)], axis=-1)
    runs = [run(loss + 0.1 * i, loss + i, 1 - loss / 3, passages) for i in range(4)]
    write(runs, tmp_path)
    text = (tmp_path / "checkpoints.md").read_text()
    assert "## At equal loss" in text
    assert "run 4" in text
    assert "permutation p" in text
    assert "| 0.250 | 0.500 | 0.125 | 3 and 4 |" in text
    assert "other passages, ratio, tokenizer or width" in text
    made = {(0, 1): None}
    write(runs[:2], tmp_path)
    assert (
        "Correlations between runs are given from 4 runs on"
        in (tmp_path / "checkpoints.md").read_text()
    )
