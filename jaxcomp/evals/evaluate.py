"""Evaluation of one trained pair on held-out text, as one flat dictionary.

Sets: the controlled world's `ordinary` and `counterfactual` passages, or a real text's `test`
passages and their edits. All go through the same few compiled shapes, in batches of `eval.batch`.
Names of the numbers are `<set>/<metric>`; each file of `evals.metrics` declares its own, and
the metrics page is made of these declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder, Memory
from jaxcomp.config import Config
from jaxcomp.data.batches import Batch, Example, batch_examples
from jaxcomp.data.eval_sets import held_out
from jaxcomp.data.segments import cut
from jaxcomp.data.sources import TEXT_SET, source_of
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.eval_set import EvalSet, Rebuilt, Row, Sureness
from jaxcomp.evals.metric import EDITS, Record, Values, measured
from jaxcomp.evals.metrics import edits, facts, favourites, reconstruction
from jaxcomp.evals.metrics.prior_conflict import contested, rival_of
from jaxcomp.inference import decode
from jaxcomp.runtime import live
from jaxcomp.runtime.sharding import on_host, put_batch, whole_batch


class Evaluation(NamedTuple):
    """`metrics` by flat name; `passages` one JSON-able record each, for the caller to write."""

    metrics: Values
    passages: list[Record]


def evaluate(
    cfg: Config, model: AutoEncoder, comp_tok: Tokenizer, dec_tok: Tokenizer
) -> Evaluation:
    """Measure `model` at `cfg.memory.ratio` on the held-out sets of `cfg.data`. Needs a mesh.

    Raises:
      ConfigError: whatever reading the data raises.
      ValueError: a set without any text.
    """
    pair = Rebuilder(cfg, model, dec_tok)
    metrics: Values = {}
    records: list[Record] = []
    for name in source_of(cfg).measured:
        examples, left_out = held_out(cfg, name, comp_tok, dec_tok)
        rebuilt, samples = pair.rebuild(examples), partial(pair.samples, examples)
        size = model.width * model.decoder.dtype.itemsize
        eval_set = EvalSet(name, cfg, examples, rebuilt, left_out, size, dec_tok, samples)
        metrics |= measured(cfg, name, eval_set)
        records += _records(eval_set)
        if name == TEXT_SET:
            edited = _edits(pair, eval_set, comp_tok)
            metrics |= measured(cfg, EDITS, edited)
            records += edited.records
    return Evaluation(metrics, records)


def rebuild(
    cfg: Config,
    model: AutoEncoder,
    examples: Sequence[Example],
    dec_tok: Tokenizer,
    change: Callable[[Memory], Memory] = lambda memory: memory,
) -> list[Rebuilt]:
    """What `evaluate` knows of each example before it counts; of its memory after `change`. Needs a
    mesh."""
    return Rebuilder(cfg, model, dec_tok, change).rebuild(examples)


class Rebuilder:
    """A trained pair, split once, and the batch functions bound to it."""

    def __init__(
        self,
        cfg: Config,
        model: AutoEncoder,
        dec_tok: Tokenizer,
        change: Callable[[Memory], Memory] = lambda memory: memory,
    ):
        self.cfg, self.tok, self.change = cfg, dec_tok, change
        self.graphdef, self.state = nnx.split(model)

    def rebuild(self, examples: Sequence[Example]) -> list[Rebuilt]:
        return [one for part, put in self.batches(examples) for one in self._rebuilt(part, put)]

    def tokens(self, examples: Sequence[Example], temperature: float = 0.0) -> list[list[int]]:
        """Rebuilt tokens only."""
        out = []
        for seed, (part, batch) in enumerate(self.batches(examples)):
            free = self.free(batch, self.read(batch), temperature, seed)
            tok_BL = on_host(free.tok_BL)[: len(part)]
            out += [decode.until_end(tok_L, self.tok.eos_id)[0] for tok_L in tok_BL]
        return out

    def samples(self, examples: Sequence[Example]) -> list[list[list[int]]]:
        """Token lists of sampled rebuilds of the first passages, by passage."""
        asked = self.cfg.eval
        if asked.samples < 2:
            return []
        repeated = [e for e in examples[: asked.sampled_passages] for _ in range(asked.samples)]
        flat = self.tokens(repeated, asked.temperature)
        return [flat[i : i + asked.samples] for i in range(0, len(flat), asked.samples)]

    def read(self, batch: Batch) -> Memory:
        args = (batch.ctx_BGT, batch.ctx_len_BG, self.cfg.memory.ratio)
        return self.change(decode.read(self.graphdef, self.state, *args))

    def forced(
        self, batch: Batch, memory: Memory, other_BL: jax.Array | None = None
    ) -> decode.Forced:
        args = (batch.mode_BO[:, 0], batch.tok_BOL[:, 0], batch.tok_len_BO[:, 0], other_BL)
        return decode.forced(self.graphdef, self.state, memory, *args)

    def free(self, batch: Batch, memory: Memory, temperature: float = 0.0, seed: int = 0):
        return decode.free(
            self.graphdef, self.state, memory, batch.mode_BO[:, 0], jax.random.key(seed),
            max_new=batch.tok_BOL.shape[2], eos_id=self.tok.eos_id, temperature=temperature,
        )  # fmt: skip

    def batches(self, examples: Sequence[Example]) -> Iterator[tuple[Sequence[Example], Batch]]:
        """Device batches of one shape, with the examples that fill their first rows."""
        at, mesh = 0, jax.sharding.get_mesh()
        size = whole_batch(self.cfg.eval.batch, mesh)
        with live.line("rebuilding", len(examples), "passages") as row:
            for batch, valid in batch_examples(examples, size, self.cfg):
                yield examples[at : at + valid], put_batch(batch, mesh)
                row.done = at = at + valid

    def _rebuilt(self, examples: Sequence[Example], batch: Batch) -> list[Rebuilt]:
        memory = self.read(batch)
        blank = decode.no_memory(memory)
        places, other_BL = self._favourites(examples, batch)
        forced_at = partial(self.forced, other_BL=other_BL)
        # All four are in flight before the first is waited for.
        asked = [f(batch, m) for m in (memory, blank) for f in (forced_at, self.free)]
        forced, free, forced_0, free_0 = map(on_host, asked)
        vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
        out = []
        for b, example in enumerate(examples):
            row, steps = self._row(example, forced, free, b, places[b])
            sure = Sureness(
                float(forced.entropy_BL[b].sum(dtype=np.float64)),
                float(forced.top1_BL[b].sum(dtype=np.float64)),
                row.targets,
                float(free.entropy_BL[b, :steps].sum(dtype=np.float64)),
                float(free.top1_BL[b, :steps].sum(dtype=np.float64)),
                steps,
            )
            no_memory, vec_MD = (
                self._row(example, forced_0, free_0, b, places[b])[0],
                vec_BMD[b, seg_BM[b] > 0],
            )
            tokens = forced.top1_BL[b, : row.targets], forced.correct_BL[b, : row.targets]
            out.append(Rebuilt(row, no_memory, sure, vec_MD, *tokens))
        return out

    def _favourites(
        self, examples: Sequence[Example], batch: Batch
    ) -> tuple[list[list[tuple[int, int] | None]], jax.Array | None]:
        """`favourites.tokens` of each example, and the batch's targets with these tokens in them;
        nothing where the metrics do not ask for it."""
        if not source_of(self.cfg).groups:
            return [[] for _ in examples], None
        places = [favourites.tokens(example, self.tok) for example in examples]
        other_BL = np.array(on_host(batch.tok_BOL))[:, 0]
        for b, found in enumerate(places):
            for at, token in filter(None, found):
                other_BL[b, at] = token
        return places, put_batch(other_BL, jax.sharding.get_mesh())

    def _row(
        self,
        example: Example,
        forced: Any,
        free: Any,
        b: int,
        places: Sequence[tuple[int, int] | None],
    ) -> tuple[Row, int]:
        ids, steps = decode.until_end(free.tok_BL[b], self.tok.eos_id)
        row = Row(
            source=example.text,
            rebuilt=self.tok.decode(ids),
            source_ids=decode.until_end(np.asarray(example.target), self.tok.eos_id)[0],
            rebuilt_ids=ids,
            nll=float(forced.nll_BL[b].sum(dtype=np.float64)),
            correct=int(forced.correct_BL[b].sum()),
            targets=len(example.target),
            favourites=[
                None if place is None else float(np.exp(np.float64(forced.other_BL[b, place[0]])))
                for place in places
            ],
        )
        return row, steps


def _records(eval_set: EvalSet) -> list[Record]:
    out, rival = [], rival_of(eval_set.cfg.world) if eval_set.passages else None
    for example, (row, *_, vec_MD, _, _) in zip(eval_set.examples, eval_set.rebuilt, strict=True):
        same, length = reconstruction.matches(row.source_ids, row.rebuilt_ids)
        record: Record = {
            "set": eval_set.name,
            "id": example.id,
            "text": row.source,
            "rebuilt": row.rebuilt,
            "loss": row.nll / row.targets if row.targets else None,
            "targets": row.targets,
            "tf_correct": row.correct,
            "fr_same": same,
            "fr_length": length,
            "vectors": len(vec_MD),
        }
        if example.passage is not None:
            outcomes = facts.compare(eval_set.world, example.passage, row.rebuilt)
            record["bits"] = example.passage.bits
            record["counts"] = facts.counts(outcomes)
            if row.favourites:
                record["counts"] |= favourites.counts(example.passage, row)
            if rival is not None:
                record["counts"] |= contested(rival, example.passage, row.rebuilt)
            record["facts"] = [_fact(fact_outcome) for fact_outcome in outcomes]
        out.append(record)
    return out


def _fact(found: facts.FactOutcome) -> Record:
    return {name: value for name, value in found._asdict().items() if name != "group" or value}


def _edits(pair: Rebuilder, eval_set: EvalSet, comp_tok: Tokenizer) -> edits.Edited:
    """What became of edited passages of the set."""
    cfg, records = pair.cfg, []
    texts = [e.text for e in eval_set.examples]
    made = edits.make_edits(texts, cfg.eval.edits_per_kind, cfg.data.seed)
    every = [(e, _example(cfg, e.text, comp_tok, pair.tok)) for e in made]
    # An edit can lengthen a full passage; one whose spot no longer fits would be lost unread.
    fitted = [(e, x) for e, x in every if len(x.target) <= cfg.data.target and e.end <= len(x.text)]
    rebuilt = pair.tokens([x for _, x in fitted])
    for (edit, _), ids in zip(fitted, rebuilt, strict=True):
        text, unedited = pair.tok.decode(ids), eval_set.rebuilt[edit.source].row
        control = edits.control_returned(edit, unedited.source, unedited.rebuilt)
        record = {"set": EDITS, **edit._asdict(), "rebuilt": text}
        records.append(record | {"outcome": edits.outcome(edit, text), "control": control})
    return edits.Edited([e.kind for e in made], records)


def _example(cfg: Config, text: str, comp_tok: Tokenizer, dec_tok: Tokenizer) -> Example:
    """As much of `text` as the context holds, as an example to rebuild."""
    pieces = cut(text, comp_tok, cfg.data.segment, cfg.data.segments)
    text = "".join(p.text for p in pieces)
    target = [*dec_tok.encode(text), dec_tok.eos_id]
    return Example("", text, [p.ids for p in pieces], target, [], None)
