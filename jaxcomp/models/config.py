"""Hugging Face's config.json <-> ModelConfig. Anything we do not compute is refused by name.

Where two fields say the same thing differently, what counts is what transformers takes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling, check_numbers

SUPPORTED = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
VISION = "mllama"  # Llama-3.2-Vision: its text tower without cross-attention layers is a Llama

# Fields that change the computation, with the only value that `model.py` computes.
_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
}
_INTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def from_hf(hf: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """ModelConfig of a config.json's contents, with transformers' defaults; RoPE in both spellings.

    Raises ConfigError naming the field where one is missing or asks for something unsupported.
    """
    if hf.get("quantization_config"):
        how = hf["quantization_config"]
        how = how.get("quant_method", how) if isinstance(how, dict) else how
        raise ConfigError(
            f"{source}: quantization_config says {how!r}; quantised weights are not supported: "
            "take the model from before it was quantised"
        )
    kind = hf.get("model_type")
    if kind == VISION:
        return from_hf(_text_of_vision(hf, source), f"{source} (text_config)")
    if kind not in tuple(SUPPORTED):  # a tuple: what a broken file holds may have no hash
        known = ", ".join((*SUPPORTED, VISION))
        named = f", architectures {hf['architectures']!r}" if hf.get("architectures") else ""
        raise ConfigError(
            f"{source}: model_type is {kind!r}{named}; supported architectures are {known}"
        )
    for name, only in _ONLY.items():
        if hf.get(name) not in (None, only):
            raise ConfigError(f"{source}: {name} is {hf[name]!r}; only {only!r} is supported")
    layers = hf.get("layer_types")
    if not isinstance(layers, list | None):
        raise ConfigError(f"{source}: layer_types is {layers!r}, expected a list")
    for layer in layers or ():
        if layer != "full_attention":
            raise ConfigError(
                f"{source}: layer_types has {layer!r}; only 'full_attention' is supported"
            )
    values: dict[str, Any] = {name: _integer(hf, name, source) for name in _INTS}
    heads = values["num_attention_heads"]
    # Qwen's files that leave it out mean 32; null means one a head.
    left_out = 32 if kind != "llama" and "num_key_value_heads" not in hf else heads
    # Qwen3 says 128, the others derive the head size.
    own = 128 if kind == "qwen3" else values["hidden_size"] // max(heads, 1)
    most = _integer(hf, "max_position_embeddings", source, 2048 if kind == "llama" else 32_768)
    theta, scaling = _rope(hf, most, source)
    tied = hf.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        raise ConfigError(f"{source}: tie_word_embeddings is {tied!r}, expected true or false")
    cfg = ModelConfig(
        model_type=kind,
        num_key_value_heads=_integer(hf, "num_key_value_heads", source, left_out),
        head_dim=_integer(hf, "head_dim", source, own),
        rms_norm_eps=_number(hf, "rms_norm_eps", source, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(tied),
        max_position_embeddings=most,
        **values,
    )
    check(cfg, source)
    return cfg


def _text_of_vision(hf: dict[str, Any], source: str) -> dict[str, Any]:
    text = hf.get("text_config")
    if not isinstance(text, dict) or not isinstance(text.get("cross_attention_layers"), list):
        raise ConfigError(
            f"{source}: model_type is {VISION!r}, but there is no text_config with a list "
            "`cross_attention_layers`; expected the config.json of Llama-3.2-Vision"
        )
    layers = _integer(text, "num_hidden_layers", f"{source} (text_config)")
    crossed = text["cross_attention_layers"]
    for layer in crossed:
        if type(layer) is not int or not 0 <= layer < layers:
            raise ConfigError(
                f"{source} (text_config): cross_attention_layers has {layer!r}, expected numbers "
                f"of layers, from 0 to {layers - 1}"
            )
    own = layers - len(set(crossed))
    return text | {"model_type": "llama", "num_hidden_layers": own}


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """config.json's contents; RoPE in both spellings, for any release of transformers."""
    check(cfg)
    hf: dict[str, Any] = {"architectures": [SUPPORTED[cfg.model_type]]}
    hf |= {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    hf["hidden_act"] = "silu"
    if cfg.qkv_bias:
        hf["use_sliding_window"] = False
    else:
        hf["attention_bias"] = False
    if cfg.model_type == "llama":
        hf["mlp_bias"] = False
    rope: dict[str, Any] = {"rope_type": "default"}
    if cfg.rope_scaling is not None:
        rope = {"rope_type": "llama3"} | dataclasses.asdict(cfg.rope_scaling)
    hf["rope_scaling"] = rope if cfg.rope_scaling is not None else None
    hf["rope_parameters"] = rope | {"rope_theta": cfg.rope_theta}
    return hf


def check(cfg: ModelConfig, source: str = "model") -> None:
    """Raises ConfigError where the sizes cannot make a transformer."""
    if cfg.model_type not in SUPPORTED:
        raise ConfigError(
            f"{source}: model_type is {cfg.model_type!r}; supported: {', '.join(SUPPORTED)}"
        )
    check_numbers(cfg, f"{source}: ")
    if not cfg.vocab_size:
        raise ConfigError(
            f"{source}: vocab_size is 0, expected at least 1 (0 stands for the tokenizer's size: "
            "fill it in first)"
        )
    check_shape(cfg, f"{source}: ")


def check_shape(cfg: ModelConfig, where: str) -> None:
    """Raises ConfigError, begun by `where`, where sizes do not go together."""
    if cfg.num_attention_heads % cfg.num_key_value_heads:
        raise ConfigError(
            f"{where}num_key_value_heads = {cfg.num_key_value_heads} does not divide "
            f"num_attention_heads = {cfg.num_attention_heads}"
        )
    if cfg.head_dim % 2:
        raise ConfigError(
            f"{where}head_dim = {cfg.head_dim}: expected an even number (rotary embeddings)"
        )
    rope = cfg.rope_scaling
    if rope and rope.high_freq_factor <= rope.low_freq_factor:
        raise ConfigError(
            f"{where}rope_scaling.high_freq_factor = {rope.high_freq_factor}: expected more than "
            f"low_freq_factor = {rope.low_freq_factor}"
        )


def _integer(hf: dict[str, Any], name: str, source: str, default: int | None = None) -> int:
    value = hf.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        found = "missing" if value is None else repr(value)
        raise ConfigError(f"{source}: {name} is {found}, expected a whole number")
    return value


def _number(hf: dict[str, Any], name: str, source: str, default: float | None = None) -> float:
    value = hf.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{source}: {name} is {value!r}, expected a number")
    return float(value)


def _rope(hf: dict[str, Any], most: int, source: str) -> tuple[float, RopeScaling | None]:
    """rope_theta and scaling; `rope_scaling` wins where `rope_parameters` stands too."""
    for field in ("rope_parameters", "rope_scaling"):
        rope = hf.get(field) or {}
        # Newer files of other families have one object for each kind of layer.
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            raise ConfigError(f"{source}: {field} is {rope!r}, expected one object for all layers")
    field = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    rope = hf.get(field) or {}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        found = rope["partial_rotary_factor"]
        raise ConfigError(
            f"{source}: {field}.partial_rotary_factor is {found!r}; only 1.0 is supported"
        )
    theta = _number({"rope_theta": 10_000.0} | hf | rope, "rope_theta", source)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ConfigError(
            f"{source}: {field}.rope_type is {kind!r}; supported are 'default' and 'llama3'"
        )
    names = [f.name for f in dataclasses.fields(RopeScaling)]
    rope = {names[-1]: most} | rope
    missing = [name for name in names if name not in rope]
    if missing:
        raise ConfigError(f"{source}: {field} lacks {', '.join(missing)}, which llama3 needs")
    floats = {name: _number(rope, name, f"{source}: {field}") for name in names[:-1]}
    return theta, RopeScaling(
        **floats,
        original_max_position_embeddings=_integer(rope, names[-1], f"{source}: {field}"),
    )
