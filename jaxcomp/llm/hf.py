"""Hugging Face folders (config.json + safetensors) to and from a Transformer, straight into shards.

Every device reads only the bytes of its own shard. Weight layout: Hugging Face stores a linear
projection as [out, in] with heads flattened; ours is [in..., out...] with heads apart.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxcomp.config import LoraConfig, ModelConfig
from jaxcomp.llm.config import from_hf, to_hf
from jaxcomp.llm.model import PROJECTIONS, Transformer, layer_leaves, top_leaves
from jaxcomp.sharding import check_model, spec_of

TOP_NAMES = {"emb": "model.embed_tokens.weight", "norm": "model.norm.weight"}
HEAD = "lm_head.weight"
LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{name: f"self_attn.{name}_proj.weight" for name in "qkvo"},
    **{name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}
DTYPES = ("F32", "F16", "BF16")
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


class HfError(ValueError):
    """A Hugging Face folder cannot be read; the message names the file and the mend."""


class _Weight(NamedTuple):
    """Where one parameter of ours stands in the files."""

    names: tuple[str, ...]  # one a layer, or one alone
    stacked: bool
    shape: tuple[int, ...]  # ours, without the layer axis
    inputs: int  # how many leading axes are contracted; 0: stored as it is
    spec: str

    @property
    def stored(self) -> tuple[int, ...]:
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def _weights(cfg: ModelConfig) -> dict[str, _Weight]:
    """Every parameter by its name in `model.init_params`."""
    tops = TOP_NAMES if cfg.tie_word_embeddings else TOP_NAMES | {"head": HEAD}
    table = {
        name: _Weight((tops[name],), False, leaf.shape, 0, leaf.spec)
        for name, leaf in top_leaves(cfg).items()
    }
    for name, leaf in layer_leaves(cfg).items():
        names = tuple(f"model.layers.{y}.{LAYER_NAMES[name]}" for y in range(cfg.num_hidden_layers))
        inputs = 0
        if name in PROJECTIONS:
            x, w, _ = PROJECTIONS[name].eq.replace("->", ",").split(",")
            inputs = sum(letter in x for letter in w)
        table[f"layers.{name}"] = _Weight(names, True, leaf.shape, inputs, leaf.spec)
    return table


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
    cfg = read_config(folder)
    check_model(cfg, jax.sharding.get_abstract_mesh(), str(folder / CONFIG))
    mesh, table = jax.sharding.get_mesh(), _weights(cfg)
    files = _open_all(folder)
    _check_tensors(folder, cfg, table, files)
    params = {}
    for name, weight in table.items():
        shape = (len(weight.names), *weight.shape) if weight.stacked else weight.shape
        sharding = NamedSharding(mesh, spec_of(weight.spec, len(shape)))
        reader = _reader(weight, files, np.dtype(dtype))
        params[name] = jax.make_array_from_callback(shape, sharding, reader)
    return Transformer(
        cfg, rngs=rngs, lora=lora, dtype=dtype, compute_dtype=compute_dtype, params=params
    )


def save(model: Transformer, folder: str | os.PathLike[str], dtype: Any = "bfloat16") -> None:
    """Writes config.json and model.safetensors, in `dtype`, so that transformers can load them.

    Each file appears whole or not at all; config.json comes last. On several hosts only the first
    writes. Raises ValueError where the model has adapters (`lora.merge` first).
    """
    if any(getattr(model.layers, name).lora is not None for name in PROJECTIONS):
        raise ValueError("the model has LoRA adapters: save lora.merge(model), or the base alone")
    params = _params(model)
    tensors: dict[str, np.ndarray] = {}
    for name, weight in _weights(model.cfg).items():
        ours = _on_host(params[name]).astype(np.dtype(dtype))
        for file_name, x in zip(weight.names, ours if weight.stacked else [ours], strict=True):
            tensors[file_name] = np.ascontiguousarray(_to_stored(x, weight))
    if jax.process_index() != 0:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = to_hf(model.cfg) | {"dtype": np.dtype(dtype).name}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    # The metadata is what transformers' reader insists on.
    _atomically(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _atomically(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


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


def _to_stored(x: np.ndarray, weight: _Weight) -> np.ndarray:
    if not weight.inputs:
        return x
    return x.reshape(math.prod(weight.shape[: weight.inputs]), -1).T


def _reader(
    weight: _Weight, files: dict[str, tuple[Path, Any]], dtype: np.dtype[Any]
) -> Callable[[Any], np.ndarray]:
    """Callback of `jax.make_array_from_callback`: index of a shard -> that shard's values."""

    def one(name: str, index: tuple[slice, ...]) -> np.ndarray:
        stored = files[name][1].get_slice(name)
        if not weight.inputs:
            return stored[index].astype(dtype)
        n = weight.inputs
        cols = _flat(index[:n], weight.shape[:n])
        rows = _flat(index[n:], weight.shape[n:])
        local = [len(range(*i.indices(size))) for i, size in zip(index, weight.shape, strict=True)]
        return stored[rows, cols].T.reshape(local).astype(dtype)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not weight.stacked:
            return one(weight.names[0], index)
        return np.stack([one(name, index[1:]) for name in weight.names[index[0]]])

    return read


