"""Pretraining: a Hugging Face folder with a card that records its origin."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxcomp.config import Config, ModelConfig, PretrainConfig
from jaxcomp.data.batches import LmBatch, eval_examples, lm_batches, tokenizer_folder
from jaxcomp.data.sources import with_world, world_config
from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer, count_params
from jaxcomp.runtime import distributed, locks, paths
from jaxcomp.runtime.sharding import use_mesh, whole_batch
from jaxcomp.training import identity, manifest, pretrained
from jaxcomp.training.loop import Run, Say, fit, mesh_for
from jaxcomp.training.loss import LmObjective
from jaxcomp.training.manifest import CARD, CheckpointError, read_json, write_json
from jaxcomp.training.optim import summed


def pretrain_base(
    cfg: Config,
    family: str,
    size: str,
    base_seed: int,
    root: Path,
    *,
    command: str = "",
    say: Say | None = None,
) -> Path:
    """`root`/bases/<family>-<size>-s<seed>, pretrained there unless it already is."""
    folder = pretrained.made_base(root, family, size, base_seed)
    model, text = identity.model_for(cfg, family, size), identity.base_text(cfg)
    pretrain(text, model, cfg.pretrain, base_seed, folder, command=command, say=say)
    return folder


def pretrain(
    cfg: Config,
    model: ModelConfig,
    settings: PretrainConfig,
    seed: int,
    folder: Path,
    *,
    command: str = "",
    say: Say | None = None,
) -> None:
    """Trains a language model on `cfg`'s text and writes it to `folder` with its card: command,
    config hash, seed, tokens seen, losses. Does nothing where it is there already.

    Args:
        seed: of the initial weights and of the order of documents.
        command: what the user typed, for the card.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: see `loop.fit`.
    """
    identity.check_text(cfg, settings)
    own = identity.lm_identity(cfg, model, settings, seed)
    made = manifest.new("lm", own, cfg, command, tokenizers={"own": own["tokenizer"]})
    if is_made(folder, made):
        return
    source = Path(tokenizer_folder(cfg))
    tok = load_tokenizer(source)
    model = dataclasses.replace(model, vocab_size=model.vocab_size or tok.vocab_size)
    pretrained.check_vocabulary(model, tok, folder.name)
    ordered = dataclasses.replace(settings, seed=settings.seed + seed)
    run = Run(
        what=folder.name,
        manifest=made,
        model=lambda: Transformer(model, rngs=nnx.Rngs(params=seed)),
        trainable=nnx.Param,
        batches=lambda: lm_batches(cfg, ordered, tok),
        objective=lambda step: LmObjective(settings.remat, settings.loss_chunk),
        settings=settings,
        seed=seed,
    )
    with making(folder, run, seed, say) as (trained, part, card):
        written = save(trained, part, source)
        card["parameters"] = count_params(model)
        card |= held_out(pretraining_text(cfg), written, tok)


def is_made(folder: Path, made: manifest.Manifest) -> bool:
    """Whether a folder is whole already, made by the same settings."""
    return distributed.by_lead(lambda: _is_whole(folder, made.config_hash))


def _is_whole(folder: Path, digest: str) -> bool:
    file = folder / CARD
    return file.is_file() and read_json(file).get("config_hash") == digest


@contextlib.contextmanager
def making(
    folder: Path, run: Run, seed: int, say: Say | None
) -> Iterator[tuple[Any, Path, dict[str, Any]]]:
    """Trains `run`; gives the trained model, a folder for its files and its card, both to be
    filled under the mesh, and makes them `folder`.

    Resumes from `<folder>.work`, which holds checkpoints and metrics. For a bucket that is on this
    machine, unless the run has several: other machines may make the same at the same time.
    """
    work = paths.path(f"{folder}.work")
    if paths.is_remote(folder) and distributed.count() == 1:
        name = f"{folder.name}-{run.manifest.config_hash}-{socket.gethostname()}"
        work = paths.cache_dir() / "work" / name
    mesh = mesh_for(run.manifest.config)
    with locks.training(work):
        fitted = fit(run, work, mesh, say=say)
    made = run.manifest
    card = {
        "kind": made.kind,
        "name": folder.name,
        "command": made.command,
        "config_hash": made.config_hash,
        "identity": made.identity,
        "seed": seed,
        "dtype": "bfloat16",
        **fitted.numbers,
    }
    with use_mesh(mesh):
        part = Path(distributed.by_lead(lambda: str(new_part(folder))))
        yield fitted.model(), part, card
    distributed.by_lead(lambda: publish(part, folder, card))


def new_part(folder: Path) -> Path:
    """An empty name on this machine for what `publish` will make `folder`."""
    if paths.is_remote(folder):
        return paths.scratch() / folder.name
    part = Path(f"{folder}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    return part


def publish(part: Path, folder: Path, card: dict[str, Any]) -> None:
    """Moves a finished folder to its name at once, in place of one made by other settings.

    In a bucket file by file, the card last: a folder without one is not looked at. What another
    machine has made meanwhile stays.
    Raises CheckpointError where it cannot, StorageError for a bucket.
    """
    write_json(part / CARD, card)
    remote = paths.is_remote(folder)
    try:
        whole = _is_whole(folder, card["config_hash"])
        if folder.exists() and not whole:
            paths.rmtree(folder)
        if remote and not whole:
            paths.upload(part, folder, last=CARD)
        if remote or whole:
            shutil.rmtree(part.parent if remote else part)
        else:
            part.rename(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from error


def save(model: Transformer, part: Path, tokenizer: Path) -> Transformer:
    """Writes `model` in bfloat16, and the tokenizer of another folder, to `part`. Returns it as a
    reader gets it: the numbers of a card are those of what was written."""
    hf.save(model, part, dtype="bfloat16")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        distributed.by_lead(lambda n=name: str(shutil.copyfile(tokenizer / n, part / n)))
    if distributed.count() == 1:
        return hf.load(part)
    # Only process 0 may have the folder; what it would read is known without it.
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, _rounded(state))


@jax.jit
def _rounded(state: Any) -> Any:
    # The two casts alone XLA may leave out, since they "only" lose precision.
    return jax.tree.map(lambda x: jax.lax.reduce_precision(x, 8, 7), state)


def pretraining_text(cfg: Config) -> Config:
    """`cfg` with a validation set of the text that language models read: a card's losses must not
    depend on `train_prior_strength`, of which a base's identity knows nothing."""
    world = world_config(cfg)
    return with_world(cfg, dataclasses.replace(world, train_prior_strength=world.prior_strength))


