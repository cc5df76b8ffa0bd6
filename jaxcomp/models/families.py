"""The registry of model families: one row per architecture of the Hugging Face hub.

A family of your own is a `register(Family(...))` away (docs/how-to/extend.md); no code branches
on a family's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxcomp.config import ConfigError

# Weights of one layer by our names, as Llama's files name them.
LAYER_NAMES: Mapping[str, str] = {
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{f"{name}_bias": f"self_attn.{name}_proj.bias" for name in "qkv"},
    **{name: f"self_attn.{name}_proj.weight" for name in "qkvo"},
    **{name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}


@dataclass(frozen=True, eq=False)
class Family:
    """One architecture: what its blocks compute, and how its files say so.

    Attributes:
        model_type: as in config.json.
        architecture: the class in transformers that reads an export.
        pre_norm: each branch's input is normalised (weights attn_norm, mlp_norm).
        post_norm: each branch's output is normalised (weights attn_post_norm, mlp_post_norm).
        norm_offset: what is added to the stored weight of every norm (Gemma: 1).
        qk_norm: queries and keys are normalised not at all, per head, or over the whole projection.
        qkv_bias: queries, keys and values have biases.
        activation: of the gated MLP, a name of `block.ACTIVATIONS`.
        activation_field: the field of config.json that names it.
        scale_embeddings: token embeddings are multiplied by sqrt(hidden_size).
        names: weights of one layer whose names differ from `LAYER_NAMES`.
        defaults: what transformers takes for a field that config.json leaves out; a field with
            neither this nor a general default is required.
        fields: fields of `ModelConfig` that only some families have, which this one reads.
        fixed: fields of config.json with the only value that is computed; written on export.
        inert: fields of config.json that change nothing where the fixed ones hold.

    Example:
        >>> mine = jaxcomp.Family("mine", "MineForCausalLM", names={"attn_norm": "norm1.weight"})
        >>> mine.layer_names["attn_norm"]
        'norm1.weight'
    """

    model_type: str
    architecture: str
    pre_norm: bool = True
    post_norm: bool = False
    norm_offset: float = 0.0
    qk_norm: Literal["none", "head", "projection"] = "none"
    qkv_bias: bool = False
    activation: str = "silu"
    activation_field: str = "hidden_act"
    scale_embeddings: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    inert: tuple[str, ...] = ()

    @property
    def layer_names(self) -> dict[str, str]:
        """The weights of one layer by our names, after `layers.<number>.` in the files."""
        return {**LAYER_NAMES, **self.names}


@dataclass(frozen=True, eq=False)
class Multimodal:
    """A checkpoint whose `text_config` describes a language model of a family.

    Attributes:
        model_type: as in config.json.
        family: of the language model.
        others: beginnings of the names of weights that are not the language model's.
        cross_attention: some of the layers attend to the image alone (`cross_attention_layers`);
            without an image they do nothing and are not read.
        extra_rows: rows of the embedding after the vocabulary's.
    """

    model_type: str
    family: str
    others: tuple[str, ...]
    cross_attention: bool = False
    extra_rows: int = 0


FAMILIES: dict[str, Family] = {}
MULTIMODAL: dict[str, Multimodal] = {}


def register(row: Family) -> Family:
    """Add a family. Raises ValueError where its model_type is taken."""
    if row.model_type in FAMILIES or row.model_type in MULTIMODAL:
        raise ValueError(f"model_type {row.model_type!r} is registered already: choose another")
    FAMILIES[row.model_type] = row
    return row


def family(model_type: Any, source: str = "model") -> Family:
    """The row of `model_type`. Raises ConfigError that lists the known ones."""
    if model_type not in tuple(FAMILIES):  # a tuple: what a broken file holds may have no hash
        known = ", ".join(FAMILIES)
        raise ConfigError(f"{source}: model_type is {model_type!r}; supported: {known}")
    return FAMILIES[model_type]


register(
    Family(
        "llama",
        "LlamaForCausalLM",
        defaults={"max_position_embeddings": 2048},
        fixed={"attention_bias": False, "mlp_bias": False},
        inert=("pretraining_tp", "is_llama_config"),
    )
)

# What Qwen's files leave out; a window stands in them, but is used with use_sliding_window only.
_QWEN: dict[str, Any] = {"num_key_value_heads": 32, "max_position_embeddings": 32_768}
_QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    qkv_bias=True,
    defaults=_QWEN,
    fixed={"use_sliding_window": False},
    inert=("sliding_window", "max_window_layers"),
)
register(_QWEN2)
register(
    replace(
        _QWEN2,
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        qkv_bias=False,
        qk_norm="head",
        defaults=_QWEN | {"head_dim": 128},
        fixed={"attention_bias": False},
    )
)

register(
    Family(
        "olmo2",
        "Olmo2ForCausalLM",
        pre_norm=False,
        post_norm=True,
        qk_norm="projection",
        names={
            "attn_post_norm": "post_attention_layernorm.weight",
            "mlp_post_norm": "post_feedforward_layernorm.weight",
        },
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        fixed={"attention_bias": False},
    )
)

register(
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        post_norm=True,
        norm_offset=1.0,
        qk_norm="head",
        activation="gelu_pytorch_tanh",
        activation_field="hidden_activation",
        scale_embeddings=True,
        names={
            "attn_post_norm": "post_attention_layernorm.weight",
            "mlp_norm": "pre_feedforward_layernorm.weight",
            "mlp_post_norm": "post_feedforward_layernorm.weight",
        },
        defaults={
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": True,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256,
        },
        fields=(
            "sliding_window",
            "sliding_window_pattern",
            "rope_local_base_freq",
            "query_pre_attn_scalar",
        ),
        fixed={
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        inert=("_sliding_window_pattern",),  # transformers goes by layer_types
    )
)

# The text tower of Llama-3.2-Vision without its cross-attention layers is a Llama.
MULTIMODAL["mllama"] = Multimodal(
    "mllama",
    "llama",
    others=("vision_model.", "multi_modal_projector."),
    cross_attention=True,
    extra_rows=8,
)
MULTIMODAL["gemma3"] = Multimodal(
    "gemma3",
    "gemma3_text",
    others=("vision_tower.", "multi_modal_projector."),
)
