"""What every measurement starts from: a config's real shapes, its data, and weights for them."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.config import Config, ModelConfig
from jaxcomp.data.batches import tokenizer_folder, train_batches
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import make_mesh, put_batch, use_mesh
from jaxcomp.training import base_identity as ids
from jaxcomp.training import pretrained
from jaxcomp.training.compressor import pair


class BenchError(ValueError):
    """Something that cannot be measured; the message says why."""


class Fixture(NamedTuple):
    """A pair and one batch, on a mesh of one device."""

    cfg: Config
    mesh: jax.sharding.Mesh
    model: AutoEncoder
    batch: Any  # data.pipeline.Batch on the mesh


class Spread(NamedTuple):
    """Median, and first and third quartile, of repeated measurements."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError for fewer than two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of theirs[i] / ours[i]: how many times as fast `ours` is, each pair measured side by side."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope of y over x."""
    x0, y0 = statistics.fmean(xs), statistics.fmean(ys)
    moved = sum((x - x0) ** 2 for x in xs)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / moved


def chosen(cfg: Config) -> Config:
    """`cfg` with a compressor: the one it names, else the middle size of its first family."""
    if cfg.compressor:
        return cfg
    if not cfg.families:
        raise BenchError("bench needs a config with families, or --compressor=FAMILY/SIZE")
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
            found[name] = _drawn(cfg, shapes[name], Path(folder) / name.replace("/", "-"), seed)
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


def fixture(cfg: Config) -> Fixture:
    """The pair and its first training batch; `cfg` from `with_weights`."""
    comp, dec = (Path(cfg.folders[name]) for name in (cfg.compressor, "decoder"))
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    with use_mesh(mesh):
        model = pair(cfg, comp, dec)
        batch = next(train_batches(cfg, load_tokenizer(comp), load_tokenizer(dec)))
        return Fixture(cfg, mesh, model, put_batch(batch, mesh))


class Times(NamedTuple):
    """Seconds of each repeat. CPU seconds (of all threads, the kernel's work for them included)
    stay right on a machine that others use too; wall seconds are what a user waits."""

    wall: list[float]
    cpu: list[float]


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
