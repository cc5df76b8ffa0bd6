import dataclasses

import numpy as np
import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis import overwriting
from jaxcomp.analysis.document import Answer, Table
from jaxcomp.analysis.report import report
from jaxcomp.evals.metrics import headlines
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import collect
from jaxcomp.sweep.store import DONE, Ledger

pytestmark = pytest.mark.usefixtures("undrawn")


def filled(workdir, bits=100.0, rise=0.1, seeds=6):
    """A sweep whose pretrained models know `bits` more at each doubling of the width, and whose
    compressors overwrite `rise` more."""
    cfg, rng = config(base_seeds=tuple(range(seeds))), np.random.default_rng(0)
    ledger = Ledger(workdir)
    for job in grid.expand(cfg):
        size = grid.model(job.config).hidden_size
        step = np.log2(size) + 0.01 * rng.random()
        known = 300 + bits * np.log2(size) + rng.random()
        ledger.write(
            job,
            DONE,
            metrics={h.metric: float(rng.random()) for h in headlines(cfg)}
            | {
                "params": size * 100,
                "counterfactual/overwriting": 0.2 + rise * step,
                "knowledge/base/all/bits": known,
                "knowledge/base/all/accuracy": 0.8,
                "knowledge/retained": 0.5,
            },
            intervals={},
            timings={},
        )
    return cfg, collect(cfg, ledger)


def gate_of(results):
    found = overwriting.gate(results)
    assert found is not None
    return found


def answer_of(results):
    opened = gate_of(results)
    table, said = [b for b in overwriting.blocks(results, opened) if isinstance(b, (Table, Answer))]
    assert isinstance(table, Table)
    assert isinstance(said, Answer)
    return table, said


def test_larger_models_that_know_more_and_overwrite_more(tmp_path):
    results = filled(tmp_path)[1]
    _, said = answer_of(results)
    assert said.sign == "Yes"
    assert "rises with size" in said.why
    assert "Larger pretrained models know more" in gate_of(results).sentence


def test_no_difference_in_overwriting_is_excluded_only_by_its_bound(tmp_path):
    _, said = answer_of(filled(tmp_path / "a", rise=0.0)[1])
    assert said.sign == "No"
    _, said = answer_of(filled(tmp_path / "b", rise=-0.2)[1])
    assert said.sign == "No"
    assert "falls with size" in said.why


def test_models_that_know_the_same_claim_nothing(tmp_path):
    results = filled(tmp_path, bits=0.0)[1]
    _, said = answer_of(results)
    assert said.sign == "Inconclusive"
    assert "says nothing about overwriting" in said.why
    assert said.why == gate_of(results).sentence


def test_one_pretraining_seed_answers_nothing(tmp_path):
    _, said = answer_of(filled(tmp_path, seeds=1)[1])
    assert said.sign == "Inconclusive"
    assert "One pretraining seed" in said.why


def test_the_gate_stands_before_the_answers_statistics(tmp_path):
    cfg, _ = filled(tmp_path)
    report(cfg, tmp_path)
    page = (tmp_path / "report" / "report.md").read_text()
    assert page.index("Larger pretrained models know more") < page.index("Does a larger compressor")
    assert overwriting.QUESTION in page


def test_rows_of_an_earlier_version_and_one_size_close_no_gate_by_mistake(tmp_path):
    """Reused rows without knowledge stand first; a grid of one size has no gate."""
    cfg, results = filled(tmp_path)
    old = results.rows[0]._replace(
        metrics={k: v for k, v in results.rows[0].metrics.items() if "knowledge" not in k}
    )
    assert gate_of(results._replace(rows=[old, *results.rows])).open
    alone = dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, sizes=("s",)))
    assert overwriting.gate(results._replace(cfg=alone)) is None


def test_no_section_where_knowledge_is_not_measured(tmp_path):
    cfg = config(base_seeds=(0,))
    assert overwriting.gate(collect(cfg, Ledger(tmp_path))) is None
