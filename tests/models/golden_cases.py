"""Tiny configs of each family, and logits and tokens that transformers computed with them.

One table for make_golden.py, which records (needs torch), and test_models_golden.py, which compares
with the record, and live where torch is installed.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxcomp.models.generate import generate
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch

GOLDEN = Path(__file__).parent / "golden"
ASSETS = Path(os.environ.get("JAXCOMP_ASSETS") or Path.home() / ".cache" / "jaxcomp-assets")
SMOLLM2, SMOLLM2_GOLDEN = ASSETS / "smollm2-135m", GOLDEN / "smollm2-135m.json"
SIDES = ("left", "right")  # of the row, where the padding stands
SPELLINGS = ("old", "new")  # rope_theta and rope_scaling | rope_parameters
LENGTHS = (16, 9, 5, 1)
NEW = 16  # greedy tokens of each row
NEVER = 1 << 20  # an end token outside every vocabulary
# Of the largest logit. Both sides sum in float32, whose unit is 6e-8: this is some 200 roundings.
EXACT = 1e-5

LLAMA = {
    "model_type": "llama",
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 28,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
# With this theta the four wavelengths are 6, 63, 628 and 6283: kept, between, slowed, slowed.
LLAMA31 = LLAMA | {
    "head_dim": 8,
    "tie_word_embeddings": True,
    "rope_theta": 10_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
}
QWEN3 = {name: x for name, x in LLAMA.items() if not name.startswith("rope_")} | {
    "model_type": "qwen3",
    "head_dim": 10,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "tie_word_embeddings": True,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "num_key_value_heads": 1}

OLMO2 = LLAMA | {"model_type": "olmo2"}
# A window shorter than the rows, layers of both kinds, both thetas far from their defaults.
GEMMA3 = {
    "model_type": "gemma3_text",
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 28,
    "sliding_window": 5,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 13,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 100.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "max_position_embeddings": 64,
}


def respelled(config: dict[str, Any], spelling: str) -> dict[str, Any]:
    """The same config with the fields of RoPE in the given spelling."""
    if "text_config" in config:
        return config | {"text_config": respelled(config["text_config"], spelling)}
    bare = {name: x for name, x in config.items() if not name.startswith("rope_")}
    new, local = config.get("rope_parameters") or {}, config.get("rope_local_base_freq")
    if "full_attention" in new:  # Gemma has one RoPE for each kind of layer
        local, new = new["sliding_attention"]["rope_theta"], new["full_attention"]
    old = {"rope_type": "default"} | (config.get("rope_scaling") or {})
    rope = old | {"rope_theta": config.get("rope_theta")} | new
    if spelling == "new":
        both = {"full_attention": rope}
        both["sliding_attention"] = {"rope_type": "default", "rope_theta": local}
        return bare | {"rope_parameters": both if local else rope}
    scaling = {name: x for name, x in rope.items() if name != "rope_theta"}
    scaling = scaling if scaling["rope_type"] != "default" else None
    bare |= {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    return bare | {"rope_local_base_freq": local} if local else bare


_SCALED = LLAMA31["rope_scaling"]
_TEXT = respelled(LLAMA | {"rope_theta": 1000.0, "rope_scaling": _SCALED}, "new") | {
    "model_type": "mllama_text_model",
    "num_hidden_layers": 4,
    "cross_attention_layers": [1, 3],
    "pad_token_id": 0,
}
_VISION = {
    "model_type": "mllama_vision_model",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_global_layers": 1,
    "attention_heads": 1,
    "intermediate_size": 8,
    "vision_output_dim": 16,
    "image_size": 4,
    "patch_size": 2,
    "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
    "intermediate_layers_indices": [0],
}
# Each in the spelling that its checkpoints mostly have.
CASES: dict[str, dict[str, Any]] = {
    "llama3": LLAMA,
    "llama3.1": respelled(LLAMA31, "new") | {"tie_word_embeddings": False},
    "llama3.2": LLAMA31 | {"rope_scaling": _SCALED | {"factor": 32.0}},
    "smollm2": respelled(LLAMA, "new")
    | {
        "num_attention_heads": 6,
        "head_dim": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "tie_word_embeddings": True,
    },
    "qwen2.5": QWEN2 | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": QWEN3,
    "llama3.2-vision": {
        "model_type": "mllama",
        "image_token_index": 48,
        "text_config": _TEXT,
        "vision_config": _VISION,
    },
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
    "gemma3-vision": {
        "model_type": "gemma3",
        "image_token_index": 47,
        "boi_token_index": 46,
        "eoi_token_index": 45,
        "mm_tokens_per_image": 4,
        "text_config": respelled(GEMMA3, "new") | {"num_hidden_layers": 3},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 4,
            "patch_size": 2,
        },
    },
}


class Golden(NamedTuple):
    """What transformers computed in float32: logits of every token of every row, one after another,
    by the side of the padding, and each row's greedy tokens."""

    rows: list[list[int]]
    logits: dict[str, np.ndarray]
    greedy_BL: np.ndarray


