"""What determines the numbers of a run: the part of its config that counts, files by content.

Left out: names, workdir, logging, how often checkpoints are saved, the mesh, and the rest of the
grid. Data files count by name, size and content (`files.digest`), so a folder that moved keeps its
results and an edited file does not. `config_hash` of it names the run.
"""

from __future__ import annotations

import os
from typing import Any

from jaxcomp.config import Config, ModelConfig, to_dict
from jaxcomp.data.sources import contents, source_of
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import paths
from jaxcomp.runtime.files import digest, is_file

_GROUPS = ("train", "pretrain", "decoder.pretrain", "decoder.adapt")
# Fields that change what is printed or stored, where it runs or how often it is saved, never what
# comes out.
SIDE_FIELDS = (
    "name",
    "mesh",
    "plugins",
    "sweep.workers",
    *(
        f"{group}.{key}"
        for group in _GROUPS
        for key in ("log_every", "checkpoint_every", "keep_checkpoints")
    ),
)


# Recomputed or cut differently, but the same numbers; jobs' hashes hold them nevertheless.
RECOMPUTED = tuple(f"{group}.{key}" for group in _GROUPS for key in ("remat", "loss_chunk"))


def model(cfg: Config) -> ModelConfig:
    """The compressor's shape in the config of a single run."""
    family, _, size = cfg.compressor.partition("/")
    return cfg.families[family][size]


def of_training(cfg: Config, start: str = "") -> dict[str, Any]:
    """What determines what is trained; `start` is the hash of the run that `train.start` names."""
    found: dict[str, Any] = {"compressor": cfg.compressor}
    found |= _without(of_job(cfg), ("eval", *RECOMPUTED))
    if start:
        found["train"]["start"] = start
    return found


def of_job(cfg: Config) -> dict[str, Any]:
    """What determines what is trained and measured in a single run."""
    tree = _without(to_dict(cfg), (*SIDE_FIELDS, "sweep", "families", "compressor"))
    # A decoder without ratios of its own is adapted at those of the sweep.
    ratios = cfg.decoder.adapt.ratios or cfg.sweep.ratios
    own = {"model": to_dict(model(cfg)), "adapt_ratios": list(ratios)}
    return _by_content(tree, cfg) | own


def of_sweep(cfg: Config) -> dict[str, Any]:
    """What a sweep's workdir belongs to: all but what the grid sets for each job."""
    set_by_grid = ("compressor", "base_seed", "seed", "memory.ratio")
    return _by_content(_without(to_dict(cfg), (*SIDE_FIELDS, *set_by_grid)), cfg)


def _without(tree: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for path in names:
        *groups, key = path.split(".")
        node = tree
        for group in groups:
            node = node[group]
        node.pop(key, None)
    return tree


def _by_content(tree: dict[str, Any], cfg: Config) -> dict[str, Any]:
    if not source_of(cfg).facts:
        tree["data"]["path"] = contents(cfg.data)
    tree["folders"] = {k: weights_fingerprint(v) for k, v in cfg.folders.items()}
    if cfg.data.tokenizer:
        tree["data"]["tokenizer"] = fingerprint(os.path.join(cfg.data.tokenizer, "tokenizer.json"))
    return tree


def fingerprint(path: str) -> str:
    """`files.digest` of a file; the name alone of what is none."""
    path = os.path.expanduser(path)
    return digest(path) if is_file(path) else os.path.basename(path.rstrip("/"))


def weights_fingerprint(folder: str) -> list[str]:
    """What names a given model: its hub id, or the config and weights of its folder."""
    if is_id(folder):
        return [folder]
    where = paths.path(folder)
    return [
        fingerprint(str(p)) for p in (where / "config.json", *sorted(where.glob("*.safetensors")))
    ]


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted fields in which two dicts differ, with both values ("-" where absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(set(old) | set(new)):
            where = f"{path}.{key}".lstrip(".")
            out += differences(old.get(key, "-"), new.get(key, "-"), where)
        return out
    return [] if old == new else [(path, old, new)]
