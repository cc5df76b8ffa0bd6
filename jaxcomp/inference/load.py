"""`jaxcomp.load`: a trained pair that ships with jaxcomp, of a run, or of an exported folder."""

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
from jaxcomp.inference.format import (
    ABOUT,
    ADAPTER,
    FORMAT,
    FULL,
    PAIR,
    VERSION,
    ExportError,
)
from jaxcomp.inference.pair import Pair, Traits
from jaxcomp.models import hf
from jaxcomp.models.weight_map import module_tower
from jaxcomp.runtime import paths, strict_json
from jaxcomp.runtime.allocator import keep_freed_memory
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import pretrained
from jaxcomp.training.compressor import load_run, tokenizers, towers
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import RUN, Weights, open_manifest, read_json
from jaxcomp.training.optim import split_model
from jaxcomp.training.ratio_schedule import at_ratio

DEMO = "demo/"  # how the name of a pair that ships begins

# Fields of jaxcomp.json that are read back.
_FIELDS = {
    "base.source": str,
    "base.identity": dict,
    "decoder.source": str,
    "decoder.identity": dict,
    "reader": str,
    "compressor": str,
    "connector_unit": float,
    "config": dict,
}


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
        ratio: one of those it was trained at; 0: `memory.ratio`.
        batch: most rows computed at once.
        compressor, decoder: where the base models are (a folder or a hub id), if no longer where
            the run or the exported folder says.
        step: of a run, the checkpoint after that many updates; None: the last.
        mesh: default: the active one, else all devices over fsdp.

    Raises:
        ExportError, CheckpointError, ConfigError, HfError, HubError: what is missing or does not
        fit, and the mend.
    """
    keep_freed_memory()
    place = place_of(place)
    mesh = mesh or mesh_for(Config())
    with use_mesh(mesh):
        if (place / ABOUT).is_file():
            if paths.is_remote(place):
                raise ExportError(
                    f"{place} is an exported folder, which is read from a disk: copy it with "
                    f"`gcloud storage cp -r {place} DIR`"
                )
            return _exported(place, ratio, batch, compressor, decoder, mesh)
        if (place / RUN).is_file():
            cfg, root = open_run(place, compressor, decoder)
            return _run(cfg, place, root, ratio, batch, mesh, step)
    hint = "; it is a sweep: name one of its jobs, jobs/JOB" if (place / "jobs").is_dir() else ""
    raise ExportError(
        f"{place} holds neither {ABOUT} (of an exported compressor) nor {RUN} (of a run of "
        f"`jaxcomp train`){hint}"
    )


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
        return from_dict(read_about(place)["config"], where=str(place / ABOUT))
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


def readable_by(decoder: dict[str, Any], markers_4D: Any, memory: MemoryConfig) -> str:
    """The name of what can read a memory: the decoder's weights, its markers, where vectors stand,
    and whether they are keys and values."""
    markers = np.ascontiguousarray(np.asarray(jax.device_get(markers_4D), np.float32))
    return config_hash(
        {
            "weights": decoder,
            "markers": hashlib.sha256(markers.tobytes()).hexdigest(),
            "positions": memory.positions,
        }
        | ({"kind": memory.kind} if kind_of(memory).per_layer else {})
    )


def _run(
    cfg: Config, place: Path, root: Path, ratio: int, batch: int, mesh: Mesh, step: int | None
) -> Pair:
    model = load_run(cfg, place, root=root, step=step)
    made = open_manifest(place)
    dec = made.weights["decoder"].identity
    return _pair(cfg, model, tokenizers(cfg, root), dec, made.config_hash, ratio, batch, mesh)


def _exported(
    place: Path, ratio: int, batch: int, compressor: str, decoder: str, mesh: Mesh
) -> Pair:
    about = read_about(place)
    cfg = config_at(place)
    dec_folder = _weights(about, place, decoder, "decoder")
    lora = cfg.memory.lora if cfg.memory.lora.rank else None
    own = place / FULL
    comp_folder = own if lora is None else _weights(about, place, compressor, "compressor")
    llm, reader = towers(cfg, comp_folder, dec_folder, nnx.Rngs(params=0), lora=lora)
    model = build(llm, reader, cfg.memory, cfg.train, segment=cfg.data.segment, seed=0)
    # Of the decoder's embeddings when it was trained; another machine's sum may differ in a bit.
    model.compressor.connector.unit = float(about["connector_unit"])
    leaves = _pair_leaves(place / PAIR)
    if lora is not None:
        config = read_json(comp_folder / hf.CONFIG)
        leaves |= peft.load(place / ADAPTER, llm.cfg, module_tower(config))
    model = _filled(model, leaves, cfg, place)
    toks = pretrained.tokenizer_of(comp_folder), pretrained.tokenizer_of(dec_folder)
    found = _pair(
        cfg, model, toks, about["decoder"]["identity"], about["compressor"], ratio, batch, mesh
    )
    if found.traits.decoder != about["reader"]:
        raise ExportError(
            f"{place / PAIR} holds other markers than {ABOUT} was written with; export it again"
        )
    return found


def _pair(
    cfg: Config,
    model: AutoEncoder,
    toks: tuple[Tokenizer, Tokenizer],
    dec: dict[str, Any],
    compressor: str,
    ratio: int,
    batch: int,
    mesh: Mesh,
) -> Pair:
    reader = readable_by(dec, model.markers_4D[...], cfg.memory)
    at = at_ratio(cfg, ratio).memory.ratio
    traits = Traits(at, cfg.data.segments, cfg.data.target, reader, compressor)
    return Pair(model, toks, traits, mesh, batch)


def read_about(place: Path) -> dict[str, Any]:
    """jaxcomp.json of an exported folder. Raises ExportError where it is of another kind."""
    try:
        about = strict_json.read(place / ABOUT, dict)
    except (OSError, strict_json.JsonError) as error:
        raise ExportError(f"{place / ABOUT} cannot be read ({error})") from error
    found = about.get("format"), about.get("version")
    if found != (FORMAT, VERSION):
        shown = str(found)[:80]
        raise ExportError(f"{place / ABOUT} is of {shown}; expected {(FORMAT, VERSION)}")
    for field, kind in _FIELDS.items():
        value: Any = about
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise ExportError(
                f"{place / ABOUT}: {field} is {str(value)[:40]!r}, expected {kind.__name__}; "
                "export the run again"
            )
    return about


def _weights(about: dict[str, Any], place: Path, given: str, what: str) -> Path:
    source = about["decoder" if what == "decoder" else "base"]
    weights = Weights(source["source"], source["identity"], source.get("revision"))
    return pretrained.folder_at(weights, place, given, what)


def _pair_leaves(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the run again") from error


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
