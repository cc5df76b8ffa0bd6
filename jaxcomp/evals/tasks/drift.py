"""Drift on minimal pairs: `jaxcomp eval --task=drift`.

Of each pair two texts: the passage (or one window of it) and its **foil**, the same with one spot
changed ([rules and their precision](../explanation/minimal-pairs.md)). No generation and no judge:
-ln p (nats, TF) of each whole text is the sum over its decoder tokens in four conditions.

- `memory`: given the passage's memory, as its rebuilt text, the end token included. `foil_memory`:
  given the foil's. `no_memory`: no memory, same prompt at the same positions. `plain`: the decoder
  as a language model, from the second token on, no end token.
- **right** (by condition): -ln p of the passage is the smaller. Equal is not right; `ties` counts
  the equal ones from memory. `memory`, `no_memory`, `plain`: right / pairs, with Wilson's 95%
  interval.
- **pair_accuracy**: pairs right from `memory` whose foil is the likelier one from `foil_memory` /
  pairs. A decoder that does not look at the memory gets 0, one that guesses each 25%.
- **mcnemar**: `memory_only` pairs right from memory and not without it, `no_memory_only` the
  reverse, `p` two-sided exact binomial (McNemar's test), not corrected for seven dimensions.
  **against_no_memory**: memory_only / pairs wrong without memory.
- **margin**: -ln p of the foil less that of the passage, nats, mean over pairs, by condition.
- **equal_tokens**: a sum grows with the number of tokens, so a longer foil is disfavoured. `share`:
  pairs whose two texts have equally many decoder tokens / pairs; the rates over those.
- A passage gives at most one pair of a dimension. The intervals of `all` take the pairs of a
  passage together, as questions about one (`overwriting`); its p does not, and is too small.
- **made**: pairs that a rule could make, by dimension. **asked**: those less the ones left out,
  counted by reason.

The result file: `about`, `pairs` (the counts), `dimensions` (each and `all`), `sources` (the same
of each set), `rules` (of each dimension/rule) and `records`, one a pair.

**Question sets** (a file of questions that a language model wrote,
[how to make one](../how-to/measure-drift.md)): by dimension and condition `holds`, `exact` and F1
as for `qa`, intervals over passages.
`unanswerable`: `holds` is the share of answers that are a refusal by rules (`evals.qa.squad`),
which err both ways. `answerable`: all other dimensions; `refused`: of those the share that is a
refusal; `chosen`: of those with options the share of which the right one has the higher mean ln p
per token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from jaxcomp.config import config_hash
from jaxcomp.data.eval_sets import eval_examples
from jaxcomp.data.segments import SegmentError, cut_encoded
from jaxcomp.data.sources import source_of, world_of
from jaxcomp.data.tokenizer import TokenizerError
from jaxcomp.data.world import World
from jaxcomp.evals import versions
from jaxcomp.evals.evaluation import (
    BATCH,
    DATA,
    EXPORT,
    LIMIT,
    OUT,
    RATIO,
    Evaluated,
    Report,
    Request,
    evaluation,
)
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.pairs.minimal_pairs import MinimalPair, Passage, make, windows
from jaxcomp.evals.pairs.rates import rates, table
from jaxcomp.evals.qa import question_answers, question_file, readers
from jaxcomp.evals.qa.ask import about_of
from jaxcomp.evals.qa.conditions import room
from jaxcomp.evals.qa.items import EvalError, NothingToAsk
from jaxcomp.evals.qa.resumable import Journal, Record, Say, check_ids, intact, reasons
from jaxcomp.inference.decode import LOGITS_ELEMENTS
from jaxcomp.inference.load import open_run
from jaxcomp.inference.pair import Pair, Score
from jaxcomp.training.compressor import tokenizers

VERSION = versions.DRIFT


class Ready(NamedTuple):
    """A pair in the decoder's tokens; `segments` are those of its memory."""

    pair: MinimalPair
    true: list[int]
    foil: list[int]
    segments: int


class _Row(BaseModel):
    id: readers.Id
    text: readers.Text


