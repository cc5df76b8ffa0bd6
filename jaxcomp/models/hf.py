"""Hugging Face folders (config.json + safetensors) to and from a Transformer, straight into shards.

Every device reads only the bytes of its own shard. Which tensor is which: weight_map.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from safetensors import SafetensorError

from jaxcomp.config import LoraConfig, ModelConfig
from jaxcomp.models.block import PROJECTIONS, layer_leaves
from jaxcomp.models.config import from_hf, to_hf
from jaxcomp.models.model import Transformer
from jaxcomp.models.safetensors import DTYPES, HfError, Stored, read_all, save_tensors, stored_in
from jaxcomp.models.weight_map import Tower, Weight, tower, weights
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.sharding import check_model, spec_of

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_POINTER = b"version https://git-lfs"  # what a clone without Git LFS holds in a file's place
_FIX = f"take {CONFIG} and the weights from the same model"
Files = dict[str, Stored]  # by tensor name


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """ModelConfig of `folder`/config.json; HfError or ConfigError where it cannot be had."""
    return from_hf(_read_json(Path(folder) / CONFIG), str(Path(folder) / CONFIG))


def load(
    folder: str | os.PathLike[str],
    *,
    lora: LoraConfig | None = None,
    dtype: Any = jnp.float32,
    compute_dtype: Any = None,
    rngs: nnx.Rngs | None = None,
) -> Transformer:
    """The Transformer of `folder`, its base in `dtype`, put on the active mesh shard by shard.

    rngs draws the adapters where `lora` asks for some. Raises HfError for a missing or truncated
    file, a missing, unknown, misshapen or quantised tensor; ConfigError for an unsupported
    architecture or a mesh that does not divide it. All checks come before any weight is read.
    """
    folder = Path(folder)
    cfg, table, files = _checked(folder)
    check_model(cfg, jax.sharding.get_abstract_mesh(), str(folder / CONFIG))
    mesh = jax.sharding.get_mesh()
    shardings = {
        name: NamedSharding(mesh, spec_of(weight.spec, len(weight.shape) + weight.stacked))
        for name, weight in table.items()
    }
    params = read_all(table, files, shardings, np.dtype(dtype))
    return Transformer(
        cfg, rngs=rngs, lora=lora, dtype=dtype, compute_dtype=compute_dtype, params=params
    )


def check(folder: str | os.PathLike[str]) -> None:
    """Raises what `load` would raise of `folder` on any mesh; reads the files' headers only."""
    _checked(Path(folder))


def save(model: Transformer, folder: str | os.PathLike[str], dtype: Any = "bfloat16") -> None:
    """Writes config.json and model.safetensors, in `dtype`, so that transformers can load them.

    Each file appears whole or not at all; config.json comes last. On several hosts only the first
    writes. Raises ValueError where the model has adapters (`lora.merge` first).
    """
    if any(getattr(model.layers, name).lora is not None for name in PROJECTIONS):
        raise ValueError("the model has LoRA adapters: save lora.merge(model), or the base alone")
    params = _params(model)
    tensors: dict[str, np.ndarray] = {}
    for name, weight in weights(model.cfg, Tower()).items():
        ours = _on_host(params[name]).astype(np.dtype(dtype))
        for file_name, x in zip(weight.names, ours if weight.stacked else [ours], strict=True):
            tensors[file_name] = np.ascontiguousarray(weight.to_stored(x))
    if jax.process_index() != 0:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = to_hf(model.cfg) | {"dtype": np.dtype(dtype).name}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    # The metadata is what transformers' reader insists on.
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    paths.write_bytes(folder / CONFIG, text.encode())


def _params(model: Transformer) -> dict[str, jax.Array]:
    """The base's arrays by the names of `model.init_params`."""
    params = {"emb": model.emb[...], "norm": model.norm[...], "head": model.head_VD()}
    for name in layer_leaves(model.cfg):
        leaf = getattr(model.layers, name)
        params[f"layers.{name}"] = leaf.w[...] if name in PROJECTIONS else leaf[...]
    return params


