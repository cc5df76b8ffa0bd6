"""Baselines and upper bounds: `jaxcomp eval --task=bounds`.

A run's compressor beside other memories of the same decoder. Each memory is read by the run's own
decoder behind the run's own markers, of the same held-out passages and at the same ratio: nothing,
parts of the text (compress/baselines.py), its whole, what the run's compressor wrote, and vectors
that were optimised for each text by itself (compress/cramming.py), the bound above as far as STEPS
reach. The result file defines its columns; [How to read it](../how-to/compare-with-baselines.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.compress.baselines import BASELINES, Baseline, Plain
from jaxcomp.compress.cramming import LR, CrammedPair
from jaxcomp.config import Config, config_hash
from jaxcomp.data.draw import FactWorld
from jaxcomp.data.eval_sets import Example, batch_examples, eval_examples
from jaxcomp.data.facts import OUTCOMES
from jaxcomp.data.segments import cut
from jaxcomp.data.sources import source_of, world_of
from jaxcomp.evals.bootstrap import ratio_interval
from jaxcomp.evals.evaluation import (
    BATCH,
    LIMIT,
    OUT,
    RATIO,
    Evaluated,
    Report,
    Request,
    evaluation,
)
from jaxcomp.evals.metrics import facts, reconstruction
from jaxcomp.evals.qa.ask import about_of
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.resumable import Journal, Record, Say, intact
from jaxcomp.inference import decode
from jaxcomp.inference.load import open_run
from jaxcomp.inference.pair import Pair
from jaxcomp.runtime.sharding import on_host, put_batch, use_mesh, whole_batch
from jaxcomp.training.compressor import tokenizers

OWN, CRAMMED = "compressor", "crammed"
MEMORIES = (*BASELINES, OWN, CRAMMED)
STEPS = 100  # updates of Adam for each crammed memory
SEED = 0  # of the tokens that `random` draws
VERSION = 2  # of the definitions: results of another one are not taken over

DEFINITIONS = {
    "loss": "nats a target token (end token included) of rebuilding, teacher-forced; sum over sum",
    "tokens_rebuilt": "greedy, free-running: positions that hold the source's token / the longer "
    "of both; sum over sum (fr_accuracy of the metrics page)",
    "preserved": "of the passages' facts off the world's favourite, the share that comes back, "
    "greedy (nonfavourite/all/preserved)",
    "overwriting": "of the same facts, the share that comes back as the favourite "
    "(overwritten / all off the favourite)",
    "vectors": "valid memory vectors a passage, mean",
    "bytes": "bytes of memory a passage, mean: vectors x numbers in a vector x bytes of a number "
    "where the decoder computes",
    "interval": "95%, percentiles of 1,000 bootstrap draws of passages (seed 0): of this one pair "
    "with other passages, not of other pairs",
    CRAMMED: f"vectors of each text by itself, from the decoder's mean embedding, {STEPS} updates "
    f"of Adam, rate {LR} standard deviations of the embeddings, on the loss above",
}
_COLUMNS = {  # title, and the two counts of a passage: a sum over a sum
    "loss": ("loss, nats a token", "nats", "targets"),
    "tokens_rebuilt": ("tokens rebuilt", "same", "length"),
    "preserved": ("facts preserved", "preserved", "odd"),
    "overwriting": ("overwriting", "overwritten", "odd"),
}


class HeldOut(NamedTuple):
    """The passages of a run's set `name`, as its own compressor reads them."""

    cfg: Config
    name: str
    examples: list[Example]


def held_out(place: Path | str, limit: int | None = None, **moved: str) -> HeldOut:
    """The first `limit` (None: all) held-out passages of a run: of the controlled world
    `counterfactual`, of real text `test`. `moved`: where its base models are now (`open_run`).

    Raises ExportError where the folder is no run, DataError where its data are not there."""
    cfg, root = open_run(place, **moved)
    name = source_of(cfg).measured[-1]
    return HeldOut(cfg, name, eval_examples(cfg, name, *tokenizers(cfg, root))[:limit])


