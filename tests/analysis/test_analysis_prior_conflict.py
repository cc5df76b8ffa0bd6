"""Whose prior wins: rows in which it is known."""

import dataclasses

import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis.document import Table
from jaxcomp.analysis.prior_conflict import folded
from jaxcomp.analysis.report import report
from jaxcomp.config import WorldConfig
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import collect
from jaxcomp.sweep.store import DONE, Ledger

pytestmark = pytest.mark.usefixtures("undrawn")


def page(cfg, folder, decoder, compressor, even=0.1):
    ledger = Ledger(folder)
    for job in grid.expand(cfg):
        extra = 0.01 * job.base_seed
        values = {
            "preserved": 0.3,
            "decoder": decoder + extra,
            "compressor": compressor,
            "even": even,
        }
        metrics = {f"counterfactual/split/{k}": v for k, v in values.items()}
        metrics["counterfactual/split/lead"] = decoder + extra - compressor
        metrics |= {"params": 100, "ordinary/loss": 1.0}
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
    return folded(collect(cfg, ledger))


@pytest.mark.parametrize(
    ("decoder", "compressor", "base_seeds", "seeds", "word"),
    [
        (0.3, 0.1, (0, 1, 2), (0,), "decoder's"),
        (0.1, 0.3, (0, 1, 2), (0,), "compressors'"),
        (0.2, 0.21, (0, 1, 2), (0,), "inconclusive"),
        (0.3, 0.1, (0, 1), (0,), "inconclusive"),
        (0.3, 0.1, (0, 1), (0, 1), "inconclusive"),  # four runs are no three bases
    ],
)
def test_a_prior_wins_where_the_lead_is_clear(
    tmp_path, decoder, compressor, base_seeds, seeds, word
):
    cfg = config(base_seeds=base_seeds, seeds=seeds, ratios=(16,))
    world = WorldConfig(base_favourites=1)
    cfg = dataclasses.replace(cfg, world=world)
    (found,) = page(cfg, tmp_path, decoder, compressor)
    (table,) = found.blocks
    assert isinstance(table, Table)
    assert len(table.rows) == 2
    assert all(r[-1] == word for r in table.rows)
    assert all(str(r[4]).startswith("30.0") for r in table.rows)
    assert all(str(r[8]).startswith(f"{100 * (compressor - 0.1):.1f}") for r in table.rows)
    report(cfg, tmp_path)
    columns = (tmp_path / "report/results.csv").read_text().splitlines()[0]
    assert "counterfactual/split/lead" in columns
    assert "Whose prior wins" in (tmp_path / "report/report.html").read_text()


def test_a_report_of_one_prior_says_nothing_of_it(tmp_path):
    assert page(config(ratios=(16,)), tmp_path, 0.3, 0.1) == []
