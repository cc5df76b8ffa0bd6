"""Conversion of Hugging Face's config.json and ModelConfig; unsupported fields are errors.

Where two fields say the same thing differently, what counts is what transformers takes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcomp.config import ConfigError, ModelConfig, RopeScaling
from jaxcomp.models.families import FAMILIES, MULTIMODAL, Family, family
from jaxcomp.runtime.fields import read

SLIDING, FULL = "sliding_attention", "full_attention"

# Of any family: what transformers takes for a field that config.json leaves out, ...
_DEFAULTS: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0}
# ... fields that change the computation, with the only value that `model.py` computes, ...
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
# ... and fields that say nothing of how logits are computed from tokens: bookkeeping, tokens with a
# meaning (`*_token_id`), and what older releases of transformers wrote for generation and training.
_INERT = frozenset(
    """
    _attn_implementation_autoset _model_name_or_path _name_or_path architectures auto_map
    bad_words_ids begin_suppress_tokens cache_implementation chunk_size_feed_forward
    cross_attention_hidden_size diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task id2label
    initializer_range is_decoder label2id length_penalty max_length min_length model_max_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    original_max_position_embeddings output_attentions output_hidden_states output_scores prefix
    problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    """.split()  # noqa: SIM905 (one a line would be a page)
)
_OMITTED = {
    f.name: f.default for f in dataclasses.fields(ModelConfig) if f.metadata.get("omit_if_default")
}
_COMMON = tuple(f.name for f in dataclasses.fields(ModelConfig) if f.name not in _OMITTED)
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
    if how := hf.get("quantization_config"):
        how = how.get("quant_method", how) if isinstance(how, dict) else how
        raise ConfigError(
            f"{source}: quantization_config says {how!r}; quantised weights are not supported: "
            "take the model from before it was quantised"
        )
    kind = hf.get("model_type")
    if kind in tuple(MULTIMODAL):  # a tuple: what a broken file holds may have no hash
        return from_hf(_text_of(hf, source), f"{source} (text_config)")
    if kind not in tuple(FAMILIES):
        known = ", ".join((*FAMILIES, *MULTIMODAL))
        named = f", architectures {hf['architectures']!r}" if hf.get("architectures") else ""
        raise ConfigError(
            f"{source}: model_type is {kind!r}{named}; supported architectures are {known}"
        )
    row = family(kind)
    _refuse_what_is_not_computed(hf, row, source)
    own = _DEFAULTS | dict(row.defaults)
    values: dict[str, Any] = {name: _integer(hf, name, source, own.get(name)) for name in _INTS}
    heads = values["num_attention_heads"]
    # A default holds for files that leave the number out; null means one a head.
    left_out = heads if "num_key_value_heads" in hf else own.get("num_key_value_heads", heads)
    head_dim = own.get("head_dim", values["hidden_size"] // max(heads, 1))
    most = _integer(hf, "max_position_embeddings", source, own.get("max_position_embeddings"))
    tied = hf.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        raise _expected(source, "tie_word_embeddings", tied, "true or false")
    for name in {"sliding_window", "query_pre_attn_scalar"} & set(row.fields):
        values[name] = _integer(hf, name, source, own.get(name, _OMITTED[name]))
    pattern = _pattern(hf, row, values["num_hidden_layers"], source)
    cfg = ModelConfig(
        model_type=row.model_type,
        num_key_value_heads=_integer(hf, "num_key_value_heads", source, left_out),
        head_dim=_integer(hf, "head_dim", source, head_dim),
        rms_norm_eps=_number(hf, "rms_norm_eps", source, own["rms_norm_eps"]),
        tie_word_embeddings=own.get("tie_word_embeddings", False) if tied is None else tied,
        max_position_embeddings=most,
        sliding_window_pattern=pattern,
        **values,
        **_ropes(hf, row, own["rope_theta"], most, source),
    )
    check(cfg, source)
    return cfg


def _text_of(hf: dict[str, Any], source: str) -> dict[str, Any]:
    """The config of the language model inside a multimodal one."""
    outer, text = MULTIMODAL[hf["model_type"]], hf.get("text_config")
    crossed = text.get("cross_attention_layers") if isinstance(text, dict) else None
    if not isinstance(text, dict) or (outer.cross_attention and not isinstance(crossed, list)):
        also = " with a list `cross_attention_layers`" if outer.cross_attention else ""
        raise ConfigError(
            f"{source}: model_type is {outer.model_type!r}, but there is no text_config{also}; "
            "expected the config.json of a published model"
        )
    if "tie_word_embeddings" in hf:
        text = {"tie_word_embeddings": hf["tie_word_embeddings"]} | text
    text = text | {"model_type": outer.family}
    if not outer.cross_attention:
        return text
    layers = _integer(text, "num_hidden_layers", f"{source} (text_config)")
    for layer in crossed or ():
        if type(layer) is not int or not 0 <= layer < layers:
            raise ConfigError(
                f"{source} (text_config): cross_attention_layers has {layer!r}, expected numbers "
                f"of layers, from 0 to {layers - 1}"
            )
    del text["cross_attention_layers"]
    return text | {"num_hidden_layers": layers - len(set(crossed or ()))}


def _refuse_what_is_not_computed(hf: dict[str, Any], row: Family, source: str) -> None:
    """Raises ConfigError for a field that is neither read nor at the value that is computed."""
    fixed = _FIXED | dict(row.fixed) | {row.activation_field: row.activation}
    read = {*_COMMON, *row.fields, "rope_parameters", "layer_types", "quantization_config"}
    known = read | _INERT | set(row.inert)
    for name, value in hf.items():
        if name in fixed:
            if value not in (None, fixed[name]):
                raise ConfigError(
                    f"{source}: {name} is {value!r}; only {fixed[name]!r} is supported for a "
                    f"{row.model_type}: choose a model without it"
                )
        elif value is not None and name not in known and not name.endswith("_token_id"):
            raise ConfigError(
                f"{source}: {name} is {value!r}; {row.model_type} has no such field, and it may "
                "change what the model computes: choose another model, or delete the field if "
                "transformers gives the same logits without it"
            )


def _pattern(hf: dict[str, Any], row: Family, layers: int, source: str) -> int:
    """`sliding_window_pattern`, by layer_types where it is given."""
    windows = "sliding_window_pattern" in row.fields
    default = row.defaults.get("sliding_window_pattern", 0)
    given = _integer(hf, "sliding_window_pattern", source, default) if windows else 0
    kinds, allowed = hf.get("layer_types"), (FULL, SLIDING) if windows else (FULL,)
    if kinds is None:
        return given
    if not isinstance(kinds, list):
        raise _expected(source, "layer_types", kinds, "a list")
    if odd := [kind for kind in kinds if kind not in allowed]:
        raise ConfigError(
            f"{source}: layer_types has {odd[0]!r}; only {' and '.join(map(repr, allowed))} is "
            "supported"
        )
    if not windows:
        return 0
    # All of one kind say little of the pattern: the one that is given, if it agrees.
    first = kinds.index(FULL) + 1 if FULL in kinds else len(kinds) + 1
    for pattern in (given, first):
        if len(kinds) == layers and kinds == layer_types(pattern, layers):
            return pattern
    raise ConfigError(
        f"{source}: layer_types is {kinds!r}; expected {layers} entries, every n-th of them "
        f"{FULL!r}, the others {SLIDING!r}"
    )


def layer_types(pattern: int, layers: int) -> list[str]:
    """Hugging Face's name of the attention of each layer, by `sliding_window_pattern`."""
    return [SLIDING if pattern and y % pattern else FULL for y in range(1, layers + 1)]


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """config.json's contents; RoPE in both spellings, for any release of transformers."""
    check(cfg)
    row = family(cfg.model_type)
    hf: dict[str, Any] = {"architectures": [row.architecture], row.activation_field: row.activation}
    hf |= {name: getattr(cfg, name) for name in (*_COMMON, *row.fields)} | dict(row.fixed)
    rope: dict[str, Any] = {"rope_type": "default"}
    if cfg.rope_scaling is not None:
        rope = dataclasses.asdict(cfg.rope_scaling)
        if cfg.rope_scaling.rope_type == "linear":
            rope = {name: rope[name] for name in ("rope_type", "factor")}
    hf["rope_scaling"] = rope if cfg.rope_scaling is not None else None
    rope = rope | {"rope_theta": cfg.rope_theta}
    if "rope_local_base_freq" in row.fields:
        local = {"rope_type": "default", "rope_theta": cfg.rope_local_base_freq}
        rope = {FULL: rope, SLIDING: local}
    hf["rope_parameters"] = rope
    if "sliding_window_pattern" in row.fields:
        hf["layer_types"] = layer_types(cfg.sliding_window_pattern, cfg.num_hidden_layers)
    if "query_pre_attn_scalar" in row.fields:
        hf["query_pre_attn_scalar"] = cfg.query_pre_attn_scalar or cfg.head_dim
    return hf


