"""configs/recipes.py: equal vectors, equal bytes, real text; ratios of a recipe's own."""

import dataclasses

import pytest
from sweep.sweep_stub import config

from jaxcomp.analysis import size_tables
from jaxcomp.analysis import tables as results
from jaxcomp.analysis.report import report
from jaxcomp.cli import overrides
from jaxcomp.compress.recipes import RECIPES
from jaxcomp.config import ConfigError
from jaxcomp.sweep import collect, grid
from jaxcomp.sweep.store import DONE, Ledger

SHIPPED = "jaxcomp/assets/decoders/decoder-s0"
KEPT = "counterfactual/nonfavourite/all/preserved"
NO_MEMORY = "counterfactual/no_memory/nonfavourite/all/preserved"


def ratios(cfg):
    return {(s.recipe, s.ratio) for s in grid.setups(cfg)}


def with_own(**own):
    cfg = config(recipes=("pcc", "arc"), ratios=(4, 16))
    return dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, own_ratios=own))


def test_a_line_that_is_absent_at_a_ratio_is_not_missed_there(tmp_path):
    """Each ratio is judged over the lines that the grid has there; all ratios are judged."""
    cfg = with_own(arc=(16, 64))
    cfg = dataclasses.replace(cfg, sweep=dataclasses.replace(cfg.sweep, base_seeds=(0, 1, 2)))
    ledger = Ledger(tmp_path)
    for job in grid.expand(cfg):
        size = grid.model(job.config).hidden_size
        metrics = {
            "params": size,
            "ordinary/loss": 3 - size / 32 + 0.01 * job.base_seed,
            "counterfactual/nonfavourite/all/preserved": size / 64 + 0.01 * job.base_seed,
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
    found = collect.collect(cfg, ledger)
    said = results.verdict(found)
    assert [v.ratio for v in said.ratios] == [4, 16, 64]
    assert [v.kept.replicates for v in said.ratios] == [3, 3, 3]
    gathered = size_tables.gather(found)
    assert {e.ratio: {p.family for p in e.pairs} for e in gathered} == {
        4: {"toy pcc"},
        16: {"toy pcc", "toy arc"},
        64: {"toy arc"},
    }


def with_baselines(folder, baselines, recipes):
    """A finished sweep of `recipes`; `baselines` are of facts kept, by recipe."""
    cfg = config(recipes=recipes, ratios=(4, 16), base_seeds=(0, 1, 2))
    ledger = Ledger(folder)
    for job in grid.expand(cfg):
        recipe, size = job.setup.recipe, grid.model(job.config).hidden_size
        metrics = {
            "params": size,
            "ordinary/loss": 3 - size / 32 + 0.01 * job.base_seed,
            KEPT: 0.3 + 0.001 * job.base_seed,
            NO_MEMORY: baselines[recipe] + 0.001 * (job.setup.ratio == 16),
            "ordinary/passages": 10,
            "ordinary/vectors": 640 // job.setup.ratio,
            "ordinary/bytes": 3000,
            # A vector of 500x has four times the numbers.
            "ordinary/text_bytes_per_memory_byte": 3000
            / (640 // job.setup.ratio * (1024 if recipe == "500x" else 256)),
        }
        ledger.write(job, DONE, metrics=metrics, intervals={}, timings={})
    return cfg, collect.collect(cfg, ledger)


def test_a_floor_is_that_of_the_frozen_decoder(tmp_path, undrawn):
    """Runs of lclm train their decoders: their baselines are their own."""
    baselines = {"pcc": 0.1, "arc": 0.1, "lclm": 0.29}
    cfg, found = with_baselines(tmp_path, baselines, ("pcc", "arc", "lclm"))
    assert results.no_memory_of(found, KEPT) == pytest.approx(0.1005)
    assert results.own_no_memory(found, KEPT, 4) == pytest.approx({"toy lclm": 0.29})
    assert results.own_no_memory(found, KEPT, 16) == pytest.approx({"toy lclm": 0.291})
    primary = results.verdict(found).primary
    assert primary is not None
    assert primary.at_baseline == ("toy lclm",)
    report(cfg, tmp_path)
    page = (tmp_path / "report/report.md").read_text()
    assert "The frozen decoder without memory: " in page
    assert "counterfactual facts preserved (%) 10.0." in page
    assert "toy lclm train their decoder too" in page


def test_the_table_says_how_large_each_memory_is(tmp_path, undrawn):
    for recipes in (("pcc", "500x"), ("pcc",)):
        cfg, _ = with_baselines(tmp_path, {"pcc": 0.1, "500x": 0.1}, recipes)
        report(cfg, tmp_path)
        page = (tmp_path / "report/report.md").read_text()
        assert ("vectors x bytes of a memory" in page) == (len(recipes) > 1)
        if len(recipes) > 1:
            rows = [r for r in page.splitlines() if r.startswith("| toy 500x") and "16x" in r]
            assert all("| 4 x 1024 |" in r for r in rows)
            assert len(rows) == 2
            assert page.count("| 16 x 256 |") == 2


def test_equal_bytes_are_reached_by_the_recipes_of_keys_and_values():
    equal = ratios(overrides.load("configs/recipes.py"))
    assert equal == {(name, r) for name in RECIPES if name != "mean_pool" for r in (4, 16)}
    cfg = overrides.load("configs/recipes.py:equal=bytes,seeds=2")
    assert cfg.sweep.seeds == (0, 1)
    found = ratios(cfg)
    kv = [name for name, r in RECIPES.items() if r.kind == "kv"]
    assert {(n, r) for n, r in found if n not in kv} == {(n, r) for n, r in equal if n not in kv}
    shape, T = cfg.decoder.model, cfg.data.segment
    numbers = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    for name in kv:
        own = sorted(r for n, r in found if n == name)
        for mine, r in zip(own, (4, 16), strict=True):
            assert T // mine * numbers == T // r * shape.hidden_size


def test_real_text_has_the_towers_of_configs_text(tmp_path):
    (tmp_path / "x.txt").write_text("A text.")
    file = f"path={tmp_path / 'x.txt'}"
    cfg = overrides.load(f"configs/recipes.py:on=text,decoder={SHIPPED},{file}")
    text = overrides.load(f"configs/text.py:{file}")
    assert (cfg.data, cfg.train, cfg.families) == (text.data, text.train, text.families)
    assert cfg.folders == {"decoder": SHIPPED}
    assert {s.size for s in grid.setups(cfg)} == {str(text.decoder.model.hidden_size)}


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("equal=numbers", "equal=numbers: expected vectors or bytes"),
        ("on=paper", "on=paper: expected world or text"),
        ("on=text", "needs decoder=DIR"),
        ("path=x", "are for on=text"),
        ("field=body", "are for on=text"),
        ("on=text,path=x,field=body", r"configs/text\.py:path=x,field=body --compressor"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arg, said):
    with pytest.raises(ConfigError, match=said):
        overrides.load(f"configs/recipes.py:{arg}")
