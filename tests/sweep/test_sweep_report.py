import csv
import io
import re

import numpy as np
import pytest
from sweep_stub import config

from jaxcomp.sweep import grid, passages, plots, results
from jaxcomp.sweep.headlines import WORLD
from jaxcomp.sweep.ledger import DONE, FAILED, Ledger
from jaxcomp.sweep.report import report


def fill(cfg, workdir, trend=-0.1, skip=(), failed=()):
    """A ledger in which loss falls with size and slots kept follow `trend`."""
    ledger = Ledger(workdir)
    rng = np.random.default_rng(0)
    for job in grid.expand(cfg):
        if job.id in skip:
            continue
        if job.id in failed:
            ledger.write(job, FAILED, error="ValueError: <planted> | failure")
            continue
        size = grid.model(job.config).hidden_size
        base = {h.metric: float(rng.random()) for h in WORLD}
        step = np.log2(size) + 0.01 * rng.random()
        metrics = base | {
            "params": size * 100,
            "params_body": size,
            "val_loss": 1.0 / 3,
            "ordinary/loss": 2 - 0.1 * step,
            "ordinary/floor/loss": 2.5,
            "ordinary/passage_bits": 60.0,
            "counterfactual/nonfavourite/all/kept": 0.9 + trend * step,
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={"train_s": rng.random()})


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_report_of_a_planted_paradox(tmp_path):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    fill(cfg, tmp_path)
    written = report(cfg, tmp_path)
    assert "counterfactual slots kept at 16x, the primary endpoint): observed" in written.sentence
    assert (written.done, written.failed, written.missing) == (24, (), ())
    assert "6 replicates" in written.sentence
    html = (tmp_path / "report/report.html").read_text()
    assert html.count('src="data:image/png;base64,') == len(WORLD)
    assert not re.search(r"https?://|<script|<link", html)
    assert all(p.stat().st_size < 200_000 for p in (tmp_path / "report").glob("*.png"))
    assert written.sentence in (tmp_path / "report/report.md").read_text()
    assert "60.0 bits" in html


@pytest.mark.parametrize(("trend", "word"), [(0.1, "rises"), (0.0, "not observed")])
def test_the_verdict_follows_the_numbers(tmp_path, trend, word):
    cfg = config(base_seeds=(0, 1, 2, 3, 4, 5))
    fill(cfg, tmp_path, trend)
    sentence = results.verdict(results.collect(cfg, Ledger(tmp_path))).sentence
    assert word in sentence
    assert "primary endpoint): not observed" in sentence


def test_an_unfinished_sweep_says_what_is_missing_and_what_failed(tmp_path):
    cfg = config()
    fill(cfg, tmp_path, skip=["toy-s-r4-b0-s0"], failed=["toy-m-r4-b1-s0"])
    written = report(cfg, tmp_path)
    assert written.missing == ("toy-s-r4-b0-s0",)
    assert "undecided: these models only" in written.sentence
    page = (tmp_path / "report/report.html").read_text()
    assert "missing from this report: 1 job:" in page
    assert "toy-m-r4-b1-s0: ValueError: &lt;planted&gt; | failure" in page
    assert len(rows((tmp_path / "report/results.csv").read_text())) == 6


def test_an_empty_sweep_still_has_a_report(tmp_path):
    written = report(config(), tmp_path)
    assert len(written.missing) == 8
    assert "No job has finished yet" in (tmp_path / "report/report.md").read_text()


def test_csv_is_stable_sorted_and_without_timings(tmp_path):
    cfg = config()
    fill(cfg, tmp_path)
    text = results.results_csv(results.collect(cfg, Ledger(tmp_path)))
    found = rows(text)
    assert [(r["size"], r["ratio"], r["base_seed"]) for r in found] == [
        (s, r, b) for s in ("s", "m") for r in ("4", "16") for b in ("0", "1")
    ]
    assert {r["val_loss"] for r in found} == {"0.333333"}
    assert not any("train_s" in name for name in found[0])
    fill(cfg, tmp_path)
    assert results.results_csv(results.collect(cfg, Ledger(tmp_path))) == text


def test_cells():
    assert [results.text(v) for v in (None, float("nan"), 0.1 + 0.2, 3, 1e-9, "x")] == [
        "", "", "0.3", "3", "1e-09", "x",
    ]  # fmt: skip


def test_bars_are_over_replicates_or_else_over_passages(tmp_path):
    cfg = config(base_seeds=(0,), ratios=(4,))
    ledger = Ledger(tmp_path)
    fill(cfg, tmp_path)
    for job in grid.expand(cfg):
        row = ledger.row(job)
        assert row is not None
        bounds = {"ordinary/loss": (1.0, 2.0)}
        ledger.write(job, DONE, metrics=row["metrics"], intervals=bounds, timings={})
    found = plots.summary(results.collect(cfg, ledger), "ordinary/loss", 4, "toy")
    assert [tuple(f[2:]) for f in found] == [(1.0, 2.0), (1.0, 2.0)]
    many = config(base_seeds=(0, 1, 2), ratios=(4,))
    fill(many, tmp_path / "many")
    found = plots.summary(
        results.collect(many, Ledger(tmp_path / "many")), "ordinary/loss", 4, "toy"
    )
    for _, mean, low, high in found:
        assert low is not None
        assert high is not None
        assert low < mean < high


def test_intervals_over_passages_hold_the_metric():
    rng = np.random.default_rng(1)
    records, top, bottom = [], 0.0, 0
    for _ in range(60):
        n, kept = 5, int(rng.integers(0, 6))
        loss, targets = float(rng.random()), int(rng.integers(1, 9))
        top, bottom = top + loss * targets, bottom + targets
        counts = {"nonfavourite/all/kept": kept, "nonfavourite/all/lost": n - kept}
        records.append({"set": "ordinary", "loss": loss, "targets": targets, "counts": counts})
    share = sum(r["counts"]["nonfavourite/all/kept"] for r in records) / 300
    metrics = {"ordinary/loss": top / bottom, "ordinary/nonfavourite/all/kept": share}
    names = [*metrics, "ordinary/rank", "counterfactual/overwriting"]
    found = passages.intervals(records, metrics, names)
    assert set(found) == set(metrics)
    for name, (low, high) in found.items():
        assert low < metrics[name] < high
    # Not measurable: no rate, so no interval either.
    edits = [{"set": "edits", "outcome": "kept", "control": False}] * 3
    assert passages.intervals(edits, {"edits/all/kept": None}, ["edits/all/kept"]) == {}


def test_interval_width_is_that_of_the_binomial():
    hits = np.repeat([0.0, 1.0], 200)
    bounds = passages.ratio_interval(hits, np.ones(400))
    assert bounds is not None
    assert bounds[1] - bounds[0] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
