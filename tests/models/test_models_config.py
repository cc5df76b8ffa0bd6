"""config.json is read in both spellings, written so that it reads back, and refused by field."""

import dataclasses
import json

import pytest
from golden_cases import CASES
from transformers import AutoConfig

from jaxcomp.config import ConfigError
from jaxcomp.models.config import from_hf

BASE = CASES["llama3.2"]
ROPE = BASE["rope_scaling"]


SPELLINGS = {
    "plain": {},
    "one theta": {"rope_theta": 1e5},
    "two thetas": {
        "rope_theta": 1e5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e5},
    },
    "two objects": {
        "rope_theta": 1e5,
        "rope_scaling": ROPE,
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e5},
    },
    "theta in the old object": {"rope_theta": 1e5, "rope_scaling": ROPE | {"rope_theta": 3e5}},
    "empty old object": {"rope_scaling": {}, "rope_parameters": ROPE | {"rope_theta": 2e5}},
    "null old object": {"rope_scaling": None, "rope_parameters": ROPE | {"rope_theta": 2e5}},
    "two types": {"rope_scaling": ROPE | {"type": "default"}},
    "two types, the other way": {"rope_scaling": ROPE | {"type": "llama3", "rope_type": "default"}},
    "original length is not said": {
        "rope_scaling": {k: x for k, x in ROPE.items() if not k.startswith("original")}
    },
    "original length twice": {"original_max_position_embeddings": 16, "rope_scaling": ROPE},
    "key-value heads null": {"num_key_value_heads": None},
    "key-value heads left out": {"num_key_value_heads": ...},
    "another head size": {"head_dim": 10},
    "tied": {"tie_word_embeddings": True},
    "no epsilon": {"rms_norm_eps": ...},
    "no length": {"max_position_embeddings": ...},
}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_a_config_means_is_what_transformers_takes(kind, spelling):
    small = {"vocab_size": 48, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 32}
    small |= {"num_key_value_heads": 2, "intermediate_size": 28, "max_position_embeddings": 64}
    small |= {"rms_norm_eps": 1e-5} | SPELLINGS[spelling]
    given = {name: x for name, x in small.items() if x is not ...}
    theirs = AutoConfig.for_model(kind, **json.loads(json.dumps(given)))
    ours = from_hf(given | {"model_type": kind})
    derived = theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or derived)
    for name in ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    rope = theirs.rope_parameters
    assert ours.rope_theta == rope["rope_theta"]
    assert (ours.rope_scaling is not None) == (rope["rope_type"] == "llama3")
    if ours.rope_scaling is not None:
        for field in dataclasses.fields(ours.rope_scaling):
            assert getattr(ours.rope_scaling, field.name) == rope[field.name]


GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
TWO_ROPES = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            GPT2,
            r"'gpt2', architectures \['GPT2LMHeadModel'\]; supported architectures are llama, qw",
        ),
        ({"model_type": ["llama"]}, r"\['llama'\].*; supported architectures are llama, qwen2"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'; quantised .*before it was"),
        ({"use_sliding_window": True}, "use_sliding_window is True; only False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "has 'sliding_attention'; only"),
        ({"hidden_size": None}, "hidden_size is None, expected a whole"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": "false"}, "attention_bias is 'false'; only False"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lacks low_freq_factor"),
        ({"num_key_value_heads": 5}, "num_key_value_heads = 5 does not divide num_att"),
        ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads = 0: expected a nu"),
        ({"max_position_embeddings": -1}, "max_position_embeddings = -1: expected a number gr"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', expected a number"),
        ({"rope_theta": None}, "rope_theta is None, expected a number"),
        ({"rope_parameters": 5}, "rope_parameters is 5, expected one object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "only 1.0 is"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', expected true or"),
        ({"layer_types": 3}, "layer_types is 3, expected a list"),
        ({"rope_theta": float("nan")}, "rope_theta = nan: expected a finite number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps = -1e-05: expected a number greater"),
        ({"hidden_size": 10**200}, "hidden_size = a huge integer: expected a number less"),
        ({"rope_scaling": ROPE | {"factor": 0}}, r"rope_scaling.factor = 0.0: expected a numb"),
        ({"rope_scaling": ROPE | {"high_freq_factor": 1}}, "expected more than low_freq_factor"),
        (TWO_ROPES, "rope_parameters is .*expected one object for all layers"),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"^some/config.json: .*{message}"):
        from_hf({**BASE, **change}, "some/config.json")


def test_a_vision_model_is_refused_by_what_its_text_tower_says():
    text = BASE | {"cross_attention_layers": [1], "quantization_config": {"bits": 4}}
    with pytest.raises(ConfigError, match=r"config.json \(text_config\): quantization_config"):
        from_hf({"model_type": "mllama", "text_config": text})


@pytest.mark.parametrize("layers", [5, "3", [3], 2**31, -1, True])
def test_cross_attention_layers_are_numbers_of_layers(layers):
    text = BASE | {"num_hidden_layers": 5, "cross_attention_layers": [3, layers]}
    with pytest.raises(ConfigError, match=r"cross_attention_layers has .*from 0 to 4"):
        from_hf({"model_type": "mllama", "text_config": text})
