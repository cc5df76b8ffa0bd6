"""One question asked four ways: from nothing, from the whole text, from the text's memory, and
from the text that is rebuilt from that memory.

    nothing   \\nQuestion: ...\\nAnswer:                       closed book
    text      <the text>\\nQuestion: ...\\nAnswer:             as a language model reads it
    memory    <begin> memory <end> <continuing>\\nQuestion: ...\\nAnswer:        as `Pair.ask`
    rebuilt   <the rebuilt text>\\nQuestion: ...\\nAnswer:    what `Pair.reconstruct` gives, as text

Where it is asked for, also from parts of the text within a budget, read like `text` (selection.py).

Each is tokenised as one string, and no begin token stands before a plain text: no tokenizer here
adds one (docs/explanation/real-models.md). The options are scored as what " " and the answer add to
the question's tokens, so they are the same tokens in all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from jaxcomp.compress.autoencoder import Prefix
from jaxcomp.data.segments import SegmentError, cut_encoded
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.evals.qa.selection import (
    SELECTIONS,
    Kept,
    Question,
    budget_of,
    keepers,
    name_of,
    share_of,
)
from jaxcomp.evals.qa.squad import normalise
from jaxcomp.inference.pair import Pair, Score
from jaxcomp.inference.sage import NEUTRAL, Scorer

CONDITIONS = ("nothing", "text", "memory", "rebuilt")
EVERY = (*CONDITIONS, *SELECTIONS)
_MARKERS = 3  # positions beside a memory's own: begin, end and the marker
_TOKENS = 2**14  # most text tokens of a batch: what attention and a cache hold grows with them


class Prepared(NamedTuple):
    """An item in tokens. The decoder's, but for `segments`: how many the compressor cuts."""

    item: Item
    tail: str
    tail_ids: list[int]
    text_ids: list[int]  # the context and the tail
    context_tokens: int
    options: list[list[int]]  # empty where the item has no rivals to its answer
    segments: int
    vectors: int = 0  # of the memory: what a selection may keep, in tokens
    other: str = NEUTRAL  # the least similar other question about the context


class Reading(NamedTuple):
    """What the decoder says in one condition: its options' likelihoods, its own answer. `cut`:
    the text was read only as far as it fits the decoder's positions. `kept`: of a selection, how
    many of the text's tokens."""

    options: tuple[Score, ...]
    answer: str
    cut: bool = False
    kept: int = 0


def prepare(
    pair: Pair, items: Sequence[Item], *, max_new: int
) -> tuple[list[Prepared], Counter[str]]:
    """The items that can be asked in every condition, and how many cannot, by reason."""
    out: list[Prepared] = []
    left_out: Counter[str] = Counter()
    for item in items:
        try:
            found = _prepared(pair, item, max_new)
        except (TokenizerError, SegmentError):
            found = "a text that a tokenizer cannot say"
        if isinstance(found, str):
            left_out[found] += 1
        else:
            out.append(found)
    return out, left_out


