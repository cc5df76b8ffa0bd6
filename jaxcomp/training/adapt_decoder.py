"""Adapting a decoder: teaching it, with a reference compressor, to be steered by vectors."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from jaxcomp.config import Config, config_hash
from jaxcomp.models import hf
from jaxcomp.models.model import count_params
from jaxcomp.models.safetensors import save_tensors
from jaxcomp.runtime import distributed, paths
from jaxcomp.runtime.sharding import on_host, use_mesh
from jaxcomp.training import base_identity, lock, manifest, pretrained, ratio_schedule
from jaxcomp.training.compressor import run_of, validate
from jaxcomp.training.loop import Say, fit, mesh_for
from jaxcomp.training.pretrain import as_written, finished_card, held_out, pretrain, publish


def adapt_decoder(cfg: Config, root: Path, *, command: str = "", say: Say | None = None) -> Path:
    """`root`/decoders/<name>: the decoder, taught to be steered, made there unless it already is.

    Pretrains the decoder and the reference compressor as language models, then trains both
    together at `decoder.adapt` (each step at one of its ratios, drawn by a seeded schedule), and
    writes the decoder in bfloat16 with its markers and a card. The reference compressor stays in
    `<folder>.work` and is of no further use.
    """
    cfg = base_identity.own_text(cfg)
    folder = pretrained.made_decoder(root, cfg)
    identity = base_identity.decoder_identity(cfg)
    digest = config_hash(identity)
    if finished_card(folder, digest) is not None:
        return folder
    dec, seeds = cfg.decoder, base_identity.decoder_seeds(cfg)
    lms = paths.path(root) / "lms"
    dec_lm, ref_lm = lms / f"decoder-s{dec.seed}", lms / f"reference-s{dec.seed}"
    for place, model, seed in ((dec_lm, dec.model, seeds[0]), (ref_lm, dec.reference, seeds[1])):
        pretrain(cfg, model, place, settings=dec.pretrain, seed=seed, command=command, say=say)
    dec_lm, ref_lm = pretrained.readable(dec_lm), pretrained.readable(ref_lm)
    both = pretrained.adapt_config(cfg)
    ratio_schedule.check(both)
    toks = pretrained.tokenizer_of(ref_lm), pretrained.tokenizer_of(dec_lm)
    weights = {
        name: manifest.Weights(str(place), manifest.weights_identity(place))
        for name, place in (("compressor", ref_lm), ("decoder", dec_lm))
    }
    made = manifest.new("decoder", identity, cfg, command, weights=weights)
    run = run_of(both, folder.name, made, ref_lm, dec_lm, toks)
    mesh = mesh_for(cfg)
    work = paths.path(f"{folder}.work")
    with lock.held(work):
        fitted = fit(run, work, mesh, say=say)
    with use_mesh(mesh):
        model = fitted.model()
        part = Path(distributed.by_lead(lambda: str(pretrained.making(folder))))
        hf.save(model.decoder, part, dtype="bfloat16")
        markers_4D = on_host(model.markers_4D[...]).astype(np.float32)
        distributed.by_lead(lambda: _beside(part, dec_lm, markers_4D))
        model.decoder = as_written(model.decoder, part)
        losses = held_out(cfg, model.decoder, toks[1])
        values = {}
        for ratio in sorted(set(both.train.ratios)):
            at = dataclasses.replace(both, memory=dataclasses.replace(both.memory, ratio=ratio))
            found = validate(at, model, toks)
            values |= {f"{k}_r{ratio}": v for k, v in found.items() if k != "val_loss"}
    card = {
        "kind": "decoder",
        "name": folder.name,
        "command": command,
        "config_hash": digest,
        "identity": identity,
        "seed": dec.seed,
        "parameters": count_params(model.decoder.cfg),
        "dtype": "bfloat16",
        **fitted.numbers,
        **losses,  # of the decoder alone, as a language model
        **values,  # with the reference compressor, at each ratio
    }
    publish(part, folder, card)
    return folder


def _beside(part: Path, source: Path, markers_4D: np.ndarray) -> None:
    """What stands in a decoder's folder beside the weights."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, part / name)
    save_tensors({"markers_4D": markers_4D}, part / pretrained.MARKERS)