def read(path: Path, limit: int | None = None) -> list[Passage]:
    """The first `limit` passages (None: all) of a .jsonl[.gz] or .parquet file, an {"id", "text"} a
    row. Raises EvalError as `readers.named` and `readers.row_of`."""

    def made(place: str, values: dict[str, Any]) -> list[tuple[str, Passage]]:
        row = readers.row_of(_Row, values, f"{path}: {place}")
        return [(row.id, Passage(row.id, row.text, path.name))]

    return readers.named(path, limit, made)


def passages_of_run(place: Path | str, limit: int | None = None, **moved: str) -> list[Passage]:
    """The first `limit` (None: all) held-out passages of each set of a run, from its own config: of
    the controlled world `ordinary` and `counterfactual`, with their facts; of real text `test`.
    `moved`: where its base models are now (`open_run`).

    Raises ExportError where the folder is no run, DataError where its data are not there,
    EvalError for a limit below 1, NothingToAsk for another world than the controlled one."""
    readers.check_limit(limit)
    cfg, root = open_run(place, **moved)
    world = world_of(cfg)
    if not (world is None or isinstance(world, World)):
        raise NothingToAsk(
            f"data.source = {cfg.data.source!r}: minimal pairs are made of data.source=world and "
            "of real text"
        )
    toks = tokenizers(cfg, root)
    return [
        Passage(f"{name}:{example.id}", example.text, name, example.passage)
        for name in source_of(cfg).measured
        for example in eval_examples(cfg, name, *toks)[:limit]
    ]


