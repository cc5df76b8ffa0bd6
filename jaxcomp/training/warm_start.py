"""Training that begins where another run ended (`train.start`): with its compressor, memory tokens,
connector and markers, a fresh optimiser and a schedule of its own.

So the stages of published recipes are runs one after the other: reconstruction, then questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxcomp.compress.autoencoder import AutoEncoder, dtypes, slots_of, trainable_filter
from jaxcomp.compress.kinds import connector_of, kind_of
from jaxcomp.compress.memory import scale_of, unit_of
from jaxcomp.config import Config, ConfigError
from jaxcomp.runtime import paths
from jaxcomp.runtime.fields import from_dict
from jaxcomp.training.checkpoint import Checkpoints, saved_steps
from jaxcomp.training.manifest import IDENTITY, SETTINGS, SUMMARY, read_json
from jaxcomp.training.optim import Params, init_state, split_model, split_optim

# Fields of `memory` that shape no weight and place no vector: they may differ between the runs.
_FREE = ("recipe", "ratio", "marker_steps")


def name_of(cfg: Config, identity: dict[str, Any], workdir: Path | None = None) -> dict[str, Any]:
    """What stands for `train.start` in the identity of a run: the other run's hash, not its place.

    `identity` is the run's own, as far as it is known. Where the run itself, in `workdir`, needs
    the other no more (it is finished, or has a checkpoint), it is what that one recorded when it
    began, unless another place that holds a finished run is named now. Raises ConfigError where
    the other run is needed and not finished, or what it trained does not fit.
    """
    place = _place(cfg)
    there = (place / SUMMARY).is_file()
    known = _recorded(workdir)
    if workdir and known and (not there or _same_place(cfg, workdir)) and _on_its_own(workdir):
        return known
    if there:
        _fits(cfg, place, identity)
        return {"config_hash": read_json(place / SUMMARY, "config_hash")["config_hash"]}
    raise _missing(cfg)


def begun(cfg: Config, model: AutoEncoder, workdir: Path | None = None) -> AutoEncoder:
    """The fresh `model` with what the run `train.start` trained in the place of its own weights;
    the model itself where there is none, and where that run is gone but the own one, in
    `workdir`, has a checkpoint to go on from. Under the model's mesh.

    Raises ConfigError where the run is gone and needed, CheckpointError."""
    if not cfg.train.start:
        return model
    place, known = _place(cfg), _recorded(workdir)
    there = (place / SUMMARY).is_file()
    if not there or (
        known and known["config_hash"] != read_json(place / SUMMARY, "config_hash")["config_hash"]
    ):
        if workdir is not None and known is not None and saved_steps(workdir):
            return model
        raise _missing(cfg)
    other = _config(place)
    if other.train.optim.steps == 0:
        return begun(other, model, place)
    layout, trained, frozen = split_model(model, trainable_filter(other.train, other.memory))
    state = init_state(trained, split_optim(other.train.optim)[0])
    checkpoints = Checkpoints(place, read_json(place / IDENTITY), keep=None)
    try:
        state = checkpoints.restore(state, None, other.train.optim.steps)
    finally:
        checkpoints.close()
    return layout.merge(_in_own_unit(state.params, model, other), frozen)


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


def _fits(cfg: Config, place: Path, identity: dict[str, Any]) -> None:
    found, other = read_json(place / IDENTITY), _config(place)
    pairs = {key: (found.get(key), identity[key]) for key in ("weights", "decoder")}
    keys = found["memory"].keys() | identity["memory"].keys()
    pairs |= {
        f"memory.{key}": (found["memory"].get(key), identity["memory"].get(key))
        for key in sorted(keys - set(_FREE))
    }
    kind = kind_of(other.memory)
    if kind.memory_tokens:
        slots = [slots_of(c.memory, c.train, c.data.segment) for c in (other, cfg)]
        pairs["memory tokens (data.segment / the smallest ratio)"] = slots[0], slots[1]
    differ = [f"{key} {a!r} there, {b!r} here" for key, (a, b) in pairs.items() if a != b]
    learned, learns = other.train.train_decoder, cfg.train.train_decoder
    if learned and not learns:
        differ.append("train.train_decoder True there, False here")
    # Without a connector the vectors' unit is a constant, in which nothing can make up for another.
    fixed = not kind.per_layer and not connector_of(other.memory).in_units
    if learns and not learned and fixed:
        differ.append(
            "train.train_decoder False there, True here, with memory.connector "
            f"{other.memory.connector}"
        )
    if differ:
        raise ConfigError(
            f"train.start = {cfg.train.start!r}: what that run trained does not fit this one: "
            f"{'; '.join(differ)}; expected the same bases, memory and trained parts"
        )
    _same_split(cfg, found["data"], identity["data"])


def _same_split(cfg: Config, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises ConfigError where both read one text and split it differently: what one holds out,
    the other may have learned."""
    # `bases.data_identity`: the text's fingerprint, then how many documents are for training.
    texts = [(data["source"], data["path"].rpartition("-")[0]) for data in (there, here)]
    if here["source"] != "world" and texts[0] == texts[1] and there["seed"] != here["seed"]:
        raise ConfigError(
            f"train.start = {cfg.train.start!r}: that run split the same text with data.seed "
            f"{there['seed']}, this one with {here['seed']}: it may have trained on what is held "
            f"out here; expected --data.seed={there['seed']}"
        )


def _recorded(workdir: Path | None) -> dict[str, Any] | None:
    """What a run holds in its own identity of the one it began with."""
    own = None if workdir is None else paths.path(workdir) / IDENTITY
    if own is None or not own.is_file():
        return None
    return read_json(own).get("train", {}).get("start")


def _on_its_own(workdir: Path) -> bool:
    """Whether a run needs the one it began with no more."""
    return (paths.path(workdir) / SUMMARY).is_file() or bool(saved_steps(workdir))


def _same_place(cfg: Config, workdir: Path) -> bool:
    """Whether the run in `workdir` was last told the same place."""
    own = paths.path(workdir)
    return (own / SETTINGS).is_file() and _place(_config(own)) == _place(cfg)


def _missing(cfg: Config) -> ConfigError:
    return ConfigError(
        f"train.start = {cfg.train.start!r}: no finished run there, or another than this run began "
        "with; expected the workdir of a `jaxcomp train` that came to its end"
    )


def _config(place: Path) -> Config:
    return from_dict(read_json(place / SETTINGS, "config")["config"], where=str(place / SETTINGS))


def _place(cfg: Config) -> Path:
    return paths.path(paths.absolute(cfg.train.start))
