"""config.json is read in both spellings, written so that it reads back, and refused by field."""

import dataclasses
import json
import time
import tracemalloc

import pytest
from transformers import AutoConfig

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling
from jaxcomp.models.config import from_hf, to_hf

LLAMA32_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
ROPE = LLAMA32_1B["rope_scaling"]
SCALED = ModelConfig(
    vocab_size=64, rope_scaling=RopeScaling(factor=32.0), tie_word_embeddings=False
)


def test_a_published_config_is_read():
    cfg = from_hf(LLAMA32_1B)
    assert cfg.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    assert (cfg.rope_theta, cfg.head_dim, cfg.tie_word_embeddings) == (500_000.0, 64, True)


def test_both_rope_spellings_mean_the_same():
    new = {k: v for k, v in LLAMA32_1B.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = LLAMA32_1B["rope_scaling"] | {"rope_theta": 500000.0}
    assert from_hf(new) == from_hf(LLAMA32_1B)


@pytest.mark.parametrize("cfg", [SCALED, ModelConfig(model_type="qwen3", vocab_size=64)])
def test_what_is_written_reads_back(cfg):
    written = json.loads(json.dumps(to_hf(cfg)))
    assert from_hf(written) == cfg
    old = {k: v for k, v in written.items() if k != "rope_parameters"}
    new = {k: v for k, v in written.items() if k not in ("rope_scaling", "rope_theta")}
    assert from_hf(old) == from_hf(new) == cfg


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


def test_head_size_is_never_guessed_for_qwen():
    qwen = {**LLAMA32_1B, "model_type": "qwen3", "rope_scaling": None}
    del qwen["head_dim"]
    assert from_hf(qwen).head_dim == 128  # transformers' default, not 2048 / 32
    llama = {k: v for k, v in LLAMA32_1B.items() if k != "head_dim"}
    assert from_hf(llama).head_dim == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
            r"'gpt2', architectures \['GPT2LMHeadModel'\]; supported architectures are llama, qw",
        ),
        ({"model_type": "mistral", "sliding_window": 4096}, "'mistral'.*; supported arch.*qwen3"),
        ({"model_type": ["llama"]}, r"\['llama'\].*; supported architectures are llama, qwen2"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'; quantised .*before it was"),
        ({"use_sliding_window": True}, "use_sliding_window is True; only False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "has 'sliding_attention'; only"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lacks low_freq_factor"),
        ({"num_key_value_heads": 5}, "num_key_value_heads = 5 does not divide num_att"),
        (
            {"num_attention_heads": 0, "head_dim": None},
            "num_attention_heads = 0: expected a numb",
        ),
        ({"max_position_embeddings": -1}, "max_position_embeddings = -1: expected a number gr"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', expected a number"),
        ({"rope_theta": None}, "rope_theta is None, expected a number"),
        ({"rope_parameters": 5}, "rope_parameters is 5, expected one object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "only 1.0 is"),
        (
            {"tie_word_embeddings": "false"},
            "tie_word_embeddings is 'false', expected true or false",
        ),
        ({"attention_bias": "false"}, "attention_bias is 'false'; only False"),
        ({"layer_types": 3}, "layer_types is 3, expected a list"),
        ({"rope_theta": float("nan")}, "rope_theta = nan: expected a finite number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps = -1e-05: expected a number greater"),
        ({"hidden_size": 10**200}, "hidden_size = a huge integer: expected a number less"),
        (
            {"rope_scaling": ROPE | {"factor": 0}},
            r"rope_scaling.factor = 0.0: expected a numb",
        ),
        ({"rope_scaling": ROPE | {"high_freq_factor": 1}}, "expected more than low_freq_factor"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "rope_parameters is .*expected one object for all layers",
        ),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"^some/config.json: .*{message}"):
        from_hf({**LLAMA32_1B, **change}, "some/config.json")


def test_a_vision_model_is_refused_by_what_its_text_tower_says():
    text = LLAMA32_1B | {"cross_attention_layers": [3], "quantization_config": {"bits": 4}}
    with pytest.raises(ConfigError, match=r"config.json \(text_config\): quantization_config"):
        from_hf({"model_type": "mllama", "text_config": text})


@pytest.mark.parametrize("layers", [5, "3", [3], 2**31, -1, True])
def test_cross_attention_layers_are_numbers_of_layers(layers):
    text = LLAMA32_1B | {"num_hidden_layers": 5, "cross_attention_layers": [3, layers]}
    with pytest.raises(ConfigError, match=r"cross_attention_layers has .*from 0 to 4"):
        from_hf({"model_type": "mllama", "text_config": text})


def test_absurd_sizes_cost_nothing_to_read():
    vision = LLAMA32_1B | {"num_hidden_layers": 2**31 - 1, "cross_attention_layers": [3]}
    tracemalloc.start()
    start = time.perf_counter()
    assert from_hf({"model_type": "mllama", "text_config": vision}).num_hidden_layers == 2**31 - 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert time.perf_counter() - start < 1.0