def _on_host(x: jax.Array) -> np.ndarray:
    if not x.is_fully_addressable:
        x = jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), spec_of("replicated", 0)))
    return np.asarray(x)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise HfError(
            f"{path} does not exist; expected a Hugging Face folder with {CONFIG} and "
            f"{WEIGHTS} (or {INDEX})"
        )
    return strict_json.read(path, dict, HfError, "download the folder again")


def _checked(folder: Path) -> tuple[ModelConfig, dict[str, Weight], Files]:
    """What `folder` holds and where, after every check that needs no values."""
    config, files = _read_json(folder / CONFIG), _open_all(folder)
    cfg = from_hf(config, str(folder / CONFIG))
    layers = config.get("text_config", config).get("num_hidden_layers", cfg.num_hidden_layers)
    if layers > len(files):  # before names are made for each of what may be a billion
        raise HfError(
            f"{folder / CONFIG}: num_hidden_layers is {layers}, but the weights have only "
            f"{len(files)} tensors; {_FIX}"
        )
    stored_as = tower(config, files)
    table = weights(cfg, stored_as)
    _check_tensors(folder, cfg, stored_as, table, files)
    return cfg, table, files


def _open_all(folder: Path) -> Files:
    if (folder / WEIGHTS).is_file():
        return _open(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
        raise HfError(
            f"{folder} has neither {WEIGHTS} nor {INDEX} (found: {found}); other formats are not "
            "read: download the safetensors files"
        )
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise HfError(f"{folder / INDEX} has no object `weight_map` (tensor name -> file name)")
    files: Files = {}
    for file_name in sorted(set(weight_map.values())):
        found = _open(folder / file_name)
        if twice := found.keys() & files.keys():
            name = min(twice)
            raise HfError(
                f"{files[name].path} and {folder / file_name} both hold {name}; expected each "
                "tensor in one file: download the folder again"
            )
        files |= found
    for name, file_name in weight_map.items():
        if name not in files or files[name].path != folder / file_name:
            raise HfError(f"{folder / INDEX} says {name} is in {file_name}, which does not hold it")
    return files


def _open(path: Path) -> Files:
    if not path.is_file():
        raise HfError(f"{path} does not exist, though {INDEX} names it; download it again")
    try:
        return stored_in(path)
    except SafetensorError as error:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise HfError(
                    f"{path} ({size} bytes) is a pointer of Git LFS, expected the weights "
                    "themselves: run `git lfs pull` in that folder, or download the file"
                ) from error
        raise HfError(
            f"{path} ({size} bytes) is not a whole safetensors file ({error}); download it again"
        ) from error


def _check_tensors(
    folder: Path, cfg: ModelConfig, stored_as: Tower, table: dict[str, Weight], files: Files
) -> None:
    expected = {name: weight.stored for weight in table.values() for name in weight.names}
    for name, shape in expected.items():
        if name not in files:
            fix = " (or set tie_word_embeddings in it)" if name == stored_as.head else ""
            raise HfError(
                f"{folder} lacks the tensor {name} {shape} that {CONFIG} implies; {_FIX}{fix}"
            )
        found = files[name]
        if found.shape != shape:
            raise HfError(
                f"{found.path}: {name} has shape {found.shape}, expected {shape} by {CONFIG}; "
                f"{_FIX}"
            )
        if found.dtype not in DTYPES:
            raise HfError(
                f"{found.path}: {name} is stored as {found.dtype}; supported are "
                f"{', '.join(DTYPES)}: take the weights from before they were quantised"
            )
    # A tied model may carry its output matrix a second time, old Llama files their frequencies.
    spare = {stored_as.head} if cfg.tie_word_embeddings else set()
    unknown = [
        name
        for name in sorted(files.keys() - expected.keys() - spare)
        if not name.endswith("inv_freq") and not name.startswith(stored_as.ignored)
    ]
    if unknown:
        raise HfError(
            f"{folder} holds {len(unknown)} tensor(s) that a {cfg.model_type} of this {CONFIG} "
            f"does not have, such as {', '.join(unknown[:3])}; {_FIX}"
        )
