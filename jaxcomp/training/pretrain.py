"""Language modelling from scratch: a base model as a Hugging Face folder with a card."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxcomp.config import Config, ModelConfig, PretrainConfig
from jaxcomp.data.batches import LmBatch, eval_examples, lm_batches, tokenizer_folder
from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer, count_params
from jaxcomp.runtime import distributed, paths
from jaxcomp.runtime.sharding import on_host, put_batch, use_mesh, whole_batch
from jaxcomp.training import base_identity, lock, manifest, pretrained
from jaxcomp.training.loop import Run, Say, fit, mesh_for
from jaxcomp.training.loss import LmObjective
from jaxcomp.training.manifest import read_json, write_json
from jaxcomp.training.optim import eval_step, split_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def pretrain(
    cfg: Config,
    model: ModelConfig,
    folder: Path,
    *,
    settings: PretrainConfig | None = None,
    seed: int = 0,
    command: str = "",
    say: Say | None = None,
) -> dict[str, Any]:
    """Trains a language model on `cfg`'s text and writes it to `folder`; returns its card.

    Writes config.json, model.safetensors (bfloat16), tokenizer.json, tokenizer_config.json and
    card.json: command, config hash, seed, tokens seen, losses. Does nothing where the folder's card
    carries the right hash; resumes from `<folder>.work`, which holds checkpoints and metrics.

    Args:
        settings: default `cfg.pretrain`.
        seed: of the initial weights and of the order of documents.
        command: what the user typed, for the card.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: see `loop.fit`.
    """
    settings = cfg.pretrain if settings is None else settings
    identity = base_identity.lm_identity(cfg, model, settings, seed)
    made = manifest.new("lm", identity, cfg, command, tokenizers={"own": identity["tokenizer"]})
    folder = paths.path(folder)
    card = finished_card(folder, made.config_hash)
    if card is not None:
        return card
    source = tokenizer_folder(cfg)
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
        optim=settings.optim,
        seed=seed,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep_checkpoints,
    )
    mesh = mesh_for(cfg)
    work = paths.path(f"{folder}.work")
    with lock.held(work):
        fitted = fit(run, work, mesh, say=say)
    with use_mesh(mesh):
        trained = fitted.model()
        part = Path(distributed.by_lead(lambda: str(pretrained.making(folder))))
        hf.save(trained, part, dtype="bfloat16")
        distributed.by_lead(lambda: _copy_tokenizer(Path(source), part))
        losses = held_out(pretraining_text(cfg), as_written(trained, part), tok)
    card = {
        "kind": "lm",
        "name": folder.name,
        "command": command,
        "config_hash": made.config_hash,
        "identity": identity,
        "seed": seed,
        "parameters": count_params(model),
        "dtype": "bfloat16",
        **fitted.numbers,
        **losses,
    }
    return publish(part, folder, card)


def finished_card(folder: Path, digest: str) -> dict[str, Any] | None:
    """The card of a base or decoder that is there already, made by the same settings."""

    def look() -> dict[str, Any] | None:
        file = folder / manifest.CARD
        found = read_json(file) if file.is_file() else {}
        return found if found.get("config_hash") == digest else None

    return distributed.by_lead(look)


def publish(part: Path, folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Makes `part` with its card the finished `folder`; returns the card as a reader finds it."""

    def write() -> dict[str, Any]:
        write_json(part / manifest.CARD, card)
        pretrained.publish(part, folder)
        return read_json(folder / manifest.CARD)

    return distributed.by_lead(write)


def as_written(model: Transformer, part: Path) -> Transformer:
    """`model` as a reader of `part`, where it was saved in bfloat16, gets it: so that the numbers
    of a card are those of what was written."""
    if distributed.count() == 1:
        return hf.load(part)
    # Only process 0 may have the folder; what it would read is known without it.
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, _rounded(state))


@jax.jit
def _rounded(state: Any) -> Any:
    # The two casts alone XLA may leave out, since they "only" lose precision.
    return jax.tree.map(lambda x: jax.lax.reduce_precision(x, 8, 7), state)


def _copy_tokenizer(source: Path, part: Path) -> None:
    for name in _TOKENIZER_FILES:
        shutil.copyfile(source / name, part / name)


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
    model = base_identity.model_for(cfg, family, size)
    text = base_identity.base_text(cfg)
    pretrain(text, model, folder, seed=base_seed, command=command, say=say)
    return folder


def pretraining_text(cfg: Config) -> Config:
    """`cfg` with a validation set of the text that language models read: a card's losses must not
    depend on `world.train_prior_strength`, of which a base's identity knows nothing."""
    world = dataclasses.replace(cfg.world, train_prior_strength=cfg.world.prior_strength)
    return dataclasses.replace(cfg, world=world)


def held_out(cfg: Config, model: Transformer, tok: Tokenizer) -> dict[str, float]:
    """Losses on the validation set's texts, nats a token, under the active mesh.

    eval_loss: each text alone, its first token not predicted, its end token predicted.
    copy_loss: the second copy in "text <eos> text <eos>", all its tokens: can it copy?
    """
    texts = [e.target for e in eval_examples(cfg, "val", tok, tok)]
    alone = _sums(cfg, model, texts)
    twice = _sums(cfg, model, [ids + ids for ids in texts])
    second = twice - alone
    return {
        "eval_loss": float(alone[0] / alone[2]),
        "copy_loss": float(second[0] / second[2]),
        "copy_accuracy": float(second[1] / second[2]),
    }


def _sums(cfg: Config, model: Transformer, rows: Sequence[list[int]]) -> np.ndarray:
    """Sum of nll, hits and labels over rows, in float64."""
    mesh = jax.sharding.get_mesh()
    batch = whole_batch(cfg.eval.batch, mesh)
    length = max(map(len, rows))
    layout, params, _ = split_model(model, nnx.Param)
    total = np.zeros(3)
    for start in range(0, len(rows), batch):
        tok_BL, seg_BL = np.zeros((2, batch, length), np.int32)
        for b, ids in enumerate(rows[start : start + batch]):
            tok_BL[b, : len(ids)], seg_BL[b, : len(ids)] = ids, 1
        pos_BL = np.broadcast_to(np.arange(length, dtype=np.int32), tok_BL.shape)
        sums_K = eval_step(
            layout, LmObjective(), params, put_batch(LmBatch(tok_BL, seg_BL, pos_BL), mesh)
        )
        total += on_host(sums_K).astype(np.float64)
    return total
