"""Hard selection: what a text is reduced to within a budget of decoder tokens.

A memory of K vectors takes as many positions of the decoder as K tokens of text. So questions are
also answered from parts of the text, at the memory's budget and at shares of the text:

    sage, sage-baseline, sage-raw   windows by SAGE (inference/sage.py): its variants `farthest`
                                    (of the questions in the file about one text), `baseline`, `raw`
    lead    the first sentences, until the next one no longer fits
    random  sentences in an order drawn for each item, every next one that still fits
    bm25    the same in the order of their BM25 score (k1 = 1.5, b = 0.75) for the question's words,
            in lower case; document frequencies are those of the text's sentences
    attention-sentences   the same in the order of the decoder's mean attention from the question

Of sentences at least one is kept, whole. Their budget is counted in the decoder's tokens; SAGE's is
the same share of the scorer's tokens. Attention of `attention-sentences`: the mean over all layers,
heads and tokens of the tail (`QUESTION` filled in) of what a sentence's tokens get, less that from
an empty question.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxcomp.data.sentences import sentences
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.inference.pair import QUESTION, Pair
from jaxcomp.inference.sage import NEUTRAL, Scorer, contrasts, differences
from jaxcomp.inference.selecting import joined_text, sentence_of
from jaxcomp.inference.windows import SelectError, check_share, keep, tokens_of
from jaxcomp.models.attention_scores import attended
from jaxcomp.runtime.sharding import put_batch, use_mesh

SAGE = ("sage", "sage-raw", "sage-baseline")
SELECTIONS = (*SAGE, "lead", "random", "bm25", "attention-sentences")
BUDGETS = ("memory", "0.05", "0.1", "0.2", "0.4")
VERSION = 2  # of the definitions: results of another one are not taken over
_STEP = 32  # queries are padded to this, so that few shapes are compiled


class Question(NamedTuple):
    """A question about a text; `other`: the least similar other one about it, if there is one."""

    id: str
    context: str
    question: str
    other: str = NEUTRAL


class Kept(NamedTuple):
    """What is kept as one text; `tokens`: the decoder's, in it."""

    text: str
    tokens: int


Keep = Callable[[int], Kept]  # what is kept within a budget of decoder tokens


class _Sentences(NamedTuple):
    """A text's sentences: they cover it. `counts`: tokens whose last character is in each."""

    text: str
    spans: list[tuple[int, int]]
    counts: list[int]


def parse(given: str | None, budgets: str | None = None) -> tuple[str, ...]:
    """Return the conditions that --select and --budgets name: "lead" at the memory's budget,
    "lead 5%" at a share of the text. Raises EvalError for anything else."""
    names = [name.strip() for name in given.split(",")] if given else []
    for name in names:
        if name not in SELECTIONS or names.count(name) > 1:
            raise EvalError(
                f"--select={given}: {name!r} is {'there twice' if name in SELECTIONS else 'none'}; "
                f"expected some of {', '.join(SELECTIONS)}"
            )
    if budgets is not None and not names:
        raise EvalError("--budgets goes with --select")
    marks = []
    for budget in BUDGETS if budgets is None else budgets.split(","):
        memory = budget.strip() == "memory"
        try:
            share = 0.0 if memory else float(budget)
            if not memory:
                check_share(share)
        except (ValueError, SelectError) as error:
            raise EvalError(
                f"--budgets={budgets}: {budget!r}; expected shares of the text, above 0 and at "
                "most 1, or `memory`"
            ) from error
        marks.append(f" {100 * share:g}%" if share else "")
    return tuple(f"{n}{mark}" for n in SELECTIONS if n in names for mark in dict.fromkeys(marks))


def name_of(condition: str) -> str:
    """The entry of SELECTIONS of a condition."""
    return condition.partition(" ")[0]


def share_of(condition: str) -> float:
    """The share of the text that a condition may keep; 0: as many tokens as vectors."""
    return float(condition.partition(" ")[2].rstrip("%") or 0) / 100


def budget_of(condition: str, vectors: int, tokens: int) -> int:
    """Tokens that a condition may keep of a text of `tokens` whose memory has so many vectors."""
    share = share_of(condition)
    return tokens_of(share, tokens) if share else vectors


def least_similar(items: Sequence[Question]) -> dict[str, str]:
    """By id the least similar other question about the same text; NEUTRAL where there is none."""
    by_text: dict[str, list[Question]] = {}
    for item in items:
        by_text.setdefault(item.context, []).append(item)
    return {
        item.id: other
        for some in by_text.values()
        for item, other in zip(
            some, contrasts("farthest", [one.question for one in some]), strict=True
        )
    }