def write(golden: Golden, folder: Path, note: dict[str, Any]) -> None:
    """golden.json and logits.safetensors; `note` says what made them."""
    save_file(golden.logits, folder / "logits.safetensors")
    record = {"note": note, "rows": golden.rows, "greedy": golden.greedy_BL.tolist()}
    (folder / "golden.json").write_text(one_line_each(record), encoding="utf-8")


def read(folder: Path) -> Golden:
    record = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    logits = load_file(folder / "logits.safetensors")
    return Golden(record["rows"], logits, np.array(record["greedy"], np.int32))


def one_line_each(record: dict[str, Any]) -> str:
    """JSON with one field, or one list of a field of lists, a line."""
    fields = []
    for name, x in record.items():
        text = json.dumps(x, ensure_ascii=False)
        if isinstance(x, list) and isinstance(x[0], list | str):
            items = (f"  {json.dumps(item, ensure_ascii=False)}" for item in x)
            text = "[\n" + ",\n".join(items) + "\n ]"
        fields.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def padded(rows: list[list[int]], side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tok_BL, pos_BL (0 at the first token of a row) and seg_BL (1, padding 0), all int32."""
    width = max(map(len, rows))
    tok_BL, pos_BL, seg_BL = np.zeros((3, len(rows), width), np.int32)
    for b, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tok_BL[b, at], pos_BL[b, at], seg_BL[b, at] = row, np.arange(len(row)), 1
    return tok_BL, pos_BL, seg_BL


@jax.jit
def logits(model: Transformer, tok: jax.Array, pos: jax.Array, seg: jax.Array) -> jax.Array:
    return model.unembed(model(model.embed(tok), pos, seg))


def our_logits(model: Transformer, rows: list[list[int]], side: str) -> np.ndarray:
    """Under a mesh: logits of every token of every row, one after another."""
    batch = padded(rows, side)
    ours_BLV = np.asarray(logits(model, *put_batch(batch, jax.sharding.get_mesh())))
    return ours_BLV[batch[2] > 0]


def difference(model: Transformer, golden: Golden, side: str) -> float:
    """max |ours - theirs| / max |theirs|."""
    theirs = golden.logits[side]
    return float(np.abs(our_logits(model, golden.rows, side) - theirs).max() / np.abs(theirs).max())


def our_greedy(model: Transformer, rows: list[list[int]], side: str, max_new: int) -> np.ndarray:
    """Under a mesh: tok_BL of cached greedy generation after each row."""
    batch = (*padded(rows, side), np.array([len(row) for row in rows], np.int32))
    tok, pos, seg, start = put_batch(batch, jax.sharding.get_mesh())
    out = generate(model, model.embed(tok), pos, seg, start, max_new=max_new, eos_id=NEVER)
    return np.asarray(out.tok_BL)
