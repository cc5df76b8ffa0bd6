"""The paper's models and some others: where their weights are published, and their shapes, so that
a config or a plan needs no download.

Shapes are those of the published config.json files; a test holds their parameter counts against the
published ones. Of the Vision models it is the text tower without its cross-attention layers: what
runs when there is no image, about 8B and 70B parameters of the 11B and 90B in their names.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any, NamedTuple

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling


class Published(NamedTuple):
    """`hub`: the id on the Hugging Face hub; `gated`: its licence has to be accepted there."""

    hub: str
    shape: ModelConfig
    gated: bool


def _model(
    hub: str, base: ModelConfig, D: int, Y: int, N: int, F: int, *, gated: bool = True, **more: Any
) -> Published:
    sizes = {"hidden_size": D, "num_hidden_layers": Y, "num_attention_heads": N}
    return Published(hub, replace(base, **sizes, intermediate_size=F, **more), gated)


_LLAMA3 = ModelConfig(
    model_type="llama",
    vocab_size=128_256,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    rope_theta=500_000.0,
    tie_word_embeddings=False,
    max_position_embeddings=8192,
)
_LLAMA31 = replace(_LLAMA3, rope_scaling=RopeScaling(factor=8), max_position_embeddings=131_072)
_LLAMA32 = replace(_LLAMA31, rope_scaling=RopeScaling(factor=32), tie_word_embeddings=True)
_QWEN3 = ModelConfig(
    model_type="qwen3",
    vocab_size=151_936,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
    tie_word_embeddings=False,
    max_position_embeddings=40_960,
)
_QWEN3_TIED = replace(_QWEN3, tie_word_embeddings=True)
_OLMO2 = ModelConfig(
    model_type="olmo2",
    vocab_size=100_352,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=500_000.0,
    tie_word_embeddings=False,
    max_position_embeddings=4096,
)
_GEMMA3 = ModelConfig(
    model_type="gemma3_text",
    vocab_size=262_144,
    head_dim=256,
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
    tie_word_embeddings=True,
    max_position_embeddings=32_768,
    sliding_window=512,
    sliding_window_pattern=6,
    query_pre_attn_scalar=256,
)
_GEMMA3_LARGE = replace(  # which also reads images, and knows a longer text
    _GEMMA3,
    vocab_size=262_208,
    rope_scaling=RopeScaling(factor=8, rope_type="linear"),
    max_position_embeddings=131_072,
    sliding_window=1024,
)
_SMOLLM2 = ModelConfig(
    model_type="llama",
    vocab_size=49_152,
    num_key_value_heads=3,
    head_dim=64,
    rms_norm_eps=1e-5,
    rope_theta=100_000.0,
    tie_word_embeddings=True,
    max_position_embeddings=8192,
)


def _llama(hub: str, base: ModelConfig, *sizes: int, **more: Any) -> Published:
    return _model(f"meta-llama/{hub}", base, *sizes, **more)


def _qwen3(hub: str, base: ModelConfig, *sizes: int) -> Published:
    return _model(f"Qwen/{hub}", base, *sizes, gated=False)


def _gemma3(hub: str, base: ModelConfig, *sizes: int, K: int, **more: Any) -> Published:
    return _model(f"google/{hub}", base, *sizes, num_key_value_heads=K, **more)


def _olmo2(hub: str, *sizes: int, K: int) -> Published:
    return _model(f"allenai/{hub}", _OLMO2, *sizes, gated=False, num_key_value_heads=K)


MODELS: dict[str, Published] = {
    "llama3-8b-instruct": _llama("Meta-Llama-3-8B-Instruct", _LLAMA3, 4096, 32, 32, 14_336),
    "llama3.1-8b": _llama("Llama-3.1-8B", _LLAMA31, 4096, 32, 32, 14_336),
    "llama3.2-1b": _llama("Llama-3.2-1B", _LLAMA32, 2048, 16, 32, 8192, head_dim=64),
    "llama3.2-3b": _llama("Llama-3.2-3B", _LLAMA32, 3072, 28, 24, 8192),
    "llama3.2-11b": _llama("Llama-3.2-11B-Vision", _LLAMA31, 4096, 32, 32, 14_336),
    "llama3.2-90b": _llama("Llama-3.2-90B-Vision", _LLAMA31, 8192, 80, 64, 28_672),
    "qwen3-0.6b": _qwen3("Qwen3-0.6B", _QWEN3_TIED, 1024, 28, 16, 3072),
    "qwen3-1.7b": _qwen3("Qwen3-1.7B", _QWEN3_TIED, 2048, 28, 16, 6144),
    "qwen3-4b": _qwen3("Qwen3-4B", _QWEN3_TIED, 2560, 36, 32, 9728),
    "qwen3-8b": _qwen3("Qwen3-8B", _QWEN3, 4096, 36, 32, 12_288),
    "qwen3-14b": _qwen3("Qwen3-14B", _QWEN3, 5120, 40, 40, 17_408),
    "qwen3-32b": _qwen3("Qwen3-32B", _QWEN3, 5120, 64, 64, 25_600),
    # Not of the paper. Of Gemma 3 from 4B on it is the text tower.
    "gemma3-270m": _gemma3("gemma-3-270m", _GEMMA3, 640, 18, 4, 2048, K=1),
    "gemma3-1b": _gemma3("gemma-3-1b-pt", _GEMMA3, 1152, 26, 4, 6912, K=1),
    "gemma3-4b": _gemma3("gemma-3-4b-pt", _GEMMA3_LARGE, 2560, 34, 8, 10_240, K=4),
    "gemma3-12b": _gemma3("gemma-3-12b-pt", _GEMMA3_LARGE, 3840, 48, 16, 15_360, K=8),
    "gemma3-27b": _gemma3(
        "gemma-3-27b-pt",
        _GEMMA3_LARGE,
        5376,
        62,
        32,
        21_504,
        K=16,
        head_dim=128,
        query_pre_attn_scalar=168,
    ),
    "olmo2-1b": _olmo2("OLMo-2-0425-1B", 2048, 16, 16, 8192, K=16),
    "olmo2-7b": _olmo2("OLMo-2-1124-7B", 4096, 32, 32, 11_008, K=32),
    "olmo2-13b": _olmo2("OLMo-2-1124-13B", 5120, 40, 40, 13_824, K=40),
    "olmo2-32b": _olmo2("OLMo-2-0325-32B", 5120, 64, 40, 27_648, K=8),
    # Small enough for a CPU.
    "smollm2-135m": _model(
        "HuggingFaceTB/SmolLM2-135M-Instruct", _SMOLLM2, 576, 30, 9, 1536, gated=False
    ),
}


def published(name: str) -> Published:
    """The model of that name. Raises ConfigError that lists the known ones."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is not a known model{hint}; known: {', '.join(MODELS)}")
    return MODELS[name]
