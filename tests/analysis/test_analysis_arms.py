"""Secondary tests of the people world: planted effects, and where there is none."""

import numpy as np
import pytest

import jaxcomp
from jaxcomp.analysis import arms
from jaxcomp.analysis.report import report
from jaxcomp.config import ConfigError
from jaxcomp.evals.metrics import PULL, headlines, of_role
from jaxcomp.sweep import grid
from jaxcomp.sweep.collect import collect
from jaxcomp.sweep.store import DONE, Ledger

pytestmark = pytest.mark.usefixtures("undrawn")
METRIC = "counterfactual/probability_pull"


def filled(workdir, arg="", rise=0.0, known=0.0, seeds=4):
    """Each doubling of the width pulls `rise` more, and each bit of knowledge `known`."""
    cfg = jaxcomp.load_config(f"configs/people.py:quick,seeds={seeds}{arg}")
    ledger, rng = Ledger(workdir), np.random.default_rng(len(arg))
    ledger.open(cfg)
    for job in grid.expand(cfg):
        size = float(np.log2(grid.model(job.config).hidden_size))
        bits = 10 * size + rng.random()
        pull = rise * size + known * bits + 1e-3 * rng.random()
        values = {h.metric: float(rng.random()) for h in headlines(cfg)} | {
            "params": 2**size,
            "knowledge/base/all/bits": bits,
            "knowledge/base/all/accuracy": 0.5,
            "knowledge/retained": 0.9,
            "counterfactual/pull/upper": float(rng.random()),
            "erased/nonfavourite/upper/overwritten": float(rng.random()),
            arms.KNOWN: bits,
        }
        values |= {f"{METRIC}/{band}": pull for band in arms.BANDS}
        ledger.write(job, DONE, metrics=values, intervals={}, timings={})
    return cfg, collect(cfg, ledger)


def arms_of(tmp_path, **more):
    """Three arms: the pull rises in two of them."""
    return {
        "frozen": filled(tmp_path / "a", rise=0.01)[1],
        "lora": filled(tmp_path / "b", ",trained=lora", rise=0.01)[1],
        "full": filled(tmp_path / "c", ",trained=full", **more)[1],
    }


def test_a_rise_is_found_where_it_is_and_the_first_arm_is_not_tested_twice(tmp_path):
    held = arms_of(tmp_path)
    head = of_role(held["frozen"].cfg, PULL)
    lora, full = arms.tested(held, head, first=False)
    assert (lora.arm, full.arm) == ("lora", "full")
    assert lora.trend.rho == 1
    assert lora.adjusted == pytest.approx(2 * 6.0**-4)  # all orders of 3 sizes, 4 seeds; Holm of 2
    assert full.adjusted is not None
    assert full.adjusted > 0.05
    assert [t.arm for t in arms.tested(held, head, first=True)] == list(held)


def test_two_pretraining_seeds_take_no_part_and_cost_the_others_nothing(tmp_path):
    held = arms_of(tmp_path)
    head = of_role(held["frozen"].cfg, PULL)
    alone = arms.tested(held, head, first=False)[0].adjusted
    held["few"] = filled(tmp_path / "d", ",trained=last", rise=0.01, seeds=2)[1]
    lora, _, few = arms.tested(held, head, first=False)
    assert few.adjusted is None
    assert lora.adjusted == alone
    assert "few" not in arms.with_knowledge(held, head)


def test_knowledge_explains_the_pull_only_inside_a_setup(tmp_path):
    """In the first arms size alone sets pull and knowledge: inside a setup they are unrelated."""
    held = arms_of(tmp_path, known=0.01)
    found = arms.with_knowledge(held, of_role(held["frozen"].cfg, PULL))
    assert abs(found["frozen"].rho) < 0.9
    assert found["full"].rho > 0.9
    assert found["full"].p < 0.05 < found["frozen"].p


def test_the_report_shows_the_arms_by_what_their_names_add(tmp_path):
    cfg, _ = filled(tmp_path / "a", rise=0.01)
    other, _ = filled(tmp_path / "b", ",trained=full,replay=0.1,decoder=knowing")
    report(cfg, tmp_path / "a", [(other, tmp_path / "b")])
    page = (tmp_path / "a" / "report" / "report.md").read_text()
    assert "| quick-full-replay0.1-knowing | 4 | yes | 90.0 ± 0 |" in page
    assert "Secondary tests" in page
    assert page.index("(overwriting") < page.index("(main")  # figures: the question's own first
    with pytest.raises(ConfigError, match="expected each of them once"):
        report(cfg, tmp_path / "a", [(cfg, tmp_path / "a")])


def test_arms_of_another_world_are_refused(tmp_path):
    first = jaxcomp.load_config("configs/people.py")
    other = jaxcomp.load_config("configs/people.py", {"people.people": 1024})
    with pytest.raises(ConfigError, match=r"people\.people"):
        arms.check(first, other)