def batches(prepared: Sequence[Prepared], most: int) -> Iterator[list[Prepared]]:
    """All of them, at most `most` at a time and fewer where texts are long. Those of equally many
    segments and of about the same length stand together, so that few shapes are compiled, and
    so do questions about one text. Long ones come first: what does not fit the machine's memory
    shows at once."""
    order = sorted(
        prepared, key=lambda a: (-a.segments, -a.context_tokens, a.item.context, a.item.id)
    )
    start = 0
    while start < len(order):
        part = order[start : start + most]
        rows = max(1, _TOKENS // max(len(a.text_ids) for a in part))
        if rows < len(part):
            part = part[: 1 << (rows.bit_length() - 1)]
        yield part
        start += len(part)


def measure(
    pair: Pair,
    part: Sequence[Prepared],
    *,
    max_new: int,
    also: Sequence[str] = (),
    scorer: Scorer | None = None,
    stop: str = "\n",
) -> list[dict[str, Reading]]:
    """Of each item of a batch what the decoder says, by condition: CONDITIONS, and those of
    `selection.parse` in `also`, for which `scorer` is SAGE's. An answer ends before `stop` ("": at
    the end token). Raises EvalError where a likelihood is not a number: nothing could be read from
    it."""
    out: list[dict[str, Reading]] = [{} for _ in part]
    no, none = [False] * len(part), [0] * len(part)

    def read(
        name: str,
        prefix: Prefix,
        which: Sequence[int],
        cut: Sequence[bool] = no,
        kept: Sequence[int] = none,
    ) -> None:
        """`which`: the rows of the batch that `prefix` holds first; the others fill it."""
        scores, answers = _judged(pair, prefix, [part[i].options for i in which], max_new, stop)
        each = zip(which, scores, answers, cut, kept, strict=False)
        for i, options, answer, was_cut, tokens in each:
            if not all(math.isfinite(score.nats) for score in options):
                found = " and ".join(str(score.nats) for score in options)
                raise EvalError(
                    f"item {part[i].item.id}: -ln p of its answers from {name} is {found}; are "
                    "the weights whole?"
                )
            out[i][name] = Reading(options, answer, was_cut, tokens)

    every = range(len(part))
    read("nothing", pair.plain([a.tail_ids for a in part]), every)
    read("text", pair.plain([a.text_ids for a in part]), every)
    contexts = list(dict.fromkeys(a.item.context for a in part))
    memory, each = pair.compress(contexts), [contexts.index(a.item.context) for a in part]
    for which, prefix in pair.asked(memory[each], [a.tail for a in part]):
        read("memory", prefix, which)
    rebuilt = pair.reconstruct(memory)
    texts = {"rebuilt": [Kept(rebuilt[i], 0) for i in each]}
    asked = [Question(a.item.id, a.item.context, a.item.question, a.other) for a in part]
    keeps = keepers(pair, dict.fromkeys(map(name_of, also)), asked, scorer)
    for name in also:
        each_keep = zip(keeps[name_of(name)], part, strict=True)
        texts[name] = [k(budget_of(name, a.vectors, a.context_tokens)) for k, a in each_keep]
    for name, kept in texts.items():
        fitted = [_fitting(pair, k.text, a, max_new) for k, a in zip(kept, part, strict=True)]
        ids, cut = zip(*fitted, strict=True)
        read(name, pair.plain(ids), every, cut, [k.tokens for k in kept])
    return out


def in_order(found: Collection[str]) -> list[str]:
    """The conditions among `found`, in the order of a table."""
    known = [name for name in found if name_of(name) in EVERY]
    return sorted(known, key=lambda name: (EVERY.index(name_of(name)), share_of(name)))


def room(pair: Pair, tokens_G: Sequence[int]) -> int:
    """The decoder's positions that are left for text after the memory of segments of so many
    compressor tokens; negative where the memory itself does not fit."""
    taken = max(len(tokens_G), pair.traits.segments) * pair.segment
    if pair.model.compressor.positions == "consecutive":
        taken = sum(-(-tokens // pair.traits.ratio) for tokens in tokens_G)
    return pair.model.decoder.cfg.max_position_embeddings - taken - _MARKERS


def _judged(
    pair: Pair, prefix: Prefix, options: Sequence[list[list[int]]], max_new: int, stop: str = "\n"
) -> tuple[list[tuple[Score, ...]], list[str]]:
    """Likelihoods of each row's options, of which rows may have unequally many, and its answer."""
    most = max(map(len, options))
    if not most:
        return [()] * len(options), pair.answers(prefix, max_new=max_new, stop=stop)
    filled = [row + [[]] * (most - len(row)) for row in options]
    found, answers = pair.judged(prefix, filled, max_new=max_new, stop=stop)
    each = zip(found, options, strict=True)
    return [tuple(scores[: len(row)]) for scores, row in each], answers


def _fitting(pair: Pair, text: str, prepared: Prepared, max_new: int) -> tuple[list[int], bool]:
    """The tokens of a rebuilt text and the question, and whether some of the text is left out:
    its end, as it may be longer than its source, which fits; all of it, if the decoder wrote what
    its tokenizer cannot say."""
    tok, cut = pair.dec_tok, False
    most = pair.model.decoder.cfg.max_position_embeddings - max(
        max_new, *map(len, prepared.options), 0
    )
    try:
        ids = tok.encode(text + prepared.tail)
        while len(ids) > most and text:
            spans = tok.encode_with_offsets(text)[1]
            first = max(0, len(spans) - (len(ids) - most))  # of the tokens that go
            text, cut = text[: min(spans[first][0], len(text) - 1)], True
            ids = tok.encode(text + prepared.tail)
    except TokenizerError:
        return prepared.tail_ids, True
    return ids, cut


def _prepared(pair: Pair, item: Item, max_new: int) -> Prepared | str:
    """The item in tokens, or why it is left out."""
    why = _ambiguous(item)
    if why:
        return why
    tok = pair.dec_tok
    tail = item.tail
    context = tok.respell([item.context])[0]
    context_tokens = len(tok.encode_exactly([context])[0])
    tail_ids, text_ids = tok.encode_batch([tail, context + tail])
    rivals = item.options if len(item.options) > 1 else ()
    options = [_added(tok, tail, tail_ids, f" {answer}") for answer in rivals]
    if not all(options):
        return "an answer that becomes no token"
    pieces = cut_encoded(context, *pair.comp_tok.encode_with_offsets(context), pair.segment)
    longest = max(max_new, *map(len, options), 0)
    if len(text_ids) + longest > pair.model.decoder.cfg.max_position_embeddings:
        return "a text too long for the decoder"
    if len(tail_ids) + longest > room(pair, [len(piece.ids) for piece in pieces]):
        return "a memory too long for the decoder"
    vectors = sum(-(-len(piece.ids) // pair.traits.ratio) for piece in pieces)
    return Prepared(item, tail, tail_ids, text_ids, context_tokens, options, len(pieces), vectors)


def _ambiguous(item: Item) -> str:
    """Why its answers cannot be distinguished, if they cannot."""
    if not item.answers:
        return "no answer"
    if len(item.options) < 2:
        return ""
    sides = [set(map(normalise, side)) for side in (item.answers, item.world)]
    options = [normalise(option) for option in item.options]
    if not all(options):
        return "an answer that normalises to nothing"
    if len(set(options)) < len(options) or sides[0] & (sides[1] | set(options[1:])):
        return "answers that normalise to the same"
    return ""


def _added(tok: Tokenizer, text: str, ids: list[int], more: str) -> list[int]:
    """The tokens that `more` adds to those of `text`; by itself it may become others, as a
    Metaspace tokenizer begins every string with a space."""
    joined = tok.encode(text + more)
    if joined[: len(ids)] == ids:
        return joined[len(ids) :]
    return tok.encode(more)
