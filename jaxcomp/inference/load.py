"""`jaxcomp.load`: load a shipped pair, a run, or an exported folder."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxcomp.compress.autoencoder import AutoEncoder, build, trainable_filter
from jaxcomp.compress.kinds import kind_of
from jaxcomp.config import Config, MemoryConfig, config_hash
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.inference import peft
from jaxcomp.inference.format import ABOUT, ADAPTER, FULL, PAIR, ExportError, read_about
from jaxcomp.inference.pair import Pair, Traits
from jaxcomp.models import hf
from jaxcomp.models.weight_map import module_tower
from jaxcomp.runtime import paths
from jaxcomp.runtime.allocator import keep_freed_memory
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import pretrained
from jaxcomp.training.compressor import load_run, tokenizers, towers
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import RUN, open_manifest, read_json
from jaxcomp.training.optim import split_model
from jaxcomp.training.ratio_schedule import at_ratio

DEMO = "demo/"  # how the name of a pair that ships begins


def load(
    place: str | Path,
    *,
    ratio: int = 0,
    batch: int = 32,
    compressor: str = "",
    decoder: str = "",
    step: int | None = None,
    mesh: Mesh | None = None,
) -> Pair:
    """Load a trained pair.

    Args:
        place: the workdir of `jaxcomp train`, a job's folder of a sweep, a folder `jaxcomp export`
            wrote, or a pair that ships with jaxcomp, such as "demo/llama-64-r16".
        ratio: compression ratio in tokens per vector, one of the trained ones; 0: `memory.ratio`.
        batch: largest number of rows per device call.
        compressor: folder or hub id of the compressor's base model, if it has moved.
        decoder: folder or hub id of the decoder, if it has moved.
        step: checkpoint of a run, in updates; None: the last.
        mesh: device mesh; None: the active one, else all devices over "fsdp".

    Returns:
        The pair, with its weights on `mesh`.

    Raises:
        ExportError: `place` holds no pair, or a damaged export.
        CheckpointError: the run has no such checkpoint.
        ConfigError: the pair was not trained at `ratio`.
        HfError, HubError: a base model is missing or has another shape.

    Example:
        >>> pair = jaxcomp.load("demo/llama-24-r4")
        >>> pair.traits.ratio
        4
    """
    keep_freed_memory()
    place = place_of(place)
    mesh = mesh or mesh_for(Config())
    with use_mesh(mesh):
        if (place / ABOUT).is_file():
            cfg, model, toks, reader, name = _exported(place, compressor, decoder)
        elif (place / RUN).is_file():
            cfg, root = open_run(place, compressor, decoder)
            model, made = load_run(cfg, place, root=root, step=step), open_manifest(place)
            toks, name = tokenizers(cfg, root), made.config_hash
            reader = readable_by(made.weights["decoder"].identity, model, cfg.memory)
        else:
            sweep = "; it is a sweep: name one of its jobs, jobs/JOB"
            raise ExportError(
                f"{place} holds neither {ABOUT} (of an exported compressor) nor {RUN} (of a run of "
                f"`jaxcomp train`){sweep if (place / 'jobs').is_dir() else ''}"
            )
        at = at_ratio(cfg, ratio).memory.ratio
        traits = Traits(at, cfg.data.segments, cfg.data.target, reader, name)
        return Pair(model, toks, traits, mesh, batch)


def shipped() -> list[str]:
    """The names of the pairs that ship with jaxcomp."""
    return [f"{DEMO}{folder.name}" for folder in sorted((pretrained.ASSETS / "pairs").iterdir())]


def place_of(name: str | Path) -> Path:
    """The folder of a pair. Raises ExportError for a "demo/..." that does not ship."""
    if not str(name).startswith(DEMO) or paths.path(name).exists():
        return paths.path(name)
    if str(name) not in shipped():
        raise ExportError(
            f"no pair {str(name)!r} ships with jaxcomp; expected one of: {', '.join(shipped())}"
        )
    return pretrained.ASSETS / "pairs" / str(name).removeprefix(DEMO)


def config_at(name: str | Path, compressor: str = "", decoder: str = "") -> Config:
    """The config of the pair in a folder; arguments as of `load`, and raises as it does."""
    place = place_of(name)
    if (place / ABOUT).is_file():
        return from_dict(read_about(place).config, where=str(place / ABOUT))
    return open_run(place, compressor, decoder)[0]


def open_run(place: str | Path, compressor: str = "", decoder: str = "") -> tuple[Config, Path]:
    """The config of a run, whose `folders` name the weights that it was trained with, and its
    folder.

    Args:
        place: the run's folder.
        compressor, decoder: where its base models are now, if they have moved.

    Raises CheckpointError where there is no run, MissingBaseError where its weights are not there
    or others.
    """
    place = paths.path(place)
    found = open_manifest(place)
    cfg, folders = found.config, {}
    parts = (("compressor", cfg.compressor, compressor), ("decoder", "decoder", decoder))
    for what, name, given in sorted(parts, key=lambda part: not part[2]):  # what is named first
        folder = pretrained.folder_at(found.weights[what], place, given, what)
        folders[name] = paths.absolute(folder)
    return dataclasses.replace(cfg, folders=cfg.folders | folders), place


def readable_by(decoder: dict[str, Any], model: AutoEncoder, memory: MemoryConfig) -> str:
    """The name of what can read a memory: the decoder's weights, its markers, where vectors stand,
    and whether they are keys and values."""
    markers = np.ascontiguousarray(jax.device_get(model.markers_4D[...]), np.float32)
    return config_hash(
        {
            "weights": decoder,
            "markers": hashlib.sha256(markers.tobytes()).hexdigest(),
            "positions": memory.positions,
        }
        | ({"kind": memory.kind} if kind_of(memory).per_layer else {})
    )


def _exported(
    place: Path, compressor: str, decoder: str
) -> tuple[Config, AutoEncoder, tuple[Tokenizer, Tokenizer], str, str]:
    """Config, model, tokenizers, and the names of what reads and of what wrote the memories."""
    if paths.is_remote(place):
        raise ExportError(
            f"{place} is an exported folder, which is read from a disk: copy it with "
            f"`gcloud storage cp -r {place} DIR`"
        )
    about = read_about(place)
    cfg = config_at(place)
    dec_folder = pretrained.folder_at(about.decoder, place, decoder, "decoder")
    lora = cfg.memory.lora if cfg.memory.lora.rank else None
    comp_folder = place / FULL
    if lora is not None:
        comp_folder = pretrained.folder_at(about.base, place, compressor, "compressor")
    llm, reader = towers(cfg, comp_folder, dec_folder, nnx.Rngs(params=0), lora=lora)
    model = build(llm, reader, cfg.memory, cfg.train, segment=cfg.data.segment, seed=0)
    # Of the decoder's embeddings when it was trained; another machine's sum may differ in a bit.
    model.compressor.connector.unit = about.connector_unit
    try:
        leaves: dict[str, Any] = load_file(place / PAIR)
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{place / PAIR} cannot be read ({error}); export the run again"
        ) from error
    if lora is not None:
        tower = module_tower(read_json(comp_folder / hf.CONFIG))
        leaves |= peft.load(place / ADAPTER, llm.cfg, tower)
    model = _filled(model, leaves, cfg, place)
    if readable_by(about.decoder.identity, model, cfg.memory) != about.reader:
        raise ExportError(
            f"{place / PAIR} holds other markers than {ABOUT} was written with; export it again"
        )
    toks = pretrained.tokenizer_of(comp_folder), pretrained.tokenizer_of(dec_folder)
    return cfg, model, toks, about.reader, about.compressor


def _filled(model: AutoEncoder, leaves: dict[str, Any], cfg: Config, place: Path) -> AutoEncoder:
    """The model with the trained leaves in the place of fresh ones."""
    layout, trained, frozen = split_model(model, trainable_filter(cfg.train, cfg.memory))
    lora = cfg.memory.lora.rank > 0
    wanted = {n: x for n, x in trained.items() if lora or not n.startswith("compressor/llm/")}
    fresh = {n: x.shape for n, x in wanted.items()}
    given = {n: tuple(x.shape) for n, x in leaves.items()}
    if fresh != given:
        differ = sorted(n for n in fresh.keys() | given.keys() if fresh.get(n) != given.get(n))
        shown = "; ".join(f"{n}: {given.get(n)}, expected {fresh.get(n)}" for n in differ[:4])
        raise ExportError(f"{place}: what was trained does not fit its {ABOUT}: {shown}")
    for name, x in leaves.items():
        if not np.isfinite(x).all():
            raise ExportError(f"{place}: {name} holds NaN or infinity; take a copy that is whole")
        trained[name] = jax.device_put(jnp.asarray(x, wanted[name].dtype), wanted[name].sharding)
    return layout.merge(trained, frozen)
