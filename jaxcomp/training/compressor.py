"""Training a compressor against the frozen decoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file

from jaxcomp.compress.autoencoder import AutoEncoder, build, dtypes, trainable_filter
from jaxcomp.config import Config, LoraConfig
from jaxcomp.data.batches import CONTINUE, REBUILD, batch_examples, eval_examples
from jaxcomp.data.eval_sets import check_held_out
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer, count_params
from jaxcomp.runtime import distributed, locks, paths
from jaxcomp.runtime.sharding import use_mesh, whole_batch
from jaxcomp.training import pretrained, ratio_schedule, replay, warm_start
from jaxcomp.training.identity import of_training, split_name
from jaxcomp.training.loop import Run, Say, fit, mesh_for
from jaxcomp.training.loss import MemoryObjective, Objective, objective_of
from jaxcomp.training.manifest import (
    RUN,
    SUMMARY,
    CheckpointError,
    Manifest,
    check_same,
    new,
    open_manifest,
    read_json,
    write_json,
)
from jaxcomp.training.metrics import TIMINGS, Clock, told_time
from jaxcomp.training.optim import moving, summed
from jaxcomp.training.profiling import Window

PARTS = ("compressor", "decoder")


def train(
    cfg: Config,
    workdir: Path,
    *,
    root: Path | None = None,
    command: str = "",
    say: Say | None = None,
    profile: Window | None = None,
) -> dict[str, Any]:
    """Trains `cfg.compressor` at `cfg.memory.ratio` against the decoder; returns the summary.

    Resumes what a killed process left in `workdir`; a finished run is only read.

    Args:
        root: where bases/ and decoders/ made locally stand (default `workdir`).
        command: what was typed, for run.json.
        profile: steps to trace.

    Returns:
        summary.json, which a rerun reproduces: steps, tokens, train_loss, and on the validation
        set what `validate` measures.

    Raises:
        ConfigError: a field that cannot work, missing weights, or a workdir of another config.
        DataError, CheckpointError, TrainingError, Terminated: see `loop.fit`.
    """
    clock = Clock()
    workdir = paths.path(workdir)
    if distributed.by_lead(lambda: (workdir / RUN).is_file() and (workdir / SUMMARY).is_file()):
        check_run(cfg, workdir)
        return distributed.by_lead(lambda: read_json(workdir / SUMMARY))
    # Before the workdir is claimed: the weights that take the place of broken ones are others.
    run, toks = planned(cfg, root or workdir, workdir, command)
    check_held_out(cfg, *toks)
    with locks.training(workdir):
        mesh = mesh_for(cfg)
        fitted = fit(run, workdir, mesh, say=say, profile=profile, clock=clock)
        with use_mesh(mesh), clock.part("evaluation"):
            model = fitted.model()
            values = validate(cfg, model, toks)
        summary = {
            "config_hash": run.manifest.config_hash,
            "compressor": cfg.compressor,
            "ratio": cfg.memory.ratio,
            "parameters_compressor": count_params(model.compressor.llm.cfg),
            "parameters_decoder": count_params(model.decoder.cfg),
            "parameters_trained": sum(
                moving(name, x, run.last_layer) for name, x in fitted.trained.items()
            ),
            **fitted.numbers,
            **values,
        }

        def write() -> dict[str, Any]:
            if fitted.rates is not None:  # of a run that was only restored, the times are known
                timings = clock.timings(fitted.rates)
                write_json(workdir / TIMINGS, timings)
                print(told_time(cfg.compressor, timings), file=sys.stderr, flush=True)
            write_json(workdir / SUMMARY, summary)
            return read_json(workdir / SUMMARY)

        return distributed.by_lead(write)


def check_run(cfg: Config, workdir: Path) -> None:
    """Raises ConfigError that names the fields in which `cfg` differs from the run in `workdir`."""
    ratio_schedule.check(cfg)
    found = open_manifest(workdir)
    parent = warm_start.parent_of(cfg, workdir)
    check_same(workdir, found, of_training(cfg, parent.config_hash if parent else ""))


def planned(
    cfg: Config, root: Path, workdir: Path | None = None, command: str = ""
) -> tuple[Run, tuple[Tokenizer, Tokenizer]]:
    """The run that `train` makes, not begun, and the tokenizers of compressor and decoder.
    `workdir` is where it is or will be: trained in part, it needs the run it began with no more.

    Raises ConfigError as `train` does.
    """
    ratio_schedule.check(cfg)
    folders = _weights(cfg, root)
    for folder in folders:
        hf.check(folder)
    toks = pretrained.tokenizer_of(folders[0]), pretrained.tokenizer_of(folders[1])
    weights = {
        name: pretrained.weights_of(folder, cfg.folders.get(given, ""), root, workdir or root)
        for name, given, folder in zip(PARTS, (cfg.compressor, "decoder"), folders, strict=True)
    }
    parent = warm_start.parent_of(cfg, workdir or root, weights)
    made = new(
        "compressor",
        of_training(cfg, parent.config_hash if parent else ""),
        cfg,
        command,
        weights=weights,
        tokenizers={name: tok.name for name, tok in zip(PARTS, toks, strict=True)},
        parent=parent,
    )
    return run_of(cfg, cfg.compressor, made, *folders, toks, workdir), toks


def load_run(
    cfg: Config, workdir: Path, *, root: Path | None = None, step: int | None = None
) -> AutoEncoder:
    """The pair of a finished run: base weights, the trained split from the last checkpoint, or
    from the one after `step` updates (`checkpoint.saved_steps` says which there are).

    Call it under the mesh the model is to lie on.
    Raises CheckpointError where the run has not been finished, ConfigError as `train` does.
    """
    workdir = paths.path(workdir)
    if not (workdir / SUMMARY).is_file():
        raise CheckpointError(f"{workdir}: no finished run there; run `jaxcomp train` first")
    model = pair(cfg, *_weights(cfg, root or workdir))
    if cfg.train.optim.steps == 0:
        return warm_start.begun(cfg, model, workdir)
    layout, trained, frozen = warm_start.trained_parts(cfg, model, workdir, step)
    return layout.merge(trained, frozen)


def tokenizers(cfg: Config, root: Path) -> tuple[Tokenizer, Tokenizer]:
    """The compressor's and the decoder's tokenizer of a run."""
    comp_folder, dec_folder = _weights(cfg, root)
    return pretrained.tokenizer_of(comp_folder), pretrained.tokenizer_of(dec_folder)


def pair(cfg: Config, comp_folder: Path, dec_folder: Path) -> AutoEncoder:
    """The untrained pair from two Hugging Face folders, on the active mesh.

    `markers.safetensors` beside the decoder, if there, gives the markers' initial values.
    Raises ConfigError where the decoder's markers do not fit it.
    """
    # LoRA leaves have their own stream, so that rank 0 and rank 8 share memory tokens.
    rngs = nnx.Rngs(params=cfg.seed + 7919)
    both = towers(cfg, comp_folder, dec_folder, rngs, lora=cfg.memory.lora)
    shipped = Path(dec_folder) / pretrained.MARKERS
    markers_4D = jnp.asarray(load_file(shipped)["markers_4D"]) if shipped.is_file() else None
    shape = {"segment": cfg.data.segment, "seed": cfg.seed, "markers_4D": markers_4D}
    return build(*both, cfg.memory, cfg.train, **shape)


def towers(
    cfg: Config, comp_folder: Path, dec_folder: Path, rngs: nnx.Rngs, lora: LoraConfig | None
) -> tuple[Transformer, Transformer]:
    """Compressor and decoder of two Hugging Face folders, in the config's dtypes."""
    of = dtypes(cfg.train, cfg.memory)
    llm = hf.load(comp_folder, lora=lora, dtype=of.compressor, compute_dtype=of.compute, rngs=rngs)
    return llm, hf.load(dec_folder, dtype=of.decoder, compute_dtype=of.compute)


