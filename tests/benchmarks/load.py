"""Loading a checkpoint, and plain reading of the same file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxcomp.config import MeshConfig, ModelConfig
from jaxcomp.models import hf
from jaxcomp.models.config import to_hf
from jaxcomp.models.weight_map import Tower, weights
from jaxcomp.runtime.sharding import make_mesh, use_mesh
from tests.benchmarks.fixture import BenchError

_BLOCK = 1 << 24


def once(folder: Path) -> dict[str, tuple[float, float]]:
    """(wall, CPU) seconds of loading the checkpoint and of reading its file, neither from the page
    cache, as the first thing a process does with its memory.

    Raises BenchError where the page cache cannot be emptied of it.
    """
    file, found = folder / hf.WEIGHTS, {}
    with use_mesh(make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
        jax.block_until_ready(jnp.zeros(1))  # the backend is there before the clock starts
        for name, work, what in (("reading the file", _read, file), ("ours", _load, folder)):
            _forget(file)
            wall, cpu = time.perf_counter(), time.process_time()
            work(what)
            found[name] = time.perf_counter() - wall, time.process_time() - cpu
    return found


def write(gigabytes: float, folder: Path) -> float:
    """Write a Hugging Face folder of a Llama whose bfloat16 file is about that large, of noise;
    returns its megabytes."""
    D = 2048 if gigabytes > 0.5 else 128
    F, V = 11 * D // 4, 16 * D
    layer = 5 * D * D // 2 + 3 * D * F
    layers = max(1, round((gigabytes * 5e8 - V * D) / layer))
    cfg = ModelConfig("llama", V, D, layers, 16, 4, D // 16, F)
    noise = np.random.default_rng(0).standard_normal(1 << 20).astype(ml_dtypes.bfloat16)
    tensors = {
        name: np.resize(noise, weight.stored)
        for weight in weights(cfg, Tower()).values()
        for name in weight.names
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})
    (folder / hf.CONFIG).write_text(json.dumps(to_hf(cfg)))
    return (folder / hf.WEIGHTS).stat().st_size / 1e6


def _load(folder: Path) -> None:
    jax.block_until_ready(jax.tree.leaves(hf.load(folder, dtype=jnp.bfloat16)))


def _read(file: Path) -> None:
    buffer = bytearray(_BLOCK)
    with file.open("rb", buffering=0) as f:
        while f.readinto(buffer):
            pass


def _forget(file: Path) -> None:
    """The file's pages leave the page cache."""
    if not hasattr(os, "posix_fadvise"):
        raise BenchError("the page cache cannot be emptied here; loading is measured on Linux")
    with file.open("rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