def keepers(
    pair: Pair, names: Collection[str], asked: Sequence[Question], scorer: Scorer | None = None
) -> dict[str, list[Keep]]:
    """By name of SELECTIONS, of each question what is kept of its text within a budget.

    Args:
      pair: whose decoder reads what is kept.
      names: of SELECTIONS.
      asked: at most `pair.batch` questions.
      scorer: SAGE's; None: the pair's decoder.
    """
    found: dict[str, list[Keep]] = {}
    if sage := [name for name in names if name in SAGE]:
        scorer = scorer or Scorer(pair.model.decoder, pair.dec_tok, pair.mesh)
        found |= _by_sage(pair, scorer, sage, asked)
    texts = [_sentences(pair, q.context) for q in asked]
    for name in names:
        if name not in SAGE:
            orders = _orders(pair, name, texts, asked)
            found[name] = [
                partial(_fill, text, order, stop=name == "lead")
                for text, order in zip(texts, orders, strict=True)
            ]
    return found


def _by_sage(
    pair: Pair, scorer: Scorer, names: Sequence[str], asked: Sequence[Question]
) -> dict[str, list[Keep]]:
    """Each text is read once for all of its questions and variants."""
    found: dict[str, list[Keep]] = {name: [] for name in names}
    scored = {}
    for context in dict.fromkeys(q.context for q in asked):
        about = [q for q in asked if q.context == context]
        wanted = {(q.question, _minus(name, q)) for q in about for name in names}
        pairs = sorted(wanted)
        text = pair.dec_tok.respell([context])[0]
        offsets, score_QW = differences(scorer, text, pairs)
        scored[context] = text, offsets, dict(zip(pairs, score_QW, strict=True))
    sizes = {c: len(pair.dec_tok.encode(text)) for c, (text, *_) in scored.items()}
    for q in asked:
        text, offsets, score_of = scored[q.context]
        for name in names:
            score_W = score_of[q.question, _minus(name, q)]
            found[name].append(partial(_windows, pair, text, offsets, score_W, sizes[q.context]))
    return found


def _minus(name: str, q: Question) -> str:
    return {"sage": q.other, "sage-baseline": NEUTRAL, "sage-raw": ""}[name]


def _windows(
    pair: Pair,
    text: str,
    offsets: Sequence[tuple[int, int]],
    score_W: np.ndarray,
    size: int,
    budget: int,
) -> Kept:
    """`budget` of the text's `size` decoder tokens, as the same share of the scorer's W. Spans are
    joined by spaces, which most tokenizers count with the next word."""
    spans = keep(score_W, tokens_of(budget / size, len(offsets)))
    kept = joined_text(text, offsets, spans, between=" ")
    return Kept(kept, len(pair.dec_tok.encode(kept)))


def _orders(
    pair: Pair, name: str, texts: Sequence[_Sentences], asked: Sequence[Question]
) -> list[list[int]]:
    """The sentences of each text, in the order in which `name` takes them."""
    if name == "bm25":
        scores = [_bm25(text, q.question) for text, q in zip(texts, asked, strict=True)]
    elif name == "attention-sentences":
        scores = _relevance(pair, texts, [q.question for q in asked])
    else:
        scores = [[0.0] * len(text.spans) for text in texts]
    orders = [sorted(range(len(one)), key=lambda i, s=one: (-s[i], i)) for one in scores]
    if name == "random":
        for order, q in zip(orders, asked, strict=True):
            random.Random(q.id).shuffle(order)
    return orders


def _bm25(text: _Sentences, question: str) -> list[float]:
    """Of each sentence: Okapi BM25 (Robertson and Zaragoza 2009), idf ln(1 + (n - f + .5) / (f +
    .5))."""
    words = [Counter(re.findall(r"\w+", text.text[a:b].lower())) for a, b in text.spans]
    n, mean = len(words), sum(map(Counter.total, words)) / len(words) or 1.0
    out = []
    for one in words:
        score, size = 0.0, 0.25 + 0.75 * one.total() / mean
        for word in set(re.findall(r"\w+", question.lower())) & one.keys():
            f = sum(word in other for other in words)
            idf = math.log(1 + (n - f + 0.5) / (f + 0.5))
            score += idf * one[word] * 2.5 / (one[word] + 1.5 * size)
        out.append(score)
    return out


def _sentences(pair: Pair, context: str) -> _Sentences:
    text = pair.dec_tok.respell([context])[0]
    spans = sentences(text)
    _, offsets = pair.dec_tok.encode_with_offsets(text)
    counts = np.bincount(sentence_of(offsets, spans), minlength=len(spans))
    return _Sentences(text, spans, counts.tolist())


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
        place_L = sentence_of(offsets[:n], text.spans)
        size = len(text.spans)
        total = np.bincount(place_L, share_BL[b, :n], minlength=size)
        out.append((total / np.maximum(np.bincount(place_L, minlength=size), 1)).tolist())
    return out