def validate(
    cfg: Config, model: AutoEncoder, toks: tuple[Tokenizer, Tokenizer]
) -> dict[str, float | int | None]:
    """Teacher-forced on the validation set at `cfg.memory.ratio`, under the active mesh:
    val_loss_rebuild and val_loss_continue (nats a token), val_accuracy_rebuild and
    val_accuracy_continue, None without a target; val_loss, that of rebuilding; and val_* of the
    objective's own (`MemoryObjective.validated`)."""
    size = whole_batch(cfg.eval.batch, jax.sharding.get_mesh())
    objective = MemoryObjective(cfg.memory.ratio, chunk=cfg.train.loss_chunk)
    examples = eval_examples(cfg, "val", *toks)
    batches = (b for b, _ in batch_examples(examples, size, cfg, (REBUILD, CONTINUE)))
    total = summed(model, objective, batches)
    out: dict[str, float | int | None] = {}
    for mode, at in (("rebuild", 1), ("continue", 4)):
        nll, hits, count = total[at : at + 3]
        out[f"val_loss_{mode}"] = float(nll / count) if count else None
        out[f"val_accuracy_{mode}"] = float(hits / count) if count else None
    out["val_loss"] = out["val_loss_rebuild"]
    own = objective_of(cfg.train, cfg.memory.ratio).validated(cfg, model, toks)
    return out | {f"val_{name}": value for name, value in own.items()}


def run_of(
    cfg: Config,
    what: str,
    made: Manifest,
    comp_folder: Path,
    dec_folder: Path,
    toks: tuple[Tokenizer, Tokenizer],
    workdir: Path | None = None,
) -> Run:
    """Training of the pair of these folders, not begun. `workdir` is where it may have checkpoints
    already."""
    train, memory = cfg.train, cfg.memory

    def objective(step: int) -> Objective:
        ratio = ratio_schedule.ratio_at(train, memory.ratio, cfg.seed, step)
        return replay.with_replay(objective_of(train, ratio), train)

    return Run(
        what=what,
        manifest=made,
        model=lambda: warm_start.begun(cfg, pair(cfg, comp_folder, dec_folder), workdir),
        trainable=trainable_filter(train, memory),
        batches=lambda: replay.train_batches(cfg, *toks),
        objective=objective,
        settings=train,
        seed=cfg.seed,
        # While the decoder learns, its markers are part of it.
        marker_steps=float("inf") if train.train_decoder else memory.marker_steps,
        last_layer=memory.trained == "last_layer",
        dropout=train.word_dropout > 0 or (memory.lora.rank > 0 and memory.lora.dropout > 0),
    )


def _weights(cfg: Config, root: Path) -> tuple[Path, Path]:
    family, size = split_name(cfg.compressor)
    pretrained.check_shapes(cfg)
    return (
        pretrained.resolve_base(cfg, family, size, cfg.base_seed, root),
        pretrained.resolve_decoder(cfg, root),
    )
