"""Examples before padding, from one document or one world passage, and counts of those left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxcomp.config import Config
from jaxcomp.data import segments
from jaxcomp.data.documents import Document, Documents
from jaxcomp.data.draw import Passage
from jaxcomp.data.tokenizer import Encoded, Tokenizer

_AT_ONCE = 1 << 22  # characters tokenised together: while they are, a token takes 450 bytes


class Example(NamedTuple):
    """A context and what follows it.

    `ctx` are compressor tokens of each segment, at most T each; `target` is the context's text in
    decoder tokens with the end token; `continuation` the text after it, cut to data.target decoder
    tokens (with the end token where the text ends within them).
    """

    id: str
    text: str
    ctx: list[list[int]]
    target: list[int]
    continuation: list[int]
    passage: Any = None  # world.Passage, or None for real text


class Counts(NamedTuple):
    """What one or more blocks hold and what was left out of them."""

    documents: int = 0  # documents or passages looked at
    too_short: int = 0  # documents with fewer than T/2 compressor tokens: left out
    too_long: int = 0  # examples whose context or target does not fit: left out
    longest: int = 0  # decoder tokens of the longest target or question met, fitting or not
    examples: int = 0
    unfollowed: int = 0  # examples with no continuation
    segments: int = 0
    short_segments: int = 0  # segments of fewer than T tokens: padded
    text_bytes: int = 0  # UTF-8 bytes of the contexts
    respelled: int = 0  # documents taken in the decoder's Unicode form (NFC), not in their own
    questions: int = 0
    long_questions: int = 0  # longer than data.target with their answer: left out
    empty_answers: int = 0  # answers that become no token: left out

    def __add__(self, other) -> Counts:  # pyright: ignore[reportIncompatibleMethodOverride]  (sums)
        summed = Counts(*(a + b for a, b in zip(self, other, strict=True)))
        return summed._replace(longest=max(self.longest, other.longest))


Found = tuple[list[Example], Counts]


def world_examples(
    passages: Sequence[Passage], cfg: Config, comp: Tokenizer, dec: Tokenizer
) -> Found:
    """One example a passage. A passage that does not fit is left out whole: cutting it would
    break its facts. With the world's own tokenizer every passage fits by construction."""
    T, L = cfg.data.segment, cfg.data.target
    texts = [p.text for p in passages]
    follows = dec.encode_batch([p.continuation for p in passages])
    targets = dec.encode_exactly(texts)
    if cfg.data.segments > 1:
        contexts = [[s.ids for s in segments.cut(t, comp, T)] for t in texts]
    else:
        contexts = [[i] for i in (targets if comp.name == dec.name else comp.encode_batch(texts))]
    examples, counts = [], Counts(documents=len(passages))
    for p, ctx, ids, follow in zip(passages, contexts, targets, follows, strict=True):
        follow = [*follow, dec.eos_id][:L] if follow else []
        counts += _take(
            examples, Example(str(p.id), p.text, ctx, [*ids, dec.eos_id], follow, p), cfg
        )
    return examples, counts


def text_examples(
    docs: Documents | Sequence[Document],
    cfg: Config,
    comp: Tokenizer,
    dec: Tokenizer,
    *,
    whole: bool = False,
    most: int | None = None,
) -> Found:
    """Every document cut into (the first `most`) consecutive examples of G segments, in order.

    The last example of a document may be shorter; one of fewer than T/2 tokens is dropped. `whole`:
    a document is one example instead, named by its id, without a continuation, and none is too
    short: who asks about a text must have all of it. An example that does not fit is left out and
    counted. A document that the decoder's tokens can only say in another Unicode form (NFC) is
    taken in that form.
    """
    T, G = cfg.data.segment, cfg.data.segments
    examples, items = [], list(docs)
    texts = dec.respell([d.text for d in items])
    respelled = sum(d.text != text for d, text in zip(items, texts, strict=True))
    counts = Counts(documents=len(items), respelled=respelled)
    for doc, text, (ids, offsets) in zip(items, texts, _encoded(comp, texts), strict=True):
        if whole:
            groups = [segments.cut_encoded(text, ids, offsets, T, G + 1)]
            spans, follows = [(0, len(text))], [[]]
        else:
            cut = segments.cut_encoded(text, ids, offsets, T, most and most * G)
            groups = [cut[i : i + G] for i in range(0, len(cut), G)]
            groups = [g for g in groups if 2 * sum(len(s.ids) for s in g) >= T]
            counts += Counts(too_short=not groups)
            spans = [(g[0].start, g[-1].end) for g in groups]
            follows = _follows(text, [end for _, end in spans], dec, cfg.data.target)
        targets = dec.encode_exactly([text[a:b] for a, b in spans])
        for group, (a, b), target, follow in zip(groups, spans, targets, follows, strict=True):
            name = doc.id if whole else f"{doc.id}:{a}"
            ctx = [s.ids for s in group]
            counts += _take(
                examples, Example(name, text[a:b], ctx, [*target, dec.eos_id], follow), cfg
            )
    return examples, counts


def _encoded(tok: Tokenizer, texts: Sequence[str]) -> Iterator[Encoded]:
    """`encode_batch_with_offsets`, for books too: not all of them at once."""
    start = 0
    while start < len(texts):
        stop, size = start + 1, len(texts[start])
        while stop < len(texts) and size + len(texts[stop]) <= _AT_ONCE:
            size += len(texts[stop])
            stop += 1
        yield from tok.encode_batch_with_offsets(texts[start:stop])
        start = stop


def _follows(text: str, starts: list[int], dec: Tokenizer, L: int) -> list[list[int]]:
    # More characters than L tokens usually take, so that `reach` seldom ends a continuation.
    reach, out = 6 * L, []
    rows = dec.encode_batch([text[s : s + reach] for s in starts])
    for ids, start in zip(rows, starts, strict=True):
        if ids and start + reach >= len(text):
            ids = [*ids, dec.eos_id]
        elif len(ids) <= L:
            ids = ids[:-1]  # the last token may be a word cut in two by `reach`
        out.append(ids[:L])
    return out


def _take(examples: list[Example], found: Example, cfg: Config) -> Counts:
    """Append an example if it fits; its counts."""
    T = cfg.data.segment
    fits = len(found.ctx) <= cfg.data.segments and len(found.target) <= cfg.data.target
    if not fits or any(len(ids) > T for ids in found.ctx):
        return Counts(too_long=1, longest=len(found.target))
    examples.append(found)
    return Counts(
        longest=len(found.target),
        examples=1,
        unfollowed=not found.continuation,
        segments=len(found.ctx),
        short_segments=sum(len(ids) < T for ids in found.ctx),
        text_bytes=len(found.text.encode()),
    )
