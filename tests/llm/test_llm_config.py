"""config.json is read in both spellings, written so that it reads back, and refused by field."""

import json

import pytest

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling
from jaxcomp.llm.config import from_hf, to_hf

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
        ({"num_key_value_heads": 5}, "multiple of num_key_value_heads = 5"),
        ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads is 0, expected at"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1, expected at least 1"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', expected a number"),
        ({"rope_theta": None}, "rope_theta is None, expected a number"),
        ({"rope_parameters": 5}, "rope_parameters is 5, expected one object"),
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
