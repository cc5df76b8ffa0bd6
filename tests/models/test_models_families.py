"""Families are rows: each refuses what it does not compute, and one can be added from outside."""

import json

import pytest
import transformers
from golden_cases import CASES, respelled

from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, ModelConfig
from jaxcomp.models.config import from_hf, to_hf
from jaxcomp.models.families import FAMILIES, Family, family, register
from jaxcomp.models.registry import published

# A config.json of each family, as transformers writes them.
OF = {
    "llama": CASES["llama3"],
    "qwen2": CASES["qwen2.5"],
    "qwen3": CASES["qwen3"],
    "olmo2": CASES["olmo2"],
    "gemma3_text": CASES["gemma3"],
}
COMMON = [("mlp_bias", True), ("attention_dropout", 0.1), ("partial_rotary_factor", 0.5)]
OWN = {
    "llama": [("sliding_window", 4096), ("query_pre_attn_scalar", 256)],
    "qwen2": [("use_sliding_window", True), ("layer_types", ["sliding_attention"] * 3)],
    "qwen3": [("attention_bias", True), ("hidden_act", "gelu")],
    "olmo2": [("hidden_act", "relu"), ("clip_qkv", 8.0)],
    "gemma3_text": [
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("use_bidirectional_attention", True),
        ("hidden_activation", "gelu"),
    ],
}


def test_every_family_is_tested():
    assert OF.keys() == FAMILIES.keys() == OWN.keys()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, *field) for kind, own in OWN.items() for field in [*COMMON, *own]],
)
def test_a_field_that_is_not_computed_is_refused_by_name(kind, name, value):
    with pytest.raises(
        ConfigError, match=rf"^config.json: {name} (is|has) .*; (only|{kind} has no) "
    ):
        from_hf(OF[kind] | {name: value})


@pytest.mark.parametrize("kind", OF)
def test_an_unknown_field_is_refused_unless_it_is_null(kind):
    message = rf"^config.json: residual_multiplier is 0.22; {kind} has no .* delete the field"
    with pytest.raises(ConfigError, match=message):
        from_hf(OF[kind] | {"residual_multiplier": 0.22})
    assert from_hf(OF[kind] | {"residual_multiplier": None}) == from_hf(OF[kind])


@pytest.mark.parametrize("kind", OF)
def test_what_says_nothing_of_logits_is_accepted(kind):
    """Bookkeeping, and whatever transformers itself writes of this family."""
    theirs = transformers.AutoConfig.for_model(**OF[kind]).to_dict()
    more = {"use_cache": False, "sep_token_id": 3, "torch_dtype": "bfloat16"}
    assert from_hf(theirs | more) == from_hf(OF[kind])


@pytest.mark.parametrize("kind", OF)
def test_a_config_of_each_family_reads_back(kind):
    cfg = from_hf(OF[kind])
    written = json.loads(json.dumps(to_hf(cfg)))
    for spelling in ("old", "new"):
        assert from_hf(respelled(written, spelling)) == cfg


# google/gemma-3-4b-pt says no more than this of its language model.
GEMMA_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}


def test_the_published_gemma_3_4b_is_the_one_of_the_registry():
    assert from_hf(GEMMA_4B) == published("gemma3-4b").shape


FULL, LINEAR = "full_attention", {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": [FULL] * 3}, "layer_types is .*expected 4 entries"),
        (
            {"layer_types": ["sliding_attention", *[FULL] * 3]},
            "every n-th of them 'full_attention'",
        ),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types has 'chunked_attention'; only"),
        ({"sliding_window": "wide"}, "sliding_window is 'wide', expected a whole number"),
        ({"sliding_window": 0}, "sliding_window = 0, but sliding_window_pattern = 3"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "expected one object for full_attention, one"),
        ({"rope_parameters": {"sliding_attention": LINEAR}}, "only the layers of full_attention"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is None, expected a nu"),
    ],
)
def test_what_a_gemma_gets_wrong_is_named(change, message):
    with pytest.raises(ConfigError, match=f"^config.json: .*{message}"):
        from_hf(OF["gemma3_text"] | change)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(sliding_window=8), "sliding_window = 8: a llama has no such field; leave it"),
        (ModelConfig("gemma3_text", sliding_window_pattern=2), "sliding_window = 0, but sliding_w"),
        (ModelConfig("gemma3"), "model_type = 'gemma3'"),
    ],
)
def test_what_a_family_has_not_is_refused_in_our_own_configs(model, message):
    with pytest.raises(ConfigError, match=rf"families.a.b.*{message}"):
        validate(Config(families={"a": {"b": model}}))


def test_a_name_is_taken_once_and_an_unknown_one_lists_the_known():
    for taken in ("qwen3", "mllama"):
        with pytest.raises(ValueError, match=f"'{taken}' is registered already"):
            register(Family(taken, "Other"))
    with pytest.raises(ConfigError, match="'toy'; supported: llama, qwen2, qwen3, olmo2, gemma3"):
        family("toy")
