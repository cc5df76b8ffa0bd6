"""Loading a checkpoint: its rate beside plain reading of the same file, and the memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

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


class Once(NamedTuple):
    """One process's share: seconds of reading the file and of loading it, neither from the page
    cache."""

    file: int  # bytes
    reading: float
    loading: float


def once(folder: Path) -> Once:
    """Reads the checkpoint, then loads it, as the first thing a process does with its memory.

    Raises BenchError where the page cache cannot be emptied of it.
    """
    file = folder / hf.WEIGHTS
    with use_mesh(make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
        jax.block_until_ready(jnp.zeros(1))  # the backend is there before the clock starts
        seconds = []
        for work in (lambda: _read(file), lambda: _load(folder)):
            _forget(file)
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    return Once(file.stat().st_size, *seconds)


def synthetic(gigabytes: float) -> ModelConfig:
    """A Llama whose bfloat16 file is about that large."""
    D = 2048 if gigabytes > 0.5 else 128
    F, V = 11 * D // 4, 16 * D
    layer = 5 * D * D // 2 + 3 * D * F
    return ModelConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=max(1, round((gigabytes * 5e8 - V * D) / layer)),
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=D // 16,
        intermediate_size=F,
    )


def write(cfg: ModelConfig, folder: Path) -> None:
    """A Hugging Face folder of that shape; its values are noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(1 << 20).astype(ml_dtypes.bfloat16)
    tensors = {
        name: np.resize(noise, weight.stored)
        for weight in weights(cfg, Tower()).values()
        for name in weight.names
    }
    save_file(tensors, folder / hf.WEIGHTS, metadata={"format": "pt"})
    (folder / hf.CONFIG).write_text(json.dumps(to_hf(cfg)))


def _load(folder: Path):
    model = hf.load(folder, dtype=jnp.bfloat16)
    jax.block_until_ready(jax.tree.leaves(model))
    return model


def memory(folder: Path) -> tuple[int, int]:
    """Bytes by which memory rose above what the parameters take, at most, while loading; and those
    of the largest array's largest shard.

    Only memory of the process's own counts: pages of the file, which it maps, belong to the cache.
    """
    if not Path("/proc/self/status").is_file():
        raise BenchError("the peak of memory cannot be read here; loading is measured on Linux")
    watch = [sys.executable, "-c", _WATCH, str(os.getpid())]
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with use_mesh(make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
            jax.block_until_ready(jnp.zeros(1))
            before = int(child.stdout.readline())
            model = _load(folder)
        child.stdin.close()
        peak = int(child.stdout.readline())
    arrays = [x for x in jax.tree.leaves(model) if isinstance(x, jax.Array)]
    parameters = sum(x.nbytes for x in arrays)
    shard = max(s.data.nbytes for x in arrays for s in x.addressable_shards)
    return peak - before - parameters, shard


# Another process: a thread would wait for the interpreter while it matters.
_WATCH = """
import select, sys
def own():
    lines = open(f"/proc/{sys.argv[1]}/status").read().splitlines()
    return 1024 * sum(int(s.split()[1]) for s in lines if s.startswith(("RssAnon", "RssShmem")))
peak = own()
print(peak, flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    peak = max(peak, own())
print(peak, flush=True)
"""


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
