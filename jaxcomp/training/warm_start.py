"""Training that begins where another run ended (`train.start`): with its compressor, memory tokens,
connector and markers, a fresh optimiser and a schedule of its own.

So the stages of published recipes are runs one after the other: reconstruction, then questions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

from jaxcomp.compress.autoencoder import AutoEncoder, dtypes, slots_of, trainable_filter
from jaxcomp.compress.kinds import connector_of, kind_of
from jaxcomp.compress.memory import scale_of, unit_of
from jaxcomp.config import Config, ConfigError, Trained
from jaxcomp.data.sources import SOURCES
from jaxcomp.runtime import paths
from jaxcomp.training.checkpoint import Checkpoints, saved_steps
from jaxcomp.training.identity import of_training
from jaxcomp.training.manifest import (
    SUMMARY,
    Manifest,
    Parent,
    Weights,
    find_manifest,
    open_manifest,
)
from jaxcomp.training.optim import Layout, Params, init_state, split_model, split_optim

# Fields of `memory` that shape no weight and place no vector: they may differ between the runs.
_FREE = ("recipe", "ratio", "marker_steps", "trained")


def parent_of(
    cfg: Config, workdir: Path | None = None, weights: dict[str, Weights] | None = None
) -> Parent | None:
    """The run that `train.start` names, by its hash: its place does not count; None without one.

    `weights` are those of the run that begins. Once that, in `workdir`, has a checkpoint, the one
    that its run.json names, unless another place that holds a finished run is named now.
    Raises ConfigError where the other run is needed and not finished, or does not fit.
    """
    if not cfg.train.start:
        return None
    place, known = _place(cfg), _recorded(workdir)
    there = _finished(place)
    same = there is None or (known is not None and known.place == str(place))
    if workdir and known and same and (_finished(paths.path(workdir)) or saved_steps(workdir)):
        return known
    if there is None:
        raise _missing(cfg)
    if weights is not None:
        _fits(cfg, there, weights)
    return Parent(str(place), there.config_hash)


def begun(cfg: Config, model: AutoEncoder, workdir: Path | None = None) -> AutoEncoder:
    """The fresh `model` with what the run `train.start` trained in the place of its own weights;
    the model itself where there is none, and where that run is gone but the own one, in
    `workdir`, has a checkpoint to go on from. Under the model's mesh.

    Raises ConfigError where the run is gone and needed, CheckpointError."""
    if not cfg.train.start:
        return model
    place, known = _place(cfg), _recorded(workdir)
    there = _finished(place)
    if there is None or (known and known.config_hash != there.config_hash):
        if workdir and known and saved_steps(workdir):
            return model
        raise _missing(cfg)
    other = there.config
    if other.train.optim.steps == 0:
        return begun(other, model, place)
    layout, params, frozen = trained_parts(other, model, place)
    return layout.merge(_in_own_unit(params, model, other), frozen)


def trained_parts(
    cfg: Config, model: AutoEncoder, workdir: Path, step: int | None = None
) -> tuple[Layout, Params, Params]:
    """Layout, trained split and frozen split of `model` after `step` updates (default: all) of the
    run of `cfg` in `workdir`."""
    layout, trained, frozen = split_model(model, trainable_filter(cfg.train, cfg.memory))
    state = init_state(trained, split_optim(cfg.train.optim)[0])
    checkpoints = Checkpoints(workdir, open_manifest(workdir).config_hash, keep=None)
    try:
        state = checkpoints.restore(state, None, step or cfg.train.optim.steps)
    finally:
        checkpoints.close()
    return layout, state.params, frozen


def _in_own_unit(params: Params, model: AutoEncoder, other: Config) -> Params:
    """The connector's last map, which `other` trained, in the unit of the fresh `model`'s: a
    decoder that learns may have another (`memory.unit_of`), and the vectors are the same."""
    emb_VD = model.decoder.table_VD().astype(dtypes(other.train, other.memory).decoder)
    there = unit_of(scale_of(emb_VD).std, other.train.train_decoder)
    connector = model.compressor.connector
    if connector.unit == there:
        return params
    names = [f"compressor/connector/{name}" for name in connector.in_units]
    return params | {name: params[name] * (there / connector.unit) for name in names}


def _fits(cfg: Config, found: Manifest, weights: dict[str, Weights]) -> None:
    """Raises ConfigError where what the run `found` trained is no beginning for this one."""
    other = found.config
    pairs: dict[str, Any] = {
        f"the {name}'s weights": (found.weights[name].identity, own.identity)
        for name, own in weights.items()
    }
    pairs |= {
        f"memory.{f.name}": (getattr(other.memory, f.name), getattr(cfg.memory, f.name))
        for f in dataclasses.fields(cfg.memory)
        if f.name not in _FREE
    }
    kind = kind_of(other.memory)
    if kind.memory_tokens:
        slots = [slots_of(c.memory, c.train, c.data.segment) for c in (other, cfg)]
        pairs["memory tokens (data.segment / the smallest ratio)"] = slots[0], slots[1]
    differ = [f"{key} {a!r} there, {b!r} here" for key, (a, b) in pairs.items() if a != b]
    less = get_args(Trained).index
    # What that run trained and this one does not would be the base model's again.
    if less(other.memory.trained) < less(cfg.memory.trained):
        differ.append(f"memory.trained {other.memory.trained!r} there, {cfg.memory.trained!r} here")
    learned, learns = other.train.train_decoder, cfg.train.train_decoder
    if learned and not learns:
        differ.append("train.train_decoder True there, False here")
    # Without a connector the vectors' unit is a constant, in which nothing can make up for another.
    fixed = not kind.per_layer and not connector_of(cfg.memory).in_units
    if learns and not learned and fixed:
        differ.append(
            "train.train_decoder False there, True here, with memory.connector "
            f"{cfg.memory.connector}"
        )
    if differ:
        raise ConfigError(
            f"train.start = {cfg.train.start!r}: what that run trained does not fit this one: "
            f"{'; '.join(differ)}; expected the same bases, memory and trained parts"
        )
    _same_split(cfg, found.identity["data"], of_training(cfg)["data"])


def _same_split(cfg: Config, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises ConfigError where both read one text and split it differently: what one holds out,
    the other may have learned."""
    # Digests of files, name:size:hash; what else stands there names the rule of the split.
    texts = [(data["source"], [p for p in data["path"] if ":" in p]) for data in (there, here)]
    drawn = SOURCES[here["source"]].facts  # its split is by the text's hash
    if not drawn and texts[0] == texts[1] and there["seed"] != here["seed"]:
        raise ConfigError(
            f"train.start = {cfg.train.start!r}: that run split the same text with data.seed "
            f"{there['seed']}, this one with {here['seed']}: it may have trained on what is held "
            f"out here; expected --data.seed={there['seed']}"
        )


def _recorded(workdir: Path | None) -> Parent | None:
    """What run.json names as the run that this one began with."""
    found = None if workdir is None else find_manifest(workdir)
    return found.parent if found else None


def _finished(place: Path) -> Manifest | None:
    return open_manifest(place) if (place / SUMMARY).is_file() else None


def _missing(cfg: Config) -> ConfigError:
    return ConfigError(
        f"train.start = {cfg.train.start!r}: no finished run there, or another than this run began "
        "with; expected the workdir of a `jaxcomp train` that came to its end"
    )


def _place(cfg: Config) -> Path:
    return paths.path(paths.absolute(cfg.train.start))