def _flat(index: tuple[slice, ...], shape: tuple[int, ...]) -> slice:
    """The slice of the flattened axes; only the first of them may be cut (see SPECS)."""
    start, stop, _ = index[0].indices(shape[0])
    rest = math.prod(shape[1:])
    if any(i.indices(n) != (0, n, 1) for i, n in zip(index[1:], shape[1:], strict=True)):
        raise HfError(f"a spec cuts an inner axis of {shape}: {index}; only the first may be cut")
    return slice(start * rest, stop * rest)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise HfError(
            f"{path} does not exist; expected a Hugging Face folder with {CONFIG} and "
            f"{WEIGHTS} (or {INDEX})"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HfError(f"{path} is not JSON ({error}); download the folder again") from error
    if not isinstance(found, dict):
        raise HfError(f"{path} holds a {type(found).__name__}, expected a JSON object")
    return found


def _open_all(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Every tensor name with the file that holds it and an open handle of that file."""
    if (folder / WEIGHTS).is_file():
        return _open(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise HfError(f"{folder} has neither {WEIGHTS} nor {INDEX}; other formats are not read")
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise HfError(f"{folder / INDEX} has no object `weight_map` (tensor name -> file name)")
    files: dict[str, tuple[Path, Any]] = {}
    for file_name in sorted(set(weight_map.values())):
        files |= _open(folder / file_name)
    for name, file_name in weight_map.items():
        if name not in files or files[name][0].name != file_name:
            raise HfError(f"{folder / INDEX} says {name} is in {file_name}, which does not hold it")
    return files


def _open(path: Path) -> dict[str, tuple[Path, Any]]:
    if not path.is_file():
        raise HfError(f"{path} does not exist, though {INDEX} names it; download it again")
    try:
        handle = safe_open(path, "np")
    except SafetensorError as error:
        raise HfError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file ({error}); "
            "download it again"
        ) from error
    return dict.fromkeys(handle.keys(), (path, handle))


def _check_tensors(
    folder: Path,
    cfg: ModelConfig,
    table: dict[str, _Weight],
    files: dict[str, tuple[Path, Any]],
) -> None:
    expected = {name: weight.stored for weight in table.values() for name in weight.names}
    for name, shape in expected.items():
        if name not in files:
            mend = "; or set tie_word_embeddings in config.json" if name == HEAD else ""
            raise HfError(f"{folder} lacks the tensor {name} {shape} that {CONFIG} implies{mend}")
        path, handle = files[name]
        found = handle.get_slice(name)
        if tuple(found.get_shape()) != shape:
            raise HfError(
                f"{path}: {name} has shape {tuple(found.get_shape())}, expected {shape} by {CONFIG}"
            )
        if found.get_dtype() not in DTYPES:
            raise HfError(
                f"{path}: {name} is stored as {found.get_dtype()}; supported are "
                f"{', '.join(DTYPES)} (quantised weights are not)"
            )
    # A tied model may carry its output matrix a second time, old Llama files their frequencies.
    spare = {HEAD} if cfg.tie_word_embeddings else set()
    unknown = [
        n for n in files if n not in expected and n not in spare and not n.endswith("inv_freq")
    ]
    if unknown:
        raise HfError(
            f"{folder} holds {len(unknown)} tensor(s) that a {cfg.model_type} of this {CONFIG} "
            f"does not have, such as {', '.join(sorted(unknown)[:3])}"
        )


def _atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` to a temporary file beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