def run(
    pair: Pair, passages: Sequence[Passage], out: Path | None = None, *, say: Say | None = None
) -> Evaluated:
    """Makes minimal pairs of the passages and asks of each which text is the likelier one.

    With `out` the result is written there, whole or not at all; stopped, the same call goes on
    after the last batch; finished, it reads the file. Raises EvalError where `out` holds something
    else, no pair can be asked, or a likelihood is not a number.
    """
    texts = config_hash([[p.id, p.text, p.source] for p in passages])
    about = about_of(pair, "drift", VERSION, passages=texts)
    journal = Journal(out, about, say)
    if journal.found is not None:
        return Evaluated(journal.found, False)
    ready, counts = prepare(pair, passages)
    why = reasons(counts["left_out"])
    if not ready:
        raise NothingToAsk(
            f"no minimal pair of {len(passages)} passages can be asked: "
            f"{why or 'no rule found a place in them (they are for English prose)'}"
        )
    if why:
        journal.say(f"left out: {why}")
    todo = [r for r in ready if r.pair.id not in journal.records]
    parts = batches(todo, max(1, pair.batch // 4))
    journal.measure(parts, len(todo), lambda part: measure(pair, part), "pairs")
    records = [journal.records[r.pair.id] for r in ready]
    with intact(journal.read):
        result = {"about": about, "pairs": counts, **rates(records), "records": records}
    return Evaluated(journal.finish(result), True)


def prepare(pair: Pair, passages: Sequence[Passage]) -> tuple[list[Ready], Record]:
    """The pairs that can be asked; passages read, pairs made by dimension, and what was left out,
    by reason."""
    left_out: Counter[str] = Counter()
    check_ids(p.id for p in passages)

    def cut(text: str) -> list[str]:
        try:
            said = pair.dec_tok.respell([text])[0]
            pair.dec_tok.encode_exactly([said])
            return windows(said, pair.comp_tok, pair.segment, pair.traits.segments)
        except (TokenizerError, SegmentError):
            left_out["a passage that a tokenizer cannot say"] += 1
            return []

    made = make(passages, cut)
    ready: list[Ready] = []
    for one in made:
        found = _ready(pair, one)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            ready.append(found)
    by_dimension = Counter(one.dimension for one in made)
    counts = {
        "passages": len(passages),
        "made": {d: by_dimension[d] for d in DIMENSIONS},
        "left_out": dict(left_out),
        "asked": len(ready),
        "trained_segments": pair.traits.segments,
        "beyond_training": sum(r.segments > pair.traits.segments for r in ready),
    }
    return ready, counts


def batches(ready: Sequence[Ready], most: int) -> Iterator[list[Ready]]:
    """All of them, `most` at a time, those of equally many segments together, long ones first:
    what does not fit the machine's memory shows at once."""
    order = sorted(ready, key=lambda r: (-r.segments, -len(r.true), r.pair.id))
    start = 0
    while start < len(order):
        part = [r for r in order[start : start + most] if r.segments == order[start].segments]
        yield part
        start += len(part)


def measure(pair: Pair, part: Sequence[Ready]) -> list[Record]:
    """The records of a batch: -ln p of the true text and of its foil in every condition."""
    texts = [text for r in part for text in (r.pair.text, r.pair.foil)]
    memories = pair.compress(texts)
    # Both texts of a pair follow the same memory in one batch, so what they share cancels.
    n = len(part)
    true = [2 * i for i in range(n) for _ in range(2)]
    foil = [row + 1 for row in true]
    found = {
        "memory": pair.score(memories[true], texts),
        "foil_memory": pair.score(memories[foil], texts),
        "no_memory": pair.score(memories[true], texts, no_memory=True),
        "plain": _plain(pair, part),
    }
    records = []
    for i, r in enumerate(part):
        nats = {name: [s.nats for s in scores[2 * i : 2 * i + 2]] for name, scores in found.items()}
        if not all(math.isfinite(x) for both in nats.values() for x in both):
            raise EvalError(f"pair {r.pair.id}: -ln p is {nats}; are the weights whole?")
        one = r.pair
        records.append(
            {
                "id": one.id, "source": one.source, "dimension": one.dimension, "rule": one.rule,
                "changes": [list(change) for change in one.changes],
                "segments": r.segments, "tokens": [len(r.true), len(r.foil)], "nats": nats,
            }
        )  # fmt: skip
    return records


def _ready(pair: Pair, one: MinimalPair) -> Ready | str:
    """The pair in tokens, or why it is left out."""
    try:
        true, foil = pair.dec_tok.encode_exactly([one.text, one.foil])
        cuts = [
            cut_encoded(text, *pair.comp_tok.encode_with_offsets(text), pair.segment)
            for text in (one.text, one.foil)
        ]
    except (TokenizerError, SegmentError):
        return "a foil that a tokenizer cannot say"
    if len(cuts[0]) != len(cuts[1]):
        return "a foil of more segments or fewer"
    if true[:1] != foil[:1]:
        return "a spot at the first token"
    left = min(room(pair, [len(segment.ids) for segment in cut]) for cut in cuts)
    if max(len(true), len(foil)) + 1 > left:  # the end token
        return "a text too long for the decoder"
    return Ready(one, true, foil, len(cuts[0]))


def _plain(pair: Pair, part: Sequence[Ready]) -> list[Score]:
    """Both texts of every pair after their first token, which they share, to the decoder as a
    language model; no end token."""
    longest = max(max(len(r.true), len(r.foil)) for r in part)
    rows = LOGITS_ELEMENTS // (longest * pair.model.decoder.cfg.vocab_size)
    rows = max(1, min(pair.batch, rows))
    out: list[Score] = []
    for start in range(0, len(part), rows):
        some = part[start : start + rows]
        prefix = pair.plain([r.true[:1] for r in some])
        for both in pair.likelihoods(prefix, [(r.true[1:], r.foil[1:]) for r in some]):
            out += both
    return out


@evaluation(
    "drift",
    about="does a memory prefer its text to a counterfactual edit (docs/how-to/measure-drift.md)?",
    options=(DATA, LIMIT, OUT, EXPORT, RATIO, BATCH),
)
def drift(request: Request) -> Report | None:
    if request.data is not None and question_file.are_questions(request.data):
        if request.export is not None:
            raise EvalError(f"--export does not go with {request.data}, which holds questions")
        found = question_file.read(request.data, request.limit)
        request.say(found.summary())
        made = question_answers.run(request.pair, found.questions, request.out(), say=request.say)
        return request.report(made, question_answers.table, request.out())
    passages = (
        passages_of_run(request.place, request.limit, **request.moved)
        if request.data is None
        else read(request.data, request.limit)
    )
    if request.export is not None:
        count = question_file.export(passages, request.export)
        request.say(f"{count} prompts in {request.export} (docs/how-to/measure-drift.md)")
        return None
    made = run(request.pair, passages, request.out(), say=request.say)
    return request.report(made, table, request.out())
