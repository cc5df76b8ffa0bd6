"""Whose prior wins: rows in which it is known."""

import dataclasses

import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis import plots
from jaxcomp.analysis.report import report
from jaxcomp.config import WorldConfig
from jaxcomp.sweep import grid
from jaxcomp.sweep.store import DONE, Ledger


def page(cfg, folder, decoder, compressor, even=0.1):
    ledger = Ledger(folder)
    for job in grid.expand(cfg):
        extra = 0.01 * job.base_seed
        values = {"kept": 0.3, "decoder": decoder + extra, "compressor": compressor, "even": even}
        metrics = {f"counterfactual/split/{k}": v for k, v in values.items()}
        metrics["counterfactual/split/lead"] = decoder + extra - compressor
        metrics |= {"params": 100, "ordinary/loss": 1.0}
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
    report(cfg, folder)
    return (folder / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("decoder", "compressor", "base_seeds", "seeds", "word"),
    [
        (0.3, 0.1, (0, 1, 2), (0,), "decoder's"),
        (0.1, 0.3, (0, 1, 2), (0,), "compressors'"),
        (0.2, 0.21, (0, 1, 2), (0,), "undecided"),
        (0.3, 0.1, (0, 1), (0,), "undecided"),
        (0.3, 0.1, (0, 1), (0, 1), "undecided"),  # four runs are no three bases
    ],
)
def test_a_prior_wins_where_the_lead_is_clear(
    tmp_path, monkeypatch, decoder, compressor, base_seeds, seeds, word
):
    monkeypatch.setattr(plots, "plot", lambda results, head: None)
    cfg = config(base_seeds=base_seeds, seeds=seeds, ratios=(16,))
    world = WorldConfig(base_favourites=1)
    found = page(dataclasses.replace(cfg, world=world), tmp_path, decoder, compressor)
    section = found.split("## Whose prior wins")[1].split("##")[0]
    rows = [r for r in section.splitlines() if r.startswith("| toy")]
    assert len(rows) == 2
    assert all(r.endswith(f"| {word} |") for r in rows)
    pull = f"| {compressor - 0.1:.4g} "
    assert all(pull in r for r in rows)
    columns = (tmp_path / "report/results.csv").read_text().splitlines()[0]
    assert "counterfactual/split/lead" in columns


def test_a_report_of_one_prior_says_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "plot", lambda results, head: None)
    cfg = config(ratios=(16,))
    assert "Whose prior wins" not in page(cfg, tmp_path, 0.3, 0.1)
