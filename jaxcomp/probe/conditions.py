"""One question asked three ways: from nothing, from the whole text, from the text's memory.

    nothing   \\nQuestion: ...\\nAnswer:                       closed book
    text      <the text>\\nQuestion: ...\\nAnswer:             as a language model reads it
    memory    <begin> memory <end> <continuing>\\nQuestion: ...\\nAnswer:        as `Pair.ask`

Each is tokenised as one string, and no begin token stands before the first two: no tokenizer here
adds one (docs/real-models.md). The options are scored as what " " and the answer add to the
question's tokens, so they are the same tokens in all three.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxcomp.compress.autoencoder import Prefix
from jaxcomp.data.segments import SegmentError, cut_encoded
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError
from jaxcomp.probe.items import Item, ProbeError
from jaxcomp.probe.scoring import normalise
from jaxcomp.use.pair import QUESTION, Pair, Score

CONDITIONS = ("nothing", "text", "memory")
_MARKERS = 3  # positions beside a memory's own: begin, end and the marker
_TOKENS = 2**14  # most text tokens of a batch: what attention and a cache hold grows with them


class Asked(NamedTuple):
    """An item in tokens. The decoder's, but for `segments`: how many the compressor cuts."""

    item: Item
    tail: str
    tail_ids: list[int]
    text_ids: list[int]  # the context and the tail
    options: tuple[list[int], list[int]]  # the passage's answer and the world's
    segments: int


class Reading(NamedTuple):
    """What the decoder says in one condition: its options' likelihoods, its own answer."""

    options: tuple[Score, Score]  # of the passage's answer and of the world's
    answer: str


def prepare(pair: Pair, items: Sequence[Item], *, max_new: int) -> tuple[list[Asked], Counter[str]]:
    """The items that can be asked in every condition, and how many cannot, by reason."""
    out: list[Asked] = []
    left_out: Counter[str] = Counter()
    for item in items:
        try:
            found = _asked(pair, item, max_new)
        except (TokenizerError, SegmentError):
            found = "a text that a tokenizer cannot say"
        if isinstance(found, str):
            left_out[found] += 1
        else:
            out.append(found)
    return out, left_out


def batches(asked: Sequence[Asked], most: int) -> Iterator[list[Asked]]:
    """All of them, at most `most` at a time and fewer where texts are long; a batch's memories
    have equally many segments, so that few shapes are compiled. Long ones come first: what does
    not fit the machine's memory shows at once."""
    order = sorted(asked, key=lambda a: (-a.segments, -len(a.text_ids), a.item.id))
    start = 0
    while start < len(order):
        first = order[start]
        rows = max(1, min(most, _TOKENS // len(first.text_ids)))
        rows = 1 << (rows.bit_length() - 1) if rows < most else most
        part = [a for a in order[start : start + rows] if a.segments == first.segments]
        yield part
        start += len(part)


def measure(pair: Pair, part: Sequence[Asked], *, max_new: int) -> list[dict[str, Reading]]:
    """Of each item of a batch what the decoder says, by condition. Raises ProbeError where a
    likelihood is not a number: nothing could be read from it."""
    out: list[dict[str, Reading]] = [{} for _ in part]
    for condition, which, prefix in _prefixes(pair, part):
        scores = pair.likelihoods(prefix, [part[i].options for i in which])
        answers = pair.answers(prefix, max_new=max_new)
        for i, (passage, world), answer in zip(which, scores, answers, strict=False):
            if not math.isfinite(passage.nats + world.nats):
                raise ProbeError(
                    f"item {part[i].item.id}: -ln p of its answers from {condition} is "
                    f"{passage.nats} and {world.nats}; are the weights whole?"
                )
            out[i][condition] = Reading((passage, world), answer)
    return out


def room(pair: Pair, tokens_G: Sequence[int]) -> int:
    """The decoder's positions that are left for text after the memory of segments of so many
    compressor tokens; negative where the memory itself does not fit."""
    taken = len(tokens_G) * pair.segment
    if pair.model.compressor.positions == "consecutive":
        taken = sum(-(-tokens // pair.traits.ratio) for tokens in tokens_G)
    return pair.model.decoder.cfg.max_position_embeddings - taken - _MARKERS


def _prefixes(pair: Pair, part: Sequence[Asked]) -> Iterator[tuple[str, list[int], Prefix]]:
    every = list(range(len(part)))
    yield "nothing", every, pair.plain([a.tail_ids for a in part])
    yield "text", every, pair.plain([a.text_ids for a in part])
    memory = pair.compress([a.item.context for a in part])
    for which, prefix in pair.asked(memory, [a.tail for a in part]):
        yield "memory", which, prefix


def _asked(pair: Pair, item: Item, max_new: int) -> Asked | str:
    """The item in tokens, or why it is left out."""
    answers = item.context_answer, item.prior_answer
    plain = [normalise(answer) for answer in answers]
    if plain[0] == plain[1]:
        return "answers that normalise to the same"
    if not all(plain):
        return "an answer that normalises to nothing"
    tok = pair.dec_tok
    tail = QUESTION.format(question=item.question)
    context = tok.respell([item.context])[0]
    tok.encode_exactly([context])
    tail_ids, text_ids = tok.encode_batch([tail, context + tail])
    options = [_added(tok, tail, tail_ids, f" {answer}") for answer in answers]
    if not all(options):
        return "an answer that becomes no token"
    pieces = cut_encoded(context, *pair.comp_tok.encode_with_offsets(context), pair.segment)
    longest = max(max_new, *map(len, options))
    if len(text_ids) + longest > pair.model.decoder.cfg.max_position_embeddings:
        return "a text too long for the decoder"
    if len(tail_ids) + longest > room(pair, [len(piece.ids) for piece in pieces]):
        return "a memory too long for the decoder"
    return Asked(item, tail, tail_ids, text_ids, (options[0], options[1]), len(pieces))


def _added(tok: Tokenizer, text: str, ids: list[int], more: str) -> list[int]:
    """The tokens that `more` adds to those of `text`; by itself it may become others, as a
    Metaspace tokenizer begins every string with a space."""
    joined = tok.encode(text + more)
    if joined[: len(ids)] == ids:
        return joined[len(ids) :]
    return tok.encode(more)
