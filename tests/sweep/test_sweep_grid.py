import dataclasses

import pytest
from sweep_stub import config

from jaxcomp.config import Config, ConfigError
from jaxcomp.sweep import grid


def change(cfg, key, value):
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


def test_data_counts_by_content_not_by_place(tmp_path):
    def at(path):
        path.parent.mkdir(exist_ok=True)
        cfg = change(change(config(), "data.source", "text"), "data.path", str(path))
        return hashes(cfg)["toy-s-r4-b0-s0"]

    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text)
    assert at(tmp_path / "a/x.txt") == at(tmp_path / "b/x.txt") != at(tmp_path / "c/x.txt")


def test_an_empty_grid_is_an_error():
    with pytest.raises(ConfigError, match="families is empty"):
        grid.expand(Config())


def test_differences_name_the_dotted_field():
    assert grid.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == [("a.c", 2, 3)]
    assert grid.differences({"a": 1}, {"a": 1, "b": 2}) == [("b", "-", 2)]
