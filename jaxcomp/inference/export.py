"""A finished run as a folder to hand on; its files: format.py."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder, trainable_filter
from jaxcomp.config import Config, to_dict
from jaxcomp.inference import card, peft
from jaxcomp.inference.format import (
    ABOUT,
    ADAPTER,
    CARD,
    FORMAT,
    FULL,
    PAIR,
    TOKENIZER,
    VERSION,
    ExportError,
)
from jaxcomp.inference.load import open_run, read_about, readable_by
from jaxcomp.models import hf
from jaxcomp.models.safetensors import save_tensors
from jaxcomp.models.weight_map import module_tower
from jaxcomp.runtime import paths
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import pretrained
from jaxcomp.training.compressor import load_run
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import SUMMARY, Weights, open_manifest, read_json, write_json
from jaxcomp.training.optim import split_model

_LLM, MARKERS = "compressor/llm/", "markers_4D"


def export(
    run: Path, out: Path, *, compressor: str = "", decoder: str = "", dtype: str = "float32"
) -> bool:
    """Writes the compressor of the finished run `run` to the folder `out`; False where it is there
    already.

    Args:
      run, out: the folders.
      compressor, decoder: where its base models are, if they have moved.
      dtype: of the weights in the folder; a LoRA adapter's are float32.

    Raises ExportError where `out` holds something else, and what `jaxcomp.load` raises for `run`.
    """
    run, out = paths.path(run), paths.path(out)
    cfg, root = open_run(run, compressor, decoder)
    if cfg.train.train_decoder:
        raise ExportError(f"{run} trained its decoder too (train.train_decoder): no such export")
    with use_mesh(mesh_for(Config())):
        model = load_run(cfg, run, root=root)
        about = _about(cfg, run, model, read_json(run / SUMMARY), _measured(run))
        about["dtype"] = dtype
        if _there(out, about):
            return False
        part = out.with_name(f".{out.name}.part-{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            _write(cfg, model, about, Path(cfg.folders[cfg.compressor]), part, dtype)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def _write(
    cfg: Config, model: AutoEncoder, about: dict[str, Any], base: Path, folder: Path, dtype: str
) -> None:
    _, trained, _ = split_model(model, trainable_filter(cfg.train, cfg.memory))
    trained = {name: np.asarray(jax.device_get(x)) for name, x in trained.items()}
    small = {name: x for name, x in trained.items() if not name.startswith(_LLM)}
    # Markers stay exact: by them a decoder knows the memories that it can read.
    kept = {n: x if n == MARKERS else x.astype(np.dtype(dtype)) for n, x in small.items()}
    save_tensors({n: np.ascontiguousarray(x) for n, x in kept.items()}, folder / PAIR)
    tower_folder = folder / (ADAPTER if cfg.memory.lora.rank else FULL)
    if cfg.memory.lora.rank:
        leaves = {name: x for name, x in trained.items() if name.startswith(_LLM)}
        tower = module_tower(read_json(base / hf.CONFIG))
        llm = model.compressor.llm.cfg
        peft.save(tower_folder, leaves, llm, cfg.memory.lora, about["base"]["source"], tower)
    else:
        hf.save(model.compressor.llm, tower_folder, dtype=dtype)
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, tower_folder / name)
    write_json(folder / ABOUT, about)
    paths.write_bytes(folder / CARD, card.text(about).encode())


def _about(
    cfg: Config,
    run: Path,
    model: AutoEncoder,
    summary: dict[str, Any],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    made = open_manifest(run)
    base = _source(made.weights["compressor"], cfg.folders[cfg.compressor])
    decoder = _source(made.weights["decoder"], cfg.folders["decoder"])
    data = dataclasses.replace(cfg.data, path=Path(cfg.data.path).name)
    train = dataclasses.replace(cfg.train, start="")  # a place; the hash stands for it
    parts = {"world": cfg.world, "data": data, "memory": cfg.memory, "train": train}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": cfg.compressor,
        "base": base,
        "decoder": decoder,
        "reader": readable_by(decoder["identity"], model.markers_4D[...], cfg.memory),
        "compressor": made.config_hash,
        "connector_unit": model.compressor.connector.unit,
        "config": {name: to_dict(part) for name, part in parts.items()},
        "seeds": {"base_seed": cfg.base_seed, "seed": cfg.seed},
        "summary": summary,
        "metrics": metrics,
        "versions": made.versions,
    }


def _source(weights: Weights, folder: str) -> dict[str, Any]:
    """What weights are, as another machine can use it; `folder` is where they are here."""
    here = weights.source.startswith(("/", pretrained.BESIDE))
    return dataclasses.asdict(weights) | ({"source": folder} if here else {})


def _measured(run: Path) -> dict[str, Any]:
    """The metrics `jaxcomp eval` left in a run, or the sweep's row of a job; {} without either."""
    if (run / "eval.json").is_file():
        return read_json(run / "eval.json").get("metrics", {})
    row = run.parents[1] / "ledger" / f"{run.name}.json"
    return read_json(row).get("metrics", {}) if row.is_file() else {}


def _there(out: Path, about: dict[str, Any]) -> bool:
    if not out.exists():
        return False
    if (out / ABOUT).is_file():
        found = read_about(out)
        if (found["compressor"], found["reader"]) == (about["compressor"], about["reader"]):
            return True
    raise ExportError(f"{out} exists and holds something else; choose another --out or remove it")