def held_out(cfg: Config, model: Transformer, tok: Tokenizer) -> dict[str, float]:
    """Losses on the validation set's texts, nats a token, under the active mesh.

    eval_loss: each text alone, its first token not predicted, its end token predicted.
    copy_loss: the second copy in "text <eos> text <eos>", all its tokens: can it copy?
    """
    texts = [e.target for e in eval_examples(cfg, "val", tok, tok)]
    alone = _sums(cfg, model, texts)
    second = _sums(cfg, model, [ids + ids for ids in texts]) - alone
    return {
        "eval_loss": float(alone[0] / alone[2]),
        "copy_loss": float(second[0] / second[2]),
        "copy_accuracy": float(second[1] / second[2]),
    }


def _sums(cfg: Config, model: Transformer, rows: Sequence[list[int]]) -> np.ndarray:
    """Sum of nll, hits and labels over rows, in float64."""
    rows_each = whole_batch(cfg.eval.batch, jax.sharding.get_mesh())
    length = max(map(len, rows))

    def batch(start: int) -> LmBatch:
        tok_BL, seg_BL = np.zeros((2, rows_each, length), np.int32)
        for b, ids in enumerate(rows[start : start + rows_each]):
            tok_BL[b, : len(ids)], seg_BL[b, : len(ids)] = ids, 1
        pos_BL = np.broadcast_to(np.arange(length, dtype=np.int32), tok_BL.shape)
        return LmBatch(tok_BL, seg_BL, pos_BL)

    return summed(model, LmObjective(), map(batch, range(0, len(rows), rows_each)))
