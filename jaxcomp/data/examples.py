"""Examples before padding: what one document or one world passage gives, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxcomp.config import Config
from jaxcomp.data import segments
from jaxcomp.data.documents import Document, Documents
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import Passage

_AT_ONCE = 1 << 22  # characters tokenised together: while they are, a token takes 450 bytes


class Piece(NamedTuple):
    """One example before padding: a context and what follows it.

    `rebuild` is the context's text in decoder tokens with the end token; `follow` the text after
    it, cut to data.target decoder tokens (with the end token where the text ends within them).
    """

    text: str
    ctx: list[list[int]]  # compressor tokens of each segment, at most T each
    rebuild: list[int]
    follow: list[int]
    passage: Passage | None
    name: str


class Counts(NamedTuple):
    """What one or more blocks hold and what was left out of them."""

    documents: int = 0  # documents or passages looked at
    too_short: int = 0  # documents with fewer than T/2 compressor tokens: left out
    too_long: int = 0  # examples whose context or rebuild target does not fit: left out
    longest: int = 0  # decoder tokens of the longest rebuild target met, fitting or not
    examples: int = 0
    unfollowed: int = 0  # examples with no continuation
    segments: int = 0
    short_segments: int = 0  # segments of fewer than T tokens: padded
    text_bytes: int = 0  # UTF-8 bytes of the contexts
    respelled: int = 0  # documents taken in the decoder's Unicode form (NFC), not in their own

    def __add__(self, other) -> Counts:  # pyright: ignore[reportIncompatibleMethodOverride]
        summed = Counts(*(a + b for a, b in zip(self, other, strict=True)))
        return summed._replace(longest=max(self.longest, other.longest))


def context_words(cfg: Config) -> int:
    """Longest world passage, in words (tokens of the world's tokenizer)."""
    return min(cfg.data.segment * cfg.data.segments, cfg.data.target - 1)


def world_pieces(
    passages: Iterable[Passage], cfg: Config, comp: Tokenizer, dec: Tokenizer
) -> tuple[list[Piece], Counts]:
    """One example a passage. A passage that does not fit is left out whole: cutting it would
    break its slots. With the world's own tokenizer every passage fits by construction."""
    T, G, L = cfg.data.segment, cfg.data.segments, cfg.data.target
    passages = list(passages)
    texts = [p.text for p in passages]
    follows = dec.encode_batch([p.continuation for p in passages])
    rebuilds = dec.encode_exactly(texts)
    if G == 1:
        same = comp.name == dec.name
        contexts = [[ids] for ids in (rebuilds if same else comp.encode_batch(texts))]
    else:
        contexts = [[s.ids for s in segments.cut(t, comp, T)] for t in texts]
    pieces, counts = [], Counts(documents=len(passages))
    for p, ctx, ids, follow in zip(passages, contexts, rebuilds, follows, strict=True):
        follow = [*follow, dec.eos_id][:L] if follow else []
        piece = Piece(p.text, ctx, [*ids, dec.eos_id], follow, p, str(p.id))
        fits = len(ctx) <= G and len(ctx[0]) <= T and len(piece.rebuild) <= L
        counts += _count(piece, fits, T)
        if fits:
            pieces.append(piece)
    return pieces, counts


def text_pieces(
    docs: Documents | Sequence[Document],
    cfg: Config,
    comp: Tokenizer,
    dec: Tokenizer,
    most: int | None = None,
) -> tuple[list[Piece], Counts]:
    """Every document cut into (the first `most`) consecutive examples of G segments, in order.

    The last example of a document may be shorter; one of fewer than T/2 tokens is dropped. An
    example whose rebuild target is longer than data.target is left out and counted. A document
    that the decoder's tokens can only say in another Unicode form (NFC) is taken in that form.
    """
    T, G, L = cfg.data.segment, cfg.data.segments, cfg.data.target
    pieces, items = [], list(docs)
    texts = dec.respell([d.text for d in items])
    respelled = sum(d.text != text for d, text in zip(items, texts, strict=True))
    counts = Counts(documents=len(docs), respelled=respelled)
    for doc, text, (ids, offsets) in zip(items, texts, _encoded(comp, texts), strict=True):
        cut = segments.cut_encoded(text, ids, offsets, T, most and most * G)
        found = [cut[i : i + G] for i in range(0, len(cut), G)]
        found = [f for f in found if 2 * sum(len(s.ids) for s in f) >= T]
        if not found:
            counts += Counts(too_short=1)
            continue
        spans = [(f[0].start, f[-1].end) for f in found]
        rebuilds = dec.encode_exactly([text[a:b] for a, b in spans])
        follows = _follows(text, [b for _, b in spans], dec, L)
        for k, f in enumerate(found):
            (a, b), rebuild = spans[k], [*rebuilds[k], dec.eos_id]
            piece = Piece(text[a:b], [s.ids for s in f], rebuild, follows[k], None, f"{doc.id}:{a}")
            counts += _count(piece, len(rebuild) <= L, T)
            if len(rebuild) <= L:
                pieces.append(piece)
    return pieces, counts


def whole_pieces(
    docs: Documents | Sequence[Document], cfg: Config, comp: Tokenizer, dec: Tokenizer
) -> tuple[list[Piece], Counts]:
    """Every document whole, as one example named by its id, without a continuation: who asks about
    a text must have all of it. One that does not fit is left out and counted, and none is too
    short. Unicode forms are as in `text_pieces`."""
    T, G, L = cfg.data.segment, cfg.data.segments, cfg.data.target
    pieces, items = [], list(docs)
    texts = dec.respell([d.text for d in items])
    respelled = sum(d.text != text for d, text in zip(items, texts, strict=True))
    counts = Counts(documents=len(items), respelled=respelled)
    rebuilds = dec.encode_exactly(texts)
    for doc, text, ids, found in zip(items, texts, rebuilds, _encoded(comp, texts), strict=True):
        ctx = [s.ids for s in segments.cut_encoded(text, *found, T, G + 1)]
        piece = Piece(text, ctx, [*ids, dec.eos_id], [], None, doc.id)
        fits = len(ctx) <= G and len(piece.rebuild) <= L
        counts += _count(piece, fits, T)
        if fits:
            pieces.append(piece)
    return pieces, counts


def _encoded(
    tok: Tokenizer, texts: Sequence[str]
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
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
    reach = 6 * L
    out = []
    for ids, start in zip(
        dec.encode_batch([text[s : s + reach] for s in starts]), starts, strict=True
    ):
        if ids and start + reach >= len(text):
            ids = [*ids, dec.eos_id]
        elif len(ids) <= L:
            ids = ids[:-1]  # the last token may be a word cut in two by `reach`
        out.append(ids[:L])
    return out


def _count(piece: Piece, fits: bool, T: int) -> Counts:
    if not fits:
        return Counts(too_long=1, longest=len(piece.rebuild))
    return Counts(
        longest=len(piece.rebuild),
        examples=1,
        unfollowed=not piece.follow,
        segments=len(piece.ctx),
        short_segments=sum(len(s) < T for s in piece.ctx),
        text_bytes=len(piece.text.encode()),
    )