def run(
    pair: Pair, held_out_set: HeldOut, out: Path | None = None, *, say: Say | None = None
) -> Evaluated:
    """Measures every memory of MEMORIES.

    With `out` the result is written there, whole or not at all; stopped, the same call goes on
    after the last memory; finished, it reads the file. Raises EvalError where `out` holds
    something else, or the decoder has too few positions for the text in its own tokens.
    """
    texts = config_hash([[held_out_set.name, e.id, e.text] for e in held_out_set.examples])
    about = about_of(pair, "bounds", VERSION, passages=texts, steps=STEPS, rate=LR, seed=SEED)
    journal = Journal(out, about, say, key="memory")
    if journal.found is not None:
        return Evaluated(journal.found, False)
    recut = _recut(pair, held_out_set)

    def made(part: Sequence[str]) -> list[Record]:
        with use_mesh(pair.mesh):
            return [_measured(pair, name, held_out_set if name == OWN else recut) for name in part]

    todo = [[name] for name in MEMORIES if name not in journal.records]
    journal.measure(todo, len(todo), made, "memories")
    with intact(journal.read):
        memories = {name: _counted(journal.records[name]) for name in MEMORIES}
    result = {
        "about": about,
        "set": held_out_set.name,
        "passages": len(held_out_set.examples),
        "memories": memories,
        "definitions": DEFINITIONS,
        "records": [journal.records[name] for name in MEMORIES],
    }
    return Evaluated(journal.finish(result), True)


def table(result: dict[str, Any]) -> str:
    """A result as text."""
    about, memories = result["about"], result["memories"]
    shown = {
        c: t for c, (t, *_) in _COLUMNS.items() if any(m[c] is not None for m in memories.values())
    }
    lines = [
        f"{result['passages']:,} held-out passages ({result['set']}), ratio {about['ratio']}",
        "",
        f"{'memory':10}{'vectors':>9}{'bytes':>9}" + "".join(f"{t:>24}" for t in shown.values()),
    ]
    for name, found in memories.items():
        each = "".join(f"{_shown(found[column]):>24}" for column in shown)
        lines.append(f"{name:10}{found['vectors']:>9.1f}{found['bytes']:>9.0f}{each}")
    lines += [
        "",
        f"vectors, bytes: a passage. {CRAMMED}: {STEPS} steps of Adam a text. 95% intervals over",
        "passages of this one pair. Definitions: in the file, and docs/explanation/recipes.md",
    ]
    return "\n".join(lines)


def _recut(pair: Pair, held_out_set: HeldOut) -> HeldOut:
    """The same passages with contexts in the decoder's tokens, as all but the compressor read
    them: perhaps in more segments."""
    tok, T = pair.dec_tok, held_out_set.cfg.data.segment
    contexts = [[piece.ids for piece in cut(e.text, tok, T)] for e in held_out_set.examples]
    G = max(held_out_set.cfg.data.segments, *map(len, contexts))
    data = dataclasses.replace(held_out_set.cfg.data, segments=G)
    need, most = G * T + 3 + data.target, pair.model.decoder.cfg.max_position_embeddings
    if need > most:
        raise EvalError(
            f"{held_out_set.name}: {G} segments of {T} decoder tokens and a target of "
            f"{data.target} need {need} positions, this decoder has {most} "
            "(max_position_embeddings); give a smaller --limit, or a run whose decoder has more"
        )
    examples = [e._replace(ctx=c) for e, c in zip(held_out_set.examples, contexts, strict=True)]
    return HeldOut(dataclasses.replace(held_out_set.cfg, data=data), held_out_set.name, examples)


def _model(pair: Pair, name: str) -> AutoEncoder:
    if name == OWN:
        return pair.model
    if name == CRAMMED:
        return CrammedPair(pair.model, eos_id=pair.dec_tok.eos_id, steps=STEPS)
    return Baseline(name, pair.model, seed=SEED)


