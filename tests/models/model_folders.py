"""Small model folders: random ones of any family, in shards, and inside a multimodal model."""

import json

import numpy as np
from golden_cases import LLAMA, QWEN3
from safetensors.numpy import save_file

from jaxcomp.models import hf
from jaxcomp.models.config import from_hf
from jaxcomp.models.weight_map import Tower, weights

WIDE = QWEN3 | {"num_attention_heads": 8, "num_key_value_heads": 4}  # divides over tp = 4
SHARDS = ("model-1.safetensors", "model-2.safetensors")
# Beginning of the language model's names, its head, beginning of the other towers' names.
SPELLINGS = {
    "published": ("language_model.model.", "language_model.lm_head.weight", ""),
    "transformers 4": ("model.language_model.", "lm_head.weight", "model."),
    "transformers 5": ("language_model.", "lm_head.weight", ""),
}


def random_tensors(config, seed=0):
    """Weights by Hugging Face's names and shapes; norms away from one, so that they matter."""
    rng, table = np.random.default_rng(seed), weights(from_hf(config), Tower())
    shapes = {name: weight.stored for weight in table.values() for name in weight.names}
    return {
        name: (rng.normal(size=s) * 0.3 + (len(s) == 1)).astype(np.float32)
        for name, s in shapes.items()
    }


def write_folder(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hf.CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})


def folder_of(path, config=QWEN3, dtype=np.float32):
    tensors = {name: x.astype(dtype) for name, x in random_tensors(config).items()}
    write_folder(path, config, tensors)
    return tensors


def sharded(twice="", lost="", spoil="", **names):
    """Writes two shards with an index. `twice` stands in both; `lost` is removed; of `spoil` all
    but 10 bytes stay; `names` overrides the index's files of tensors that contain the name."""

    def write(path):
        tensors = folder_of(path)
        (path / hf.WEIGHTS).unlink()
        order, parts = sorted(tensors), {}
        for i, file in enumerate(SHARDS):
            own = order[i::2]
            parts |= dict.fromkeys(own, file)
            save_file({n: tensors[n] for n in {*own, twice} - {""}}, path / file)
        for part, file in names.items():
            parts |= {n: file for n in parts if n == f"model.{part}.weight"}
        (path / hf.INDEX).write_text(json.dumps({"weight_map": parts}))
        if lost:
            (path / lost).unlink()
        if spoil:
            (path / spoil).write_bytes((path / spoil).read_bytes()[:-10])

    return write


def vision(path, spelling="published"):
    """A vision model in the folder `path`, and its text tower, a Llama, alone in `path`/plain."""
    prefix, head, other = SPELLINGS[spelling]
    llama = LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    # Layers 0, 2, 4 of five are the Llama's, as 1 and 3 look at the image.
    tensors = {}
    for name, x in folder_of(path / "plain", llama).items():
        y = int(name.split(".")[2]) if ".layers." in name else 0
        name = name.replace("model.", prefix, 1).replace(f"layers.{y}.", f"layers.{2 * y}.")
        tensors[name] = x
    tensors[head] = tensors.pop("lm_head.weight")
    emb = f"{prefix}embed_tokens.weight"
    tensors[emb] = np.concatenate([tensors[emb], np.full((8, 24), 9, np.float32)])
    for y in (1, 3):
        tensors[f"{prefix}layers.{y}.cross_attn.q_proj.weight"] = np.ones((2, 2), np.float32)
    tensors[f"{other}vision_model.patch_embedding.weight"] = np.ones((2, 2), np.float32)
    tensors[f"{other}multi_modal_projector.bias"] = np.ones(2, np.float32)
    text = llama | {"model_type": "mllama_text_model", "num_hidden_layers": 5}
    config = {"model_type": "mllama", "text_config": text | {"cross_attention_layers": [1, 3]}}
    write_folder(path, config, tensors)
