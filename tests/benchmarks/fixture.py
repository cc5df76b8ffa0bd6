"""Where each measurement starts: the shapes and data of a config, weights for them, a clock."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxcomp.config import Config, ModelConfig
from jaxcomp.data.batches import tokenizer_folder
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.allocator import keep_freed_memory, one_arena
from jaxcomp.runtime.sharding import make_mesh, use_mesh
from jaxcomp.training import identity as ids
from jaxcomp.training import pretrained


class BenchError(ValueError):
    """Something that cannot be measured; the message says why."""


class Times(NamedTuple):
    """Seconds of each repeat. CPU seconds (of all threads) stay right on a machine that others use
    too; wall seconds are what a user waits."""

    wall: list[float]
    cpu: list[float]


class Measured(NamedTuple):
    """`times` by name: ours first, then the reference where there is one; `amount` of `unit` is
    done in each repeat. `note` is printed below."""

    amount: float
    unit: str
    times: dict[str, Times]
    note: str = ""


def begin() -> None:
    """The first call in a process that measures: memory is kept as `jaxcomp.load` keeps it."""
    one_arena()
    keep_freed_memory()


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Times of each function, called in turn `repeats` times, after two calls that do not count
    (the first compiles, the second finds its buffers)."""
    out = {name: Times([], []) for name in runs}
    for run in [*runs.values(), *runs.values()]:
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            out[name].cpu.append(time.process_time() - cpu)
            out[name].wall.append(time.perf_counter() - wall)
    return out


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def chosen(cfg: Config) -> Config:
    """`cfg` with a compressor: the one it names, else the middle size of its first family."""
    if cfg.compressor:
        return cfg
    if not cfg.families:
        raise BenchError("a config without families: name one with --compressor=FAMILY/SIZE")
    family, sizes = next(iter(cfg.families.items()))
    names = list(sizes)
    return dataclasses.replace(cfg, compressor=f"{family}/{names[len(names) // 2]}")


def with_weights(cfg: Config, folder: Path) -> Config:
    """`cfg` with both towers' folders named: those that match it, else random weights of the same
    shapes, drawn into `folder` (rates do not depend on values)."""
    family, size = ids.split_name(cfg.compressor)
    found = {
        cfg.compressor: pretrained.find_base(cfg, family, size, cfg.base_seed),
        "decoder": pretrained.find_decoder(cfg),
    }
    shapes = {cfg.compressor: ids.model_for(cfg, family, size), "decoder": cfg.decoder.model}
    for seed, (name, path) in enumerate(found.items()):
        if path is None:
            found[name] = _drawn(cfg, shapes[name], folder / name.replace("/", "-"), seed)
    return dataclasses.replace(cfg, folders=cfg.folders | {k: str(v) for k, v in found.items()})


def _drawn(cfg: Config, shape: ModelConfig, folder: Path, seed: int) -> Path:
    tok_folder = Path(tokenizer_folder(cfg))
    vocab = load_tokenizer(tok_folder).vocab_size
    shape = dataclasses.replace(shape, vocab_size=shape.vocab_size or vocab)
    with use_mesh(make_mesh(cfg.mesh, jax.devices()[:1])):
        hf.save(Transformer(shape, rngs=nnx.Rngs(seed)), folder, dtype="float32")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tok_folder / file, folder / file)
    return folder
