"""Names and what they stand for: said, checked, and the same for a sweep."""

import dataclasses

import pytest

from jaxcomp.cli.overrides import override
from jaxcomp.cli.validate import validate
from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, LoraConfig, MemoryConfig, SweepConfig
from jaxcomp.runtime.fields import from_dict


def test_every_recipe_is_a_config_that_holds():
    for name in recipes.RECIPES:
        cfg = from_dict(recipes.recipe(name))
        validate(cfg)
        assert cfg.memory.recipe == name
        assert recipes.with_memory(Config(), name).memory == cfg.memory


def test_a_label_that_does_not_fit_names_the_field_and_both_ways_out():
    cfg = override(Config(), "memory.kind", "interleave")
    with pytest.raises(
        ConfigError,
        match=r"memory.kind = 'interleave': recipe 'pcc' means 'append'; set memory.kind=append, "
        "or memory.recipe=custom",
    ):
        validate(cfg)
    cfg = override(cfg, "memory.connector", "relu")
    with pytest.raises(ConfigError, match=r"or memory.recipe=pisco"):
        validate(cfg)
    validate(override(cfg, "memory.recipe", "pisco"))
    validate(override(override(cfg, "memory.recipe", "custom"), "memory.connector", "mlp"))
    with pytest.raises(ConfigError, match=r"memory.recipe = 'picso'.*did you mean pisco"):
        validate(override(cfg, "memory.recipe", "picso"))


def test_a_recipe_that_trains_its_decoder_is_not_the_name_of_one_that_does_not():
    cfg = dataclasses.replace(Config(), memory=MemoryConfig(recipe="lclm", kind="pool"))
    with pytest.raises(ConfigError, match=r"train.train_decoder = False.*recipe=arc or mean_pool"):
        validate(cfg)
    validate(override(cfg, "train.train_decoder", "true"))


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (
            {},
            r"memory.kind = 'append': a frozen tower cannot use memory tokens .*use memory.kind=po",
        ),
        ({"lora": LoraConfig(rank=2)}, r"memory.lora.rank = 2: adapters .*set memory.lora.rank=0"),
        ({"recipe": "custom", "kind": "pool", "connector": "none"}, "'none', which has nothing to"),
    ],
)
def test_a_frozen_tower_needs_a_kind_and_a_connector_that_can_use_it(memory, message):
    with pytest.raises(ConfigError, match=f"memory.trained = 'connector' with .*{message}"):
        validate(Config(memory=MemoryConfig(trained="connector", **memory)))


def test_the_last_layer_is_trained_without_adapters_in_any_kind():
    for name in ("pcc", "500x", "mean_pool", "icae"):
        fields = recipes.recipe(name)["memory"]
        validate(Config(memory=MemoryConfig(trained="last_layer", **fields)))
    low = MemoryConfig(trained="last_layer", lora=LoraConfig(rank=2))
    with pytest.raises(ConfigError, match=r"memory.trained = 'last_layer' with memory.lora.rank"):
        validate(Config(memory=low))


def test_a_sweep_of_recipes_with_a_frozen_tower_names_the_recipe_that_cannot(tmp_path):
    pool = MemoryConfig(trained="connector", **recipes.recipe("arc")["memory"])
    cfg = Config(memory=pool, folders={"decoder": "owner/name"})
    validate(dataclasses.replace(cfg, sweep=SweepConfig(recipes=("arc", "mean_pool"))))
    with pytest.raises(ConfigError, match=r"memory.kind = 'interleave': a frozen tower"):
        validate(dataclasses.replace(cfg, sweep=SweepConfig(recipes=("arc", "pisco"))))


def test_a_comparison_keeps_the_objective_and_takes_memory_and_towers():
    cfg = override(Config(), "train.p_reconstruct", "0.9")
    found = recipes.with_memory(cfg, "lclm")
    assert found.train == dataclasses.replace(cfg.train, train_decoder=True)
    assert found.memory == MemoryConfig(recipe="lclm", kind="pool")
    assert not recipes.with_memory(found, "arc").train.train_decoder


def test_a_sweep_of_recipes_needs_one_decoder_for_all():
    def sweep(*names, folders=None):
        return Config(sweep=SweepConfig(recipes=names), folders=folders or {})

    with pytest.raises(ConfigError, match=r"needs folders.decoder.*--folders.decoder=DIR"):
        validate(sweep("pcc", "arc"))
    given = {"decoder": "owner/name"}
    validate(sweep("pcc", "arc", folders=given))
    with pytest.raises(ConfigError, match="expected different recipes"):
        validate(sweep("arc", "arc", folders=given))
    with pytest.raises(ConfigError, match=r"sweep.recipes = 'custom': expected one of pcc"):
        validate(sweep("custom", folders=given))
