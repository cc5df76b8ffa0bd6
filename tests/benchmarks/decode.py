"""How fast text is rebuilt: tokens a second of greedy decoding, by batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxcomp.data.batches import REBUILD
from jaxcomp.models.generate import generate
from jaxcomp.runtime.sharding import put_batch, use_mesh
from tests.benchmarks.fixture import Fixture, Times, interleaved


def measure(fix: Fixture, batches: tuple[int, ...], repeats: int) -> dict[int, Times]:
    """Seconds to decode `data.target` tokens for each row of a batch, the prefill of its memory
    included, the compressor not. No row ends early: the end token is one that does not exist."""
    max_new = fix.cfg.data.target
    runs = {}
    with use_mesh(fix.mesh):
        for batch in batches:
            prefix = _prefix(fix, batch)

            def run(prefix: Any = prefix) -> None:
                out = generate(fix.model.decoder, *prefix, max_new=max_new, eos_id=-1)
                jax.block_until_ready(out)

            runs[str(batch)] = run
        times = interleaved(runs, repeats)
    return {int(name): t for name, t in times.items()}


def _prefix(fix: Fixture, batch: int) -> Any:
    """The first passages of the fixture's batch, repeated to `batch` rows."""
    rows = np.arange(batch) % fix.batch.ctx_BGT.shape[0]
    ctx_BGT, len_BG = (np.asarray(x)[rows] for x in fix.batch[:2])
    ctx_BGT, len_BG = put_batch((ctx_BGT, len_BG), fix.mesh)
    memory = fix.model.memory(ctx_BGT, len_BG, ratio=fix.cfg.memory.ratio)
    return fix.model.prefix(memory, put_batch(np.full(batch, REBUILD, np.int32), fix.mesh))
