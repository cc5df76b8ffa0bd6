"""Hard selection: whole sentences of a text that fit its memory's budget.

A memory of K vectors takes the decoder as many places as K tokens of text; so the question is put
to K tokens' worth of sentences too (at least one sentence, whole, in the order of the text).

    lead    the first sentences, until the next one no longer fits
    random  sentences in an order drawn for each item, every next one that still fits
    sage    the same in the order of their relevance to the question (SAGE, 2026), without training

Relevance, after SAGE: attention of a language model (here the pair's own decoder, reading the text
as a language model, not the memory), with the question less the same without it. Assumed here, as
its paper could not be had: the mean over all layers, all heads and all tokens of the tail
(`QUESTION` filled in) of the attention that they pay to a token of the text; "without" is the same
tail with an empty question; a sentence's score is the mean over its tokens of the one less the
mean of the other; units are sentences.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.data.sentences import sentences
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.inference.pair import QUESTION, Pair
from jaxcomp.models.attention_scores import attended
from jaxcomp.runtime.sharding import put_batch, use_mesh

SELECTIONS = ("lead", "random", "sage")
VERSION = 1  # of the definitions: results of another one are not taken over
_STEP = 32  # queries are padded to this, so that few shapes are compiled


class Question(NamedTuple):
    """A question about a text, and how many tokens of the text may be kept."""

    id: str
    context: str
    question: str
    budget: int


class Kept(NamedTuple):
    """The kept sentences as one text; `tokens`: of the text's own, that stand in them."""

    text: str
    tokens: int


class _Sentences(NamedTuple):
    """A text's sentences: they cover it. `counts`: tokens whose last character is in each."""

    text: str
    spans: list[tuple[int, int]]
    counts: list[int]


def parse(given: str | None) -> tuple[str, ...]:
    """What --select names, in the order of SELECTIONS. Raises EvalError for anything else."""
    names = [name.strip() for name in given.split(",")] if given else []
    for name in names:
        if name not in SELECTIONS or names.count(name) > 1:
            raise EvalError(
                f"--select={given}: {name!r} is {'there twice' if name in SELECTIONS else 'none'}; "
                f"expected some of {', '.join(SELECTIONS)}"
            )
    return tuple(name for name in SELECTIONS if name in names)


def select(pair: Pair, name: str, asked: Sequence[Question]) -> list[Kept]:
    """What `name` of SELECTIONS keeps of each text; at most `pair.batch` of them."""
    texts = [_sentences(pair, q.context) for q in asked]
    if name == "sage":
        scores = _relevance(pair, texts, [q.question for q in asked])
        orders = [sorted(range(len(one)), key=lambda i, s=one: (-s[i], i)) for one in scores]
    else:
        orders = [list(range(len(text.spans))) for text in texts]
    if name == "random":
        for order, q in zip(orders, asked, strict=True):
            random.Random(q.id).shuffle(order)
    return [
        _fill(text, order, q.budget, stop=name == "lead")
        for text, order, q in zip(texts, orders, asked, strict=True)
    ]


def _sentences(pair: Pair, context: str) -> _Sentences:
    text = pair.dec_tok.respell([context])[0]
    spans = sentences(text)
    _, offsets = pair.dec_tok.encode_with_offsets(text)
    counts = np.bincount(_places(offsets, spans), minlength=len(spans))
    return _Sentences(text, spans, counts.tolist())


def _places(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """The sentence of each token's last character: its first may be the space before it."""
    last = [max(start, end - 1) for start, end in offsets]
    return np.searchsorted([start for start, _ in spans], last, side="right") - 1


def _fill(text: _Sentences, order: Sequence[int], budget: int, *, stop: bool) -> Kept:
    """Sentences in `order` while they fit; the first in any case."""
    kept, tokens = [order[0]], text.counts[order[0]]
    for i in order[1:]:
        if tokens + text.counts[i] <= budget:
            kept.append(i)
            tokens += text.counts[i]
        elif stop:
            break
    parts = [text.text[slice(*text.spans[i])] for i in sorted(kept)]
    return Kept("".join(parts).rstrip(), tokens)


def _relevance(
    pair: Pair, texts: Sequence[_Sentences], questions: Sequence[str]
) -> list[list[float]]:
    """Of each sentence: attention from the question's tail, less that from the neutral one."""
    with_it, without = (
        _attention(pair, texts, [QUESTION.format(question=q) for q in asked])
        for asked in (questions, [""] * len(texts))
    )
    pairs = zip(with_it, without, strict=True)
    return [[a - b for a, b in zip(*both, strict=True)] for both in pairs]


def _attention(pair: Pair, texts: Sequence[_Sentences], tails: Sequence[str]) -> list[list[float]]:
    """Mean attention that the tail's tokens pay to a token of each sentence."""
    encoded = pair.dec_tok.encode_batch_with_offsets(
        [text.text + tail for text, tail in zip(texts, tails, strict=True)]
    )
    # A token of both (a period and a line break, say) is the text's.
    own = [
        sum(start < len(text.text) for start, _ in offsets)
        for (_, offsets), text in zip(encoded, texts, strict=True)
    ]
    prefix = pair.plain([ids for ids, _ in encoded])
    most = max(len(ids) - n for (ids, _), n in zip(encoded, own, strict=True))
    at_BQ = np.full((prefix.x_BPD.shape[0], -(-most // _STEP) * _STEP), -1, np.int32)
    for b, ((ids, _), n) in enumerate(zip(encoded, own, strict=True)):
        at_BQ[b, : len(ids) - n] = np.arange(n, len(ids))
    with use_mesh(pair.mesh):
        at = put_batch(at_BQ, pair.mesh)
        found = attended(pair.model.decoder, prefix.x_BPD, prefix.pos_BP, prefix.seg_BP, at)
        share_BL = np.asarray(found.share_BL, np.float64)
    out = []
    for b, ((_, offsets), text, n) in enumerate(zip(encoded, texts, own, strict=True)):
        place_L = _places(offsets[:n], text.spans)
        size = len(text.spans)
        total = np.bincount(place_L, share_BL[b, :n], minlength=size)
        out.append((total / np.maximum(np.bincount(place_L, minlength=size), 1)).tolist())
    return out
