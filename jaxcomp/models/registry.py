"""The paper's models and some others: where their weights are published, and their shapes, so that
a config or a plan needs no download.

Shapes are those of the published config.json files; a test holds their parameter counts against the
published ones. Of the Vision models it is the text tower without its cross-attention layers: what
runs when there is no image, about 8B and 70B parameters of the 11B and 90B in their names.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling


class Published(NamedTuple):
    """`hub`: the id on the Hugging Face hub; `gated`: its licence has to be accepted there."""

    hub: str
    shape: ModelConfig
    gated: bool


def _llama(
    hub: str, D: int, Y: int, N: int, H: int, F: int, *, factor: float = 0.0, tied: bool = False
) -> Published:
    shape = ModelConfig(
        model_type="llama",
        vocab_size=128_256,
        hidden_size=D,
        num_hidden_layers=Y,
        num_attention_heads=N,
        num_key_value_heads=8,
        head_dim=H,
        intermediate_size=F,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=factor) if factor else None,
        tie_word_embeddings=tied,
        max_position_embeddings=131_072 if factor else 8192,
    )
    return Published(f"meta-llama/{hub}", shape, gated=True)


def _qwen3(hub: str, D: int, Y: int, N: int, F: int, *, tied: bool = False) -> Published:
    shape = ModelConfig(
        model_type="qwen3",
        vocab_size=151_936,
        hidden_size=D,
        num_hidden_layers=Y,
        num_attention_heads=N,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=F,
        rms_norm_eps=1e-6,
        rope_theta=1_000_000.0,
        tie_word_embeddings=tied,
        max_position_embeddings=40_960,
    )
    return Published(f"Qwen/{hub}", shape, gated=False)


def _olmo2(hub: str, D: int, Y: int, N: int, K: int, F: int) -> Published:
    shape = ModelConfig(
        model_type="olmo2",
        vocab_size=100_352,
        hidden_size=D,
        num_hidden_layers=Y,
        num_attention_heads=N,
        num_key_value_heads=K,
        head_dim=128,
        intermediate_size=F,
        rms_norm_eps=1e-6,
        rope_theta=500_000.0,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
    )
    return Published(f"allenai/{hub}", shape, gated=False)


def _gemma3(
    hub: str, D: int, Y: int, N: int, K: int, F: int, *, H: int = 256, scalar: int = 256
) -> Published:
    """The larger ones, which also read images, know a longer text."""
    large = D > 2000
    shape = ModelConfig(
        model_type="gemma3_text",
        vocab_size=262_208 if large else 262_144,
        hidden_size=D,
        num_hidden_layers=Y,
        num_attention_heads=N,
        num_key_value_heads=K,
        head_dim=H,
        intermediate_size=F,
        rms_norm_eps=1e-6,
        rope_theta=1_000_000.0,
        rope_scaling=RopeScaling(factor=8, rope_type="linear") if large else None,
        tie_word_embeddings=True,
        max_position_embeddings=131_072 if large else 32_768,
        sliding_window=1024 if large else 512,
        sliding_window_pattern=6,
        query_pre_attn_scalar=scalar,
    )
    return Published(f"google/{hub}", shape, gated=True)


_SMOLLM2 = ModelConfig(
    model_type="llama",
    vocab_size=49_152,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    intermediate_size=1536,
    rms_norm_eps=1e-5,
    rope_theta=100_000.0,
    tie_word_embeddings=True,
    max_position_embeddings=8192,
)

MODELS: dict[str, Published] = {
    "llama3-8b-instruct": _llama("Meta-Llama-3-8B-Instruct", 4096, 32, 32, 128, 14_336),
    "llama3.1-8b": _llama("Llama-3.1-8B", 4096, 32, 32, 128, 14_336, factor=8),
    "llama3.2-1b": _llama("Llama-3.2-1B", 2048, 16, 32, 64, 8192, factor=32, tied=True),
    "llama3.2-3b": _llama("Llama-3.2-3B", 3072, 28, 24, 128, 8192, factor=32, tied=True),
    "llama3.2-11b": _llama("Llama-3.2-11B-Vision", 4096, 32, 32, 128, 14_336, factor=8),
    "llama3.2-90b": _llama("Llama-3.2-90B-Vision", 8192, 80, 64, 128, 28_672, factor=8),
    "qwen3-0.6b": _qwen3("Qwen3-0.6B", 1024, 28, 16, 3072, tied=True),
    "qwen3-1.7b": _qwen3("Qwen3-1.7B", 2048, 28, 16, 6144, tied=True),
    "qwen3-4b": _qwen3("Qwen3-4B", 2560, 36, 32, 9728, tied=True),
    "qwen3-8b": _qwen3("Qwen3-8B", 4096, 36, 32, 12_288),
    "qwen3-14b": _qwen3("Qwen3-14B", 5120, 40, 40, 17_408),
    "qwen3-32b": _qwen3("Qwen3-32B", 5120, 64, 64, 25_600),
    # Not of the paper. Of Gemma 3 from 4B on it is the text tower.
    "gemma3-270m": _gemma3("gemma-3-270m", 640, 18, 4, 1, 2048),
    "gemma3-1b": _gemma3("gemma-3-1b-pt", 1152, 26, 4, 1, 6912),
    "gemma3-4b": _gemma3("gemma-3-4b-pt", 2560, 34, 8, 4, 10_240),
    "gemma3-12b": _gemma3("gemma-3-12b-pt", 3840, 48, 16, 8, 15_360),
    "gemma3-27b": _gemma3("gemma-3-27b-pt", 5376, 62, 32, 16, 21_504, H=128, scalar=168),
    "olmo2-1b": _olmo2("OLMo-2-0425-1B", 2048, 16, 16, 16, 8192),
    "olmo2-7b": _olmo2("OLMo-2-1124-7B", 4096, 32, 32, 32, 11_008),
    "olmo2-13b": _olmo2("OLMo-2-1124-13B", 5120, 40, 40, 40, 13_824),
    "olmo2-32b": _olmo2("OLMo-2-0325-32B", 5120, 64, 40, 8, 27_648),
    # Small enough for a CPU.
    "smollm2-135m": Published("HuggingFaceTB/SmolLM2-135M-Instruct", _SMOLLM2, gated=False),
}


def published(name: str) -> Published:
    """The model of that name. Raises ConfigError that lists the known ones."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is not a known model{hint}; known: {', '.join(MODELS)}")
    return MODELS[name]
