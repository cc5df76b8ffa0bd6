"""Everything that is measured of one trained pair on held-out text, as one flat dictionary.

Sets: the controlled world's `ordinary` and `counterfactual` passages, or a real text's `test`
passages and their edits. All go through the same few compiled shapes, in batches of `eval.batch`.
Names of the numbers are `<set>/<metric>`; each file of `evals.metrics` declares its own, and
docs/metrics.md is made of these declarations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder, Memory
from jaxcomp.config import Config, ConfigError
from jaxcomp.data.batches import Batch, Example, batch_examples
from jaxcomp.data.eval_sets import held_out
from jaxcomp.data.segments import cut
from jaxcomp.data.sources import TEXT_SET, source_of
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals import versions
from jaxcomp.evals.held import Held, Rebuilt, Row, Sureness
from jaxcomp.evals.metric import EDITS, Values, measured
from jaxcomp.evals.metrics import edits, reconstruction, slots
from jaxcomp.evals.metrics.prior_conflict import contested, rival_of
from jaxcomp.inference import decode
from jaxcomp.runtime.sharding import on_host, put_batch, whole_batch

VERSION = versions.EVALUATION


class Evaluation(NamedTuple):
    """`metrics` by flat name; `passages` one JSON-able record each, for the caller to write."""

    metrics: Values
    passages: list[dict[str, Any]]


def evaluate(
    cfg: Config, model: AutoEncoder, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> Evaluation:
    """Measure `model` at `cfg.memory.ratio` on the held-out sets of `cfg.data`. Needs a mesh.

    Raises:
      ConfigError: an evaluation field that cannot work; whatever reading the data raises.
      ValueError: a set without any text.
    """
    _check(cfg)
    pair = _Pair(cfg, model, dec_tok)
    metrics: Values = {}
    records: list[dict[str, Any]] = []
    for name in source_of(cfg).measured:
        examples, left_out = held_out(cfg, name, comp_tok, dec_tok)
        held = Held(
            name,
            cfg,
            examples,
            _every(pair, examples),
            left_out,
            pair.vector_bytes,
            dec_tok,
            partial(_samples, pair, examples),
        )
        metrics |= measured(cfg, name, held)
        records += _records(held)
        if name == TEXT_SET:
            found, edited = _edits(pair, held, comp_tok)
            metrics |= measured(cfg, EDITS, found)
            records += edited
    return Evaluation(metrics, records)


def validation_loss(cfg: Config, model: AutoEncoder, examples: Sequence[Example]) -> float:
    """Reconstruction loss (nats/token, teacher-forced, end token included) over `examples`.

    Raises:
      ValueError: no example has a target token.
    """
    graphdef, state = nnx.split(model)
    mesh, nll, count = jax.sharding.get_mesh(), [], 0
    for batch, valid in batch_examples(examples, whole_batch(cfg.eval.batch, mesh), cfg):
        put = put_batch(batch, mesh)
        memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, cfg.memory.ratio)
        forced = decode.forced(
            graphdef, state, memory, put.mode_BO[:, 0], put.tok_BOL[:, 0], put.tok_len_BO[:, 0]
        )
        nll += on_host(forced.nll_BL).astype(np.float64)[:valid].sum(1).tolist()
        count += int(batch.tok_len_BO[:valid, 0].sum())
    if not count:
        raise ValueError(
            f"{len(examples)} validation passages hold no target token; expected at least one "
            "passage (data.val_passages, data.path)"
        )
    return math.fsum(nll) / count


def rebuild(
    cfg: Config,
    model: AutoEncoder,
    examples: Sequence[Example],
    dec_tok: Tokenizer,
    change: Callable[[Memory], Memory] = lambda memory: memory,
) -> list[Rebuilt]:
    """What `evaluate` knows of each example before it counts; of its memory after `change`. Needs a
    mesh."""
    return _every(_Pair(cfg, model, dec_tok, change), examples)


class _Pair:
    """The model split once, and the batch functions bound to it."""

    def __init__(
        self,
        cfg: Config,
        model: AutoEncoder,
        dec_tok: Tokenizer,
        change: Callable[[Memory], Memory] = lambda memory: memory,
    ):
        self.cfg, self.tok, self.change = cfg, dec_tok, change
        self.graphdef, self.state = nnx.split(model)
        self.mesh = jax.sharding.get_mesh()
        self.vector_bytes = model.width * model.decoder.dtype.itemsize

    def read(self, batch: Batch) -> Memory:
        args = (batch.ctx_BGT, batch.ctx_len_BG, self.cfg.memory.ratio)
        return self.change(decode.read(self.graphdef, self.state, *args))

    def forced(self, batch: Batch, memory: Memory) -> decode.Forced:
        args = (batch.mode_BO[:, 0], batch.tok_BOL[:, 0], batch.tok_len_BO[:, 0])
        return decode.forced(self.graphdef, self.state, memory, *args)

    def free(self, batch: Batch, memory: Memory, temperature: float = 0.0, seed: int = 0):
        return decode.free(
            self.graphdef, self.state, memory, batch.mode_BO[:, 0], jax.random.key(seed),
            max_new=batch.tok_BOL.shape[2], eos_id=self.tok.eos_id, temperature=temperature,
        )  # fmt: skip

    def tokens(self, batch: Batch, valid: int, temperature: float, seed: int) -> list[list[int]]:
        """Rebuilt tokens only."""
        out = self.free(batch, self.read(batch), temperature, seed)
        return [decode.until_end(t, self.tok.eos_id)[0] for t in on_host(out)[0][:valid]]

    def rebuild(self, examples: Sequence[Example], batch: Batch) -> list[Rebuilt]:
        memory = self.read(batch)
        blank = decode.no_memory(memory)
        # All four are in flight before the first is waited for.
        asked = [f(batch, m) for m in (memory, blank) for f in (self.forced, self.free)]
        forced, free, forced_0, free_0 = map(on_host, asked)
        vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
        out = []
        for b, example in enumerate(examples):
            row, steps = self._row(example, forced, free, b)
            out.append(
                Rebuilt(
                    row,
                    self._row(example, forced_0, free_0, b)[0],
                    Sureness(
                        float(forced.entropy_BL[b].sum(dtype=np.float64)),
                        float(forced.top1_BL[b].sum(dtype=np.float64)),
                        row.targets,
                        float(free.entropy_BL[b, :steps].sum(dtype=np.float64)),
                        float(free.top1_BL[b, :steps].sum(dtype=np.float64)),
                        steps,
                    ),
                    vec_BMD[b, seg_BM[b] > 0],
                    forced.top1_BL[b, : row.targets],
                    forced.correct_BL[b, : row.targets],
                )
            )
        return out

    def _row(self, example: Example, forced, free, b: int) -> tuple[Row, int]:
        ids, steps = decode.until_end(free.tok_BL[b], self.tok.eos_id)
        row = Row(
            source=example.text,
            rebuilt=self.tok.decode(ids),
            source_ids=decode.until_end(np.asarray(example.target), self.tok.eos_id)[0],
            rebuilt_ids=ids,
            nll=float(forced.nll_BL[b].sum(dtype=np.float64)),
            correct=int(forced.correct_BL[b].sum()),
            targets=len(example.target),
        )
        return row, steps


def _batches(pair: _Pair, examples: Sequence[Example]) -> Iterator[tuple[Sequence[Example], Batch]]:
    """Device batches of one shape, with the examples that fill their first rows."""
    at = 0
    size = whole_batch(pair.cfg.eval.batch, pair.mesh)
    for batch, valid in batch_examples(examples, size, pair.cfg):
        yield examples[at : at + valid], put_batch(batch, pair.mesh)
        at += valid


def _every(pair: _Pair, examples: Sequence[Example]) -> list[Rebuilt]:
    return [found for batch in _batches(pair, examples) for found in pair.rebuild(*batch)]


def _samples(pair: _Pair, examples: Sequence[Example]) -> list[list[list[int]]]:
    """Token lists of sampled rebuilds of the first passages, by passage."""
    times, chosen = pair.cfg.eval.samples, examples[: pair.cfg.eval.sampled_passages]
    if times < 2 or not chosen:
        return []
    repeated = [e for e in chosen for _ in range(times)]
    flat: list[list[int]] = []
    for seed, (part, batch) in enumerate(_batches(pair, repeated)):
        flat += pair.tokens(batch, len(part), pair.cfg.eval.temperature, seed)
    return [flat[i : i + times] for i in range(0, len(flat), times)]


def _records(held: Held) -> list[dict[str, Any]]:
    out, rival = [], rival_of(held.cfg.world) if held.passages else None
    for example, f in zip(held.examples, held.rebuilt, strict=True):
        same, length = reconstruction.matches(f.row.source_ids, f.row.rebuilt_ids)
        record: dict[str, Any] = {
            "set": held.name,
            "id": example.id,
            "text": f.row.source,
            "rebuilt": f.row.rebuilt,
            "loss": f.row.nll / f.row.targets if f.row.targets else None,
            "targets": f.row.targets,
            "tf_correct": f.row.correct,
            "fr_same": same,
            "fr_length": length,
            "vectors": len(f.vec_MD),
        }
        if example.passage is not None:
            fates = slots.fates(held.world, example.passage, f.row.rebuilt)
            record["bits"] = example.passage.bits
            record["counts"] = slots.counts(fates)
            if rival is not None:
                record["counts"] |= contested(rival, example.passage, f.row.rebuilt)
            record["facts"] = [fate._asdict() for fate in fates]
        out.append(record)
    return out


def _edits(
    pair: _Pair, held: Held, comp_tok: Tokenizer
) -> tuple[edits.Edited, list[dict[str, Any]]]:
    """What became of edited passages of the set, and one record an edit."""
    cfg = pair.cfg
    texts = [e.text for e in held.examples]
    made = edits.make_edits(texts, cfg.eval.edits_per_kind, cfg.data.seed)
    every = [(e, _example(cfg, e.text, comp_tok, pair.tok)) for e in made]
    # An edit can lengthen a full passage; one whose spot no longer fits would be lost unread.
    fitted = [(e, x) for e, x in every if len(x.target) <= cfg.data.target and e.end <= len(x.text)]
    asked, edited = [e for e, _ in fitted], [x for _, x in fitted]
    rebuilt: list[str] = []
    for part, batch in _batches(pair, edited):
        rebuilt += map(pair.tok.decode, pair.tokens(batch, len(part), 0.0, 0))
    outcomes = [edits.outcome(e, r) for e, r in zip(asked, rebuilt, strict=True)]
    controls = [
        edits.control_returned(e, texts[e.source], held.rebuilt[e.source].row.rebuilt)
        for e in asked
    ]
    records = [
        {"set": EDITS, **e._asdict(), "rebuilt": r, "outcome": o, "control": c}
        for e, r, o, c in zip(asked, rebuilt, outcomes, controls, strict=True)
    ]
    kinds = [e.kind for e in made], [e.kind for e in asked]
    return edits.Edited(*kinds, outcomes, controls), records


def _example(cfg: Config, text: str, comp_tok: Tokenizer, dec_tok: Tokenizer) -> Example:
    """As much of `text` as the context holds, as an example to rebuild."""
    pieces = cut(text, comp_tok, cfg.data.segment, cfg.data.segments)
    text = "".join(p.text for p in pieces)
    target = [*dec_tok.encode(text), dec_tok.eos_id]
    return Example("", text, [p.ids for p in pieces], target, [], None)


def _check(cfg: Config) -> None:
    if cfg.eval.batch < 1:
        raise ConfigError(f"eval.batch is {cfg.eval.batch}; expected at least 1 passage")
    if cfg.eval.temperature <= 0.0 and cfg.eval.samples > 1:
        raise ConfigError(
            f"eval.temperature is {cfg.eval.temperature}; sampled rebuilds need a temperature "
            "above 0 (or set eval.samples=0)"
        )
