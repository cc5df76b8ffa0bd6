"""Export a finished run as a folder (files: format.py), and memories as prompts."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder, trainable_filter
from jaxcomp.config import Config, to_dict
from jaxcomp.data.sources import world_config
from jaxcomp.inference import card, peft
from jaxcomp.inference.format import (
    ABOUT,
    ADAPTER,
    CARD,
    FULL,
    PAIR,
    TOKENIZER,
    About,
    ExportError,
    read_about,
)
from jaxcomp.inference.load import open_run, readable_by
from jaxcomp.inference.memory import Memory
from jaxcomp.inference.pair import NO_PROMPT, Pair
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
    run: str | Path,
    out: str | Path,
    *,
    compressor: str = "",
    decoder: str = "",
    dtype: str = "float32",
) -> bool:
    """Export a finished run's compressor as a folder that `jaxcomp.load` reads.

    Args:
        run: folder of a finished training run.
        out: folder to write.
        compressor: folder or hub id of the compressor's base model, if it has moved.
        decoder: folder or hub id of the decoder, if it has moved.
        dtype: of the stored weights, "float32" or "bfloat16"; a LoRA adapter stays float32.

    Returns:
        False if `out` already holds this export, else True.

    Raises:
        ExportError: `out` holds something else, or the run trained its decoder.
        CheckpointError, ConfigError, HfError, HubError: as `jaxcomp.load`.

    Example:
        >>> jaxcomp.export("runs/one", "runs/shared")
        True
    """
    run, out = paths.path(run), paths.path(out)
    cfg, root = open_run(run, compressor, decoder)
    if cfg.train.train_decoder:
        raise ExportError(f"{run} trained its decoder too (train.train_decoder): no such export")
    with use_mesh(mesh_for(Config())):
        model = load_run(cfg, run, root=root)
        about = _about(cfg, run, model, dtype)
        if _there(out, about):
            return False
        part = out.with_name(f".{out.name}.part-{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            _write(cfg, model, about, Path(cfg.folders[cfg.compressor]), part)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def prompt_embeds(pair: Pair, memory: Memory, out: Path, *, question: str | None = None) -> None:
    """Writes what the decoder reads before it rebuilds each text of `memory` (or answers
    `question`), as servers such as vLLM take it in the place of tokens: one bfloat16 tensor [P, D]
    a text, named by its id, in the safetensors file `out`.

    A server gives a prompt the position ids 0, 1, 2, ...: ExportError for a compressor that was
    trained to be read at others (`memory.positions` = spread), and for one whose memory is no
    embeddings (`memory.kind` = kv).
    """
    if pair.model.per_layer:
        raise ExportError(NO_PROMPT)
    if pair.model.compressor.positions != "consecutive":
        raise ExportError(
            f"this compressor was trained with memory.positions = "
            f"{pair.model.compressor.positions}: its vectors stand at position ids that a server "
            "cannot be given; train one with --memory.positions=consecutive"
        )
    if len(set(memory.ids)) != len(memory):
        raise ExportError("two texts have one id; compress them with ids of their own")
    rows = pair.prompts(memory, question)
    tensors = {
        name: np.ascontiguousarray(row.astype(ml_dtypes.bfloat16))
        for name, row in zip(memory.ids, rows, strict=True)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, out)


def _write(cfg: Config, model: AutoEncoder, about: About, base: Path, folder: Path) -> None:
    _, leaves, _ = split_model(model, trainable_filter(cfg.train, cfg.memory))
    trained = {name: np.ascontiguousarray(jax.device_get(x)) for name, x in leaves.items()}
    llm = {name: trained.pop(name) for name in list(trained) if name.startswith(_LLM)}
    # Markers stay exact: by them a decoder knows the memories that it can read.
    kept = {n: x if n == MARKERS else x.astype(np.dtype(about.dtype)) for n, x in trained.items()}
    save_tensors(kept, folder / PAIR)
    tower_folder = folder / (ADAPTER if cfg.memory.lora.rank else FULL)
    if cfg.memory.lora.rank:
        tower = module_tower(read_json(base / hf.CONFIG))
        shapes = model.compressor.llm.cfg
        peft.save(tower_folder, llm, shapes, cfg.memory.lora, about.base.source, tower)
    else:
        hf.save(model.compressor.llm, tower_folder, dtype=about.dtype)
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, tower_folder / name)
    write_json(folder / ABOUT, dataclasses.asdict(about))
    paths.write_bytes(folder / CARD, card.text(about).encode())


def _about(cfg: Config, run: Path, model: AutoEncoder, dtype: str) -> About:
    made = open_manifest(run)
    decoder = _source(made.weights["decoder"], cfg.folders["decoder"])
    data = dataclasses.replace(cfg.data, path=Path(cfg.data.path).name)
    train = dataclasses.replace(cfg.train, start="")  # a place; the hash stands for it
    parts = {"world": cfg.world, "data": data, "memory": cfg.memory, "train": train}
    parts |= {"people": cfg.people} if world_config(cfg) is cfg.people else {}
    return About(
        name=cfg.compressor,
        base=_source(made.weights["compressor"], cfg.folders[cfg.compressor]),
        decoder=decoder,
        reader=readable_by(decoder.identity, model, cfg.memory),
        compressor=made.config_hash,
        connector_unit=model.compressor.connector.unit,
        config={name: to_dict(part) for name, part in parts.items()},
        seeds={"base_seed": cfg.base_seed, "seed": cfg.seed},
        summary=read_json(run / SUMMARY),
        metrics=_measured(run),
        versions=made.versions,
        dtype=dtype,
    )


def _source(weights: Weights, folder: str) -> Weights:
    """What weights are, as another machine can use it; `folder` is where they are here."""
    here = weights.source.startswith(("/", pretrained.BESIDE))
    return dataclasses.replace(weights, source=folder) if here else weights


def _measured(run: Path) -> dict[str, Any]:
    """The metrics `jaxcomp eval` left in a run, or the sweep's row of a job; {} without either."""
    sweep = paths.path(paths.absolute(run)).parent.parent
    for file in (run / "eval.json", sweep / "ledger" / f"{run.name}.json"):
        if file.is_file():
            return read_json(file).get("metrics", {})
    return {}


def _there(out: Path, about: About) -> bool:
    if not out.exists():
        return False
    if (out / ABOUT).is_file():
        found = read_about(out)
        if (found.compressor, found.reader) == (about.compressor, about.reader):
            return True
    raise ExportError(f"{out} exists and holds something else; choose another --out or remove it")