def check(cfg: ModelConfig, source: str = "model") -> None:
    """Raises ConfigError where the sizes cannot make a transformer."""
    family(cfg.model_type, source)
    read(ModelConfig, cfg, source)
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
    row = family(cfg.model_type, where)
    for name, default in _OMITTED.items():
        if getattr(cfg, name) != default and name not in row.fields:
            raise ConfigError(
                f"{where}{name} = {getattr(cfg, name)}: a {row.model_type} has no such field; "
                f"leave it at {default}"
            )
    if cfg.sliding_window_pattern > 1 and not cfg.sliding_window:
        raise ConfigError(
            f"{where}sliding_window = 0, but sliding_window_pattern = "
            f"{cfg.sliding_window_pattern}: set both, or neither"
        )
    rope = cfg.rope_scaling
    if rope and rope.high_freq_factor <= rope.low_freq_factor:
        raise ConfigError(
            f"{where}rope_scaling.high_freq_factor = {rope.high_freq_factor}: expected more than "
            f"low_freq_factor = {rope.low_freq_factor}"
        )


def _expected(source: str, name: str, found: object, what: str) -> ConfigError:
    return ConfigError(f"{source}: {name} is {found!r}, expected {what}")


def _integer(hf: dict[str, Any], name: str, source: str, default: int | None = None) -> int:
    value = hf.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise _expected(source, name, value, "a whole number")
    return value


