import csv
import dataclasses
import io
from typing import Any

import pytest
from sweep.sweep_stub import config, run

from jaxcomp.analysis import tables
from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.sweep import collect, grid
from jaxcomp.sweep.store import Ledger
from jaxcomp.training import identity


def change(cfg: Config, key: str, value: Any) -> Config:
    names = key.split(".")
    nodes = [cfg]
    for name in names[:-1]:
        nodes.append(getattr(nodes[-1], name))
    for node, name in zip(reversed(nodes), reversed(names), strict=True):
        value = dataclasses.replace(node, **{name: value})
    return value


def hashes(cfg):
    return {job.id: job.hash for job in grid.expand(cfg)}


def test_ids_are_stable_and_unique():
    cfg = config(seeds=(0, 3), lr_grid=(0.5, 1.0, 2.0))
    ids = [job.id for job in grid.expand(cfg)]
    assert len(ids) == len(set(ids)) == 2 * 2 * 2 * (1 + 3)
    assert ids[0] == "toy-s-r4-b0-s0"
    assert "toy-m-r16-b1-s3-lr0.5x" in ids
    assert not any("r4" in i and "lr" in i for i in ids)


def test_a_job_is_a_config_of_one_run():
    job = next(j for j in grid.expand(config(lr_grid=(2.0,))) if j.id == "toy-m-r16-b1-s0-lr2x")
    cfg = job.config
    assert (cfg.compressor, cfg.memory.ratio, cfg.base_seed, cfg.seed) == ("toy/m", 16, 1, 0)
    assert cfg.train.optim.lr == 2 * Config().train.optim.lr
    assert not job.recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("train.log_every", 3),
        ("train.loggers", ("wandb",)),
        ("pretrain.loggers", ()),
        ("decoder.adapt.loggers", ("trackio",)),
        ("train.checkpoint_every", 3),
        ("pretrain.keep_checkpoints", 3),
        ("sweep.workers", 7),
        ("sweep.seeds", (0, 1)),
        ("mesh.tp", 2),
        ("memory.ratio", 8),
        ("seed", 9),
        ("compressor", "toy/s"),
    ],
)
def test_what_does_not_change_a_result_keeps_its_hash(key, value):
    before, after = hashes(config()), hashes(change(config(), key, value))
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.optim.lr", 0.5),
        ("train.loss_chunk", 8),
        ("pretrain.optim.steps", 3),
        ("decoder.seed", 1),
        ("decoder.adapt.optim.lr", 0.5),
        ("world.prior_strength", 0.5),
        ("data.eval_passages", 3),
        ("eval.samples", 2),
        ("memory.positions", "consecutive"),
        ("sweep.ratios", (4, 16, 64)),  # at these the decoder is adapted
    ],
)
def test_what_changes_a_result_changes_every_hash(key, value):
    before, after = hashes(config()), hashes(change(config(), key, value))
    assert not set(before.values()) & set(after.values())


def test_another_size_changes_only_its_own_hash():
    cfg = config()
    toy = cfg.families["toy"]
    wider = {"toy": toy | {"m": dataclasses.replace(toy["m"], hidden_size=48)}}
    before, after = hashes(cfg), hashes(dataclasses.replace(cfg, families=wider))
    assert {i for i in before if before[i] != after[i]} == {i for i in before if "-m-" in i}


def test_recipes_are_one_more_axis():
    cfg = config(recipes=("pcc", "pisco"), lr_grid=(2.0,), seeds=(0, 1))
    jobs = {job.id: job for job in grid.expand(cfg)}
    assert len(jobs) == 2 * len(grid.expand(config(lr_grid=(2.0,), seeds=(0, 1))))
    one = jobs["toy-s-r16-b1-s0-lr2x-pisco"]
    assert one.setup == grid.Setup("toy", "s", 16, "pisco")
    assert one.base == "toy-s-b1"
    memory = one.config.memory
    assert (memory.recipe, memory.kind, memory.connector) == ("pisco", "interleave", "relu")
    assert len({job.hash for job in jobs.values()}) == len(jobs)
    assert grid.sizes(cfg) == {"toy pcc": {"s", "m"}, "toy pisco": {"s", "m"}}


def test_a_recipe_of_a_grid_has_the_hash_of_that_recipe_alone():
    """So a sweep of recipes takes over the rows of a sweep of `pcc`."""
    alone, among = hashes(config()), hashes(config(recipes=("pcc", "arc")))
    assert {f"{i}-pcc": h for i, h in alone.items()}.items() <= among.items()


def test_rows_of_a_sweep_of_recipes_name_theirs(tmp_path):
    cfg = config(recipes=("pcc", "arc"), base_seeds=(0,), ratios=(4,))
    run(cfg, tmp_path)
    found = collect.collect(cfg, Ledger(tmp_path))
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(found))))
    told = [(r["size"], r["ratio"], r["recipe"], r["base_seed"]) for r in rows]
    assert told == [(s, "4", r, "0") for s in "sm" for r in ("arc", "pcc")]
    assert [r["config_hash"] for r in rows] == [
        hashes(cfg)[f"toy-{s}-r4-b0-s0-{r}"] for s in "sm" for r in ("arc", "pcc")
    ]
    plain = config(base_seeds=(0,), ratios=(4,))
    run(plain, tmp_path / "plain")
    head = tables.results_csv(collect.collect(plain, Ledger(tmp_path / "plain"))).split("\n")[0]
    assert "recipe" not in head.split(",")


def test_data_counts_by_content_not_by_place(tmp_path):
    def at(path):
        path.parent.mkdir(exist_ok=True)
        cfg = change(change(config(), "data.source", "text"), "data.path", str(path))
        return hashes(cfg)["toy-s-r4-b0-s0"]

    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text)
    assert at(tmp_path / "a/x.txt") == at(tmp_path / "b/x.txt") != at(tmp_path / "c/x.txt")


def test_the_smallest_effect_is_bound_to_the_workdir_and_to_no_job():
    """Fixed before running: another one is another question, though of the same runs."""
    cfg = config()
    other = change(cfg, "sweep.smallest_effect", 0.1)
    assert hashes(other) == hashes(cfg)
    assert "smallest_effect" not in to_dict(cfg)["sweep"]  # published sweeps keep their identity
    fields = [
        field
        for field, *_ in identity.differences(identity.of_sweep(cfg), identity.of_sweep(other))
    ]
    assert fields == ["sweep.smallest_effect"]
    for value in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=r"sweep\.smallest_effect"):
            validate(change(cfg, "sweep.smallest_effect", value))