def _measured(pair: Pair, name: str, held_out_set: HeldOut) -> Record:
    """What one memory gives, a list over passages of each number. Needs a mesh."""
    decoder = pair.model.decoder
    writer = nnx.split(_model(pair, name))
    # One reader for all but the pair's own memory, so that it is compiled once.
    reader = writer if name == OWN else nnx.split(Plain(pair.model))
    rows = pair.batch
    if name == CRAMMED:  # whose logits exist at once
        logits = (held_out_set.cfg.data.target + 1) * decoder.cfg.vocab_size
        rows = max(1, min(rows, decode.LOGITS_ELEMENTS // logits))
    size = whole_batch(min(rows, len(held_out_set.examples)), pair.mesh)
    world = world_of(held_out_set.cfg)
    found: list[Record] = []
    for batch, valid in batch_examples(held_out_set.examples, size, held_out_set.cfg):
        put = put_batch(batch, pair.mesh)
        memory = decode.read(*writer, put.ctx_BGT, put.ctx_len_BG, pair.traits.ratio)
        mode_B, tok_BL, len_B = put.mode_BO[:, 0], put.tok_BOL[:, 0], put.tok_len_BO[:, 0]
        forced = decode.forced(*reader, memory, mode_B, tok_BL, len_B)
        free = decode.free(
            *reader, memory, mode_B, jax.random.key(0),
            max_new=tok_BL.shape[1], eos_id=pair.dec_tok.eos_id,
        )  # fmt: skip
        nll_BL, free_BL, seg_BM = on_host((forced.nll_BL, free.tok_BL, memory.seg_BM))
        part = held_out_set.examples[len(found) : len(found) + valid]
        for b, example in enumerate(part):
            found.append(
                {
                    "nats": float(nll_BL[b].sum(dtype=np.float64)),
                    "vectors": int((seg_BM[b] > 0).sum()),
                    **_rebuilt(pair, example, free_BL[b], world),
                }
            )
        width = memory.vec_BMD.shape[-1]
    return {
        "memory": name,
        "bytes_of_a_vector": width * decoder.dtype.itemsize,
        "passages": {key: [one[key] for one in found] for key in found[0]},
    }


def _rebuilt(pair: Pair, example: Example, tok_L: np.ndarray, world: FactWorld | None) -> Record:
    """What became of one passage, free-running, in counts."""
    eos_id = pair.dec_tok.eos_id
    ids, _ = decode.until_end(tok_L, eos_id)
    source_ids, _ = decode.until_end(np.asarray(example.target), eos_id)
    same, length = reconstruction.matches(source_ids, ids)
    out: Record = {"id": example.id, "targets": len(example.target), "same": same, "length": length}
    if world is not None:
        counts = facts.counts(facts.compare(world, example.passage, pair.dec_tok.decode(ids)))
        odd = {o: counts.get(f"nonfavourite/all/{o}", 0) for o in OUTCOMES}
        out |= {"odd": sum(odd.values())} | {o: odd[o] for o in ("preserved", "overwritten")}
    return out


def _counted(row: Record) -> dict[str, Any]:
    """The columns of one memory; of real text no facts are known."""
    passages = row["passages"]
    vectors = float(np.mean(passages["vectors"]))
    columns = {name: _ratio(passages, *parts) for name, (_, *parts) in _COLUMNS.items()}
    return {"vectors": vectors, "bytes": vectors * row["bytes_of_a_vector"], **columns}


def _ratio(passages: Record, top: str, bottom: str) -> dict[str, float | None] | None:
    """A sum over a sum with its interval; None where there is nothing to divide by."""
    if not sum(passages.get(bottom, ())):
        return None
    top_W, bottom_W = (np.asarray(passages[name], float) for name in (top, bottom))
    low, high = ratio_interval(top_W, bottom_W) or (None, None)
    return {"value": float(top_W.sum() / bottom_W.sum()), "low": low, "high": high}


def _shown(found: dict[str, float | None] | None) -> str:
    if found is None:
        return "-"
    value = f"{found['value']:.3f}"
    return value if found["low"] is None else f"{value} [{found['low']:.3f}, {found['high']:.3f}]"


@evaluation(
    "bounds",
    about="the run's memory between no memory and the best there is",
    options=(LIMIT, OUT, RATIO, BATCH),
)
def bounds(request: Request) -> Report:
    out = request.out()
    held_out_set = held_out(request.place, request.limit, **request.moved)
    return request.report(run(request.pair, held_out_set, out, say=request.say), table, out)