def _number(hf: dict[str, Any], name: str, source: str, default: float | None = None) -> float:
    value = hf.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _expected(source, name, value, "a number")
    return float(value)


def _ropes(hf: dict[str, Any], row: Family, theta: float, most: int, source: str) -> dict[str, Any]:
    """The fields of ModelConfig about RoPE."""
    if "rope_local_base_freq" not in row.fields:
        theta, scaling = _rope(hf, theta, most, source)
        return {"rope_theta": theta, "rope_scaling": scaling}
    both = hf.get("rope_parameters") or {}
    if not isinstance(both, dict) or not set(both) <= {FULL, SLIDING}:
        raise _expected(
            source, "rope_parameters", both, f"one object for {FULL}, one for {SLIDING}"
        )
    theta, scaling = _rope(hf | {"rope_parameters": both.get(FULL)}, theta, most, source)
    base = _number(hf, "rope_local_base_freq", source, 10_000.0)
    local, scaled = _rope({"rope_parameters": both.get(SLIDING)}, base, most, source)
    if scaled is not None:
        raise ConfigError(
            f"{source}: rope_parameters.{SLIDING} is {both[SLIDING]!r}; only the layers of "
            f"{FULL} may scale it"
        )
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_local_base_freq": local}


def _rope(
    hf: dict[str, Any], theta: float, most: int, source: str
) -> tuple[float, RopeScaling | None]:
    """rope_theta and scaling; `rope_scaling` wins where `rope_parameters` stands too."""
    field, rope = "", {}
    for name in ("rope_parameters", "rope_scaling"):
        found = hf.get(name) or {}
        # Newer files of other families have one object for each kind of layer.
        if not isinstance(found, dict) or any(isinstance(x, dict) for x in found.values()):
            raise _expected(source, name, found, "one object for all layers")
        field, rope = (name, found) if found else (field, rope)
    where = f"{source}: {field}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        found = rope["partial_rotary_factor"]
        raise ConfigError(f"{where}.partial_rotary_factor is {found!r}; only 1.0 is supported")
    theta = _number({"rope_theta": theta} | hf | rope, "rope_theta", source)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(factor=_number(rope, "factor", where), rope_type="linear")
    if kind != "llama3":
        raise ConfigError(
            f"{where}.rope_type is {kind!r}; supported are 'default', 'linear' and 'llama3'"
        )
    *names, length = (f.name for f in dataclasses.fields(RopeScaling)[:4])
    if missing := [name for name in names if name not in rope]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}, which llama3 needs")
    floats: dict[str, Any] = {name: _number(rope, name, where) for name in names}
    original = _integer({length: most} | rope, length, where)
    return theta, RopeScaling(**floats, original_max_position_embeddings=original)
