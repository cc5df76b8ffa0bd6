"""LoRA adapters to and from the PEFT folder layout.

`adapter_model.safetensors` holds, for the module `model.layers.0.self_attn.q_proj`,
`base_model.model.<module>.lora_A.weight` [R, in] and `.lora_B.weight` [out, R].
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxcomp.config import LoraConfig, ModelConfig
from jaxcomp.inference.format import ExportError
from jaxcomp.models.block import PROJECTIONS
from jaxcomp.models.lora import lora_specs
from jaxcomp.models.safetensors import save_tensors
from jaxcomp.models.weight_map import Tower, weights
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.sharding import constrain

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "compressor/llm/layers/"
Leaves = dict[str, Any]  # "compressor/llm/layers/q/lora/a" -> [Y, D, R], as in a checkpoint


def save(
    folder: Path, leaves: Leaves, cfg: ModelConfig, lora: LoraConfig, base: str, tower: Tower
) -> None:
    """Writes the two files of an adapter of the model `base` (a folder's name or hub id)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, modules in _modules(cfg, tower).items():
        a, b = (np.asarray(leaves[f"{_PREFIX}{name}/lora/{part}"], np.float32) for part in "ab")
        for y, module in enumerate(modules):
            start = f"base_model.model.{module}"
            a_RI, b_OR = a[y].reshape(-1, lora.rank).T, b[y].reshape(lora.rank, -1).T
            tensors[f"{start}.lora_A.weight"] = np.ascontiguousarray(a_RI)
            tensors[f"{start}.lora_B.weight"] = np.ascontiguousarray(b_OR)
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(m[0].rpartition(".")[2] for m in _modules(cfg, tower).values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    paths.write_bytes(folder / CONFIG, text.encode())


def load(folder: Path, cfg: ModelConfig, tower: Tower) -> Leaves:
    """The leaves `save` wrote, on the active mesh. Raises ExportError for what does not fit."""
    rank = read_config(folder).rank
    path = folder / WEIGHTS
    out: Leaves = {}
    try:
        with safe_open(path, "np") as file:
            table = weights(cfg, tower)
            for name, modules in _modules(cfg, tower).items():
                weight = table[f"layers.{name}"]
                inputs = weight.inputs or 0
                ins, outs = weight.shape[:inputs], weight.shape[inputs:]
                a = [_read(file, path, m, "A", (rank, math.prod(ins))) for m in modules]
                b = [_read(file, path, m, "B", (math.prod(outs), rank)) for m in modules]
                pair = {
                    "a": np.stack([x.T.reshape(*ins, rank) for x in a]),
                    "b": np.stack([x.T.reshape(rank, *outs) for x in b]),
                }
                for part, spec in zip("ab", lora_specs(PROJECTIONS[name].eq), strict=True):
                    array = jax.numpy.asarray(pair[part], jax.numpy.float32)
                    out[f"{_PREFIX}{name}/lora/{part}"] = constrain(array, spec)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the run again") from error
    return out


def read_config(folder: Path) -> LoraConfig:
    """Rank, alpha and dropout of an adapter. Raises ExportError where they are not there."""
    path = folder / CONFIG
    try:
        found = strict_json.read(path, dict)
        return LoraConfig(int(found["r"]), float(found["lora_alpha"]), float(found["lora_dropout"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(f"{path} is no PEFT config ({error}); export the run again") from error


def _modules(cfg: ModelConfig, tower: Tower) -> dict[str, list[str]]:
    """Our projection -> its module in each layer, by the names transformers' model class has."""
    table = weights(cfg, tower)
    return {
        name: [n.removesuffix(".weight") for n in table[f"layers.{name}"].names]
        for name in PROJECTIONS
    }


def _read(file: Any, path: Path, module: str, part: str, shape: tuple[int, int]) -> np.ndarray:
    name = f"base_model.model.{module}.lora_{part}.weight"
    if name not in set(file.keys()):
        raise ExportError(f"{path} lacks {name}; expected the adapter of another base model")
    found = file.get_tensor(name)
    if found.shape != shape:
        raise ExportError(f"{path}: {name} has shape {found.shape}, this base needs {shape}")
    return found.astype(np.float32)
