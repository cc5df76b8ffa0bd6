"""Adapt a decoder to read memory vectors, jointly with a reference compressor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxcomp.config import Config
from jaxcomp.models.model import count_params
from jaxcomp.models.safetensors import save_tensors
from jaxcomp.runtime import distributed, paths
from jaxcomp.runtime.sharding import on_host
from jaxcomp.training import identity, manifest, pretrained, ratio_schedule
from jaxcomp.training.compressor import run_of, validate
from jaxcomp.training.loop import Say
from jaxcomp.training.pretrain import held_out, is_made, making, pretrain, save


def adapt_decoder(cfg: Config, root: Path, *, command: str = "", say: Say | None = None) -> Path:
    """`root`/decoders/<name>: the decoder, adapted to read memory, made there unless it already is.

    Pretrains the decoder and the reference compressor as language models, then trains both
    together at `decoder.adapt` (each step at one of its ratios, drawn by a seeded schedule), and
    writes the decoder in bfloat16 with its markers and a card. The reference compressor is of no
    further use.
    """
    cfg = identity.own_text(cfg)
    folder, dec = pretrained.made_decoder(root, cfg), cfg.decoder
    made = manifest.new("decoder", identity.decoder_identity(cfg), cfg, command)
    if is_made(folder, made):
        return folder
    seeds, lms = identity.decoder_seeds(cfg), paths.path(root) / "lms"

    def pretrained_lm(name: str, seed: int) -> Path:
        place = lms / f"{name}-s{dec.seed}"
        model = dec.model if name == "decoder" else dec.reference
        pretrain(cfg, model, dec.pretrain, seed, place, command=command, say=say)
        return pretrained.readable(place)

    dec_lm, ref_lm = pretrained_lm("decoder", seeds[0]), pretrained_lm("reference", seeds[1])
    both = pretrained.adapt_config(cfg)
    ratio_schedule.check(both)
    toks = pretrained.tokenizer_of(ref_lm), pretrained.tokenizer_of(dec_lm)
    weights = {
        name: manifest.Weights(str(place), manifest.weights_identity(place))
        for name, place in (("compressor", ref_lm), ("decoder", dec_lm))
    }
    made = dataclasses.replace(made, weights=weights)
    run = run_of(both, folder.name, made, ref_lm, dec_lm, toks)
    with making(folder, run, dec.seed, say) as (model, part, card):
        markers = {"markers_4D": on_host(model.markers_4D[...]).astype(np.float32)}
        model.decoder = save(model.decoder, part, dec_lm)
        distributed.by_lead(lambda: save_tensors(markers, part / pretrained.MARKERS))
        card["parameters"] = count_params(model.decoder.cfg)
        card |= held_out(cfg, model.decoder, toks[1])  # of the decoder alone, as a language model
        for ratio in sorted(set(both.train.ratios)):  # with the reference compressor
            at = dataclasses.replace(both, memory=dataclasses.replace(both.memory, ratio=ratio))
            found = validate(at, model, toks)
            card |= {f"{k}_r{ratio}": v for k, v in found.items() if k != "val_loss"}
    return folder
