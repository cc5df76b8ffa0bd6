"""The memories that finished runs write of the same passages, compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from jaxcomp.analysis.similarity import Overlap, overlap
from jaxcomp.config import config_hash
from jaxcomp.data.batches import batch_examples, eval_examples
from jaxcomp.data.sources import source_of
from jaxcomp.evals.checkpoints import Followed
from jaxcomp.inference import decode
from jaxcomp.inference.load import open_run
from jaxcomp.runtime.sharding import on_host, put_batch, use_mesh, whole_batch
from jaxcomp.training.compressor import load_run, tokenizers
from jaxcomp.training.loop import mesh_for


class Memories(NamedTuple):
    """The memories of a run. `of` names what the vectors stand for: the passages, in the
    compressor's tokens, and the ratio."""

    vec_WD: np.ndarray
    of: str


def overlaps(runs: Sequence[Followed]) -> dict[tuple[int, int], Overlap | None]:
    """By the numbers of two runs, i < j; None where their memories are not of the same passages
    vector by vector, or are of other widths (another ratio, other text, another tokenizer, another
    kind of memory)."""
    every = [memories(run) for run in runs]
    return {
        (i, j): overlap(one.vec_WD, other.vec_WD) if alike(one, other) else None
        for j, other in enumerate(every)
        for i, one in enumerate(every[:j])
    }


def alike(one: Memories, other: Memories) -> bool:
    return one.of == other.of and one.vec_WD.shape == other.vec_WD.shape


def memories(run: Followed) -> Memories:
    """Every valid vector of the last held-out set, passage by passage, float32."""
    cfg, root = open_run(run.place, **run.moved)
    name = source_of(cfg).measured[-1]
    mesh = mesh_for(cfg)
    with use_mesh(mesh):
        graphdef, state = nnx.split(load_run(cfg, run.place, root=root))
        examples = eval_examples(cfg, name, *tokenizers(cfg, root))
        found = []
        for batch, valid in batch_examples(examples, whole_batch(cfg.eval.batch, mesh), cfg):
            put = put_batch(batch, mesh)
            memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, cfg.memory.ratio)
            vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
            found.append(vec_BMD[:valid][seg_BM[:valid] > 0])
    of = config_hash([cfg.memory.ratio, [[e.text, e.ctx] for e in examples]])
    return Memories(np.concatenate(found).astype(np.float32), of)
