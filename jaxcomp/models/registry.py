"""The paper's models, and a small one: where their weights are published, and their shapes, so that
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
    # Not of the paper: small enough for a CPU.
    "smollm2-135m": Published("HuggingFaceTB/SmolLM2-135M-Instruct", _SMOLLM2, gated=False),
}


def published(name: str) -> Published:
    """The model of that name. Raises ConfigError that lists the known ones."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is not a known model{hint}; known: {', '.join(MODELS)}")
    return MODELS[name]
