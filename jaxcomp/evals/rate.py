"""Rate and distortion: rebuilt text from memories rounded to fewer bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax

from jaxcomp.compress.autoencoder import AutoEncoder, Memory
from jaxcomp.compress.quantize import FORMATS, bits, quantise
from jaxcomp.config import Config
from jaxcomp.data.batches import Example, eval_examples
from jaxcomp.data.draw import FactWorld
from jaxcomp.data.sources import source_of, world_of
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.evaluate import Rebuilt, rebuild
from jaxcomp.evals.metrics import facts, reconstruction


class Rate(NamedTuple):
    """One set at one format. `kept` is None for a text that is no world's."""

    name: str  # of the set
    form: str  # of compress.quantise.FORMATS
    rate: float  # bits of memory / bytes of source text
    distortion: float | None  # bits_per_byte of the metrics page, teacher-forced
    loss: float | None  # nats a token, teacher-forced
    fr_accuracy: float | None
    kept: float | None  # nonfavourite/all/preserved


def rates(
    cfg: Config,
    model: AutoEncoder,
    toks: tuple[Tokenizer, Tokenizer],
    forms: Sequence[str] = FORMATS,
) -> list[Rate]:
    """Every held-out set at every format. Needs a mesh; raises what `evaluate` does."""
    world = world_of(cfg)
    out = []
    for name in source_of(cfg).measured:
        examples = eval_examples(cfg, name, *toks)
        size = sum(len(e.text.encode()) for e in examples)
        for form in forms:
            found = rebuild(cfg, model, examples, toks[1], partial(_in_form, form=form))
            rate = sum(len(f.vec_MD) for f in found) * bits(form, model.width) / size
            m = reconstruction.measure([f.row for f in found])
            kept = None if world is None else _kept(world, examples, found)
            out.append(
                Rate(name, form, rate, m["bits_per_byte"], m["loss"], m["fr_accuracy"], kept)
            )
    return out


def _kept(world: FactWorld, examples: Sequence[Example], found: Sequence[Rebuilt]) -> float | None:
    pairs = [(e.passage, f.row.rebuilt) for e, f in zip(examples, found, strict=True)]
    counts = [facts.counts(facts.compare(world, p, text)) for p, text in pairs if p is not None]
    return facts.rates(counts)["nonfavourite/all/preserved"]


@partial(jax.jit, static_argnames=("form",))
def _in_form(memory: Memory, *, form: str) -> Memory:
    return memory._replace(vec_BMD=quantise(memory.vec_BMD, form))
