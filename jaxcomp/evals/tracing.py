"""Decoder probabilities, with and without the memory, at each word that it generated.

A passage is rebuilt (greedy), its words are attributed (attribution.py), and the decoder is run
along its own tokens twice more: after the memory, and after none (`no_memory`). Where a word of the
source was replaced, that says which of the two words it finds likelier without memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder, Memory
from jaxcomp.config import Config
from jaxcomp.data.batches import Example
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError
from jaxcomp.evals import attribution
from jaxcomp.evals.attribution import Attribution, Link, Word
from jaxcomp.evals.evaluate import Rebuilder
from jaxcomp.inference import decode
from jaxcomp.runtime.sharding import on_host, put_batch


class Expected(NamedTuple):
    """Along given tokens, in nats, one value a token (0 where there is none): ln p of the token, ln
    p of another one in its place, and the entropy of the distribution both are read from."""

    logp_BL: jax.Array
    other_BL: jax.Array
    entropy_BL: jax.Array


class Said(NamedTuple):
    """What was expected of one rebuilt word, in nats, summed over its tokens, with the memory and
    without (`no_memory`).

    `entropy` is the largest of its tokens', with the memory. The margins are of a contested word
    (None elsewhere, and where no one token decides): ln p of the first token at which it and the
    source's word part, less ln p of the source's token there; above 0, this word is the likelier.
    """

    entropy: float
    logp: float
    logp_no_memory: float
    margin: float | None = None
    margin_no_memory: float | None = None


class Trace(NamedTuple):
    """One passage, rebuilt and accounted for. `said` are of the rebuilt words, in their order.

    `loss` is that of the source (nats/token, TF); `unattributed` counts contested words that
    part at no single token (see `parting`), which are never called overwritten.
    """

    example: Example
    rebuilt: str
    source_words: list[Word]
    rebuilt_words: list[Word]
    labels: Attribution
    said: list[Said]
    loss: float
    unattributed: int
    vec_MD: np.ndarray


class Parting(NamedTuple):
    """The first token at which two spellings of a text differ, and the other spelling's token."""

    at: int
    token: int


def trace(
    cfg: Config, model: AutoEncoder, examples: Sequence[Example], dec_tok: Tokenizer
) -> Iterator[Trace]:
    """One `Trace` for each example, in order, in batches of `cfg.eval.batch`. Needs a mesh."""
    pair, mesh = Rebuilder(cfg, model, dec_tok), jax.sharding.get_mesh()
    for part, batch in pair.batches(examples):
        memory = pair.read(batch)
        asked = pair.forced(batch, memory).nll_BL, pair.free(batch, memory).tok_BL
        nll_BL, own_BL = on_host(asked)
        every = [_align(e.text, own_L, dec_tok) for e, own_L in zip(part, own_BL, strict=False)]
        tok_BL = np.full(own_BL.shape, dec_tok.eos_id, np.int32)
        len_B = np.zeros(len(tok_BL), np.int32)
        for b, one in enumerate(every):
            tok_BL[b, : len(one.ids)], len_B[b] = one.ids, len(one.ids)
        other_BL = tok_BL.copy()
        for b, one in enumerate(every):
            for found in one.partings.values():
                other_BL[b, found.at] = found.token
        rows = batch.mode_BO[:, 0], *put_batch((tok_BL, other_BL, len_B), mesh)
        memories = memory, decode.no_memory(memory)
        here, no_memory = (on_host(expected(pair.graphdef, pair.state, m, *rows)) for m in memories)
        vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
        for b, (example, one) in enumerate(zip(part, every, strict=True)):
            labels, said = _accounted(one, b, here, no_memory)
            yield Trace(
                example=example,
                rebuilt=one.text,
                source_words=one.source_words,
                rebuilt_words=one.rebuilt_words,
                labels=labels,
                said=said,
                loss=float(nll_BL[b].sum(dtype=np.float64)) / len(example.target),
                unattributed=one.contested - len(one.partings),
                vec_MD=vec_BMD[b, seg_BM[b] > 0],
            )


@partial(jax.jit, static_argnames=("graphdef",))
def expected(
    graphdef: Any,
    state: Any,
    memory: Memory,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    other_BL: jax.Array,
    len_B: jax.Array,
) -> Expected:
    """Reads `tok_BL`, of lengths `len_B`, after the memory: what was expected of each token, and of
    `other_BL` in its place."""
    model = nnx.merge(graphdef, state)
    hidden_BLD, valid_BL = decode.after_memory(model, memory, mode_B, tok_BL, len_B)
    parts = decode.read_off(_read_off, model, hidden_BLD, tok_BL, other_BL)
    return Expected(*(jnp.where(valid_BL, p, 0) for p in parts))


def _read_off(
    model: Any, hidden_BLD: jax.Array, tok_BL: jax.Array, other_BL: jax.Array
) -> Expected:
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(hidden_BLD), axis=-1)

    def of(label_BL: jax.Array) -> jax.Array:  # a select, as in decode.forced
        is_label_BLV = jnp.arange(logp_BLV.shape[-1]) == label_BL[:, :, None]
        return jnp.where(is_label_BLV, logp_BLV, 0.0).sum(-1)

    return Expected(of(tok_BL), of(other_BL), -(jnp.exp(logp_BLV) * logp_BLV).sum(-1))


class _Aligned(NamedTuple):
    """A rebuilt passage before the decoder without memory was asked about its words."""

    ids: list[int]  # with the end token where it was written
    text: str
    spans: list[tuple[int, int]]
    source_words: list[Word]
    rebuilt_words: list[Word]
    links: list[Link]
    contested: int  # links
    partings: dict[Link, Parting]


def _align(source: str, own_L: np.ndarray, tok: Tokenizer) -> _Aligned:
    ids, steps = decode.until_end(own_L, tok.eos_id)
    text, written = tok.decode(ids), [*ids, *[tok.eos_id] * (steps - len(ids))]
    source_words, rebuilt_words = attribution.words(source), attribution.words(text)
    before, after = [w.text for w in source_words], [w.text for w in rebuilt_words]
    links = attribution.align(before, after)
    contested = attribution.contested(before, after, links)
    spans, partings = token_spans(tok, ids, text), {}
    for link in contested:
        word, other = rebuilt_words[link.rebuilt], before[link.source]
        found = parting(tok, written, text, spans, word, other)
        # One question a token: of two words that part at the same one, the first is asked about.
        if found is not None and found.at not in {p.at for p in partings.values()}:
            partings[link] = found
    words = source_words, rebuilt_words
    return _Aligned(written, text, spans, *words, links, len(contested), partings)


def _accounted(
    one: _Aligned, b: int, here: Expected, no_memory: Expected
) -> tuple[Attribution, list[Said]]:
    """The labels of passage `one`, row `b` of the batch, and what was expected of its words."""
    said = []
    for word in one.rebuilt_words:
        mine = tokens_of(word, one.spans)
        logp = (float(x.logp_BL[b, mine].sum(dtype=np.float64)) for x in (here, no_memory))
        said.append(Said(float(here.entropy_BL[b, mine].max()), *logp))
    preferred = set()
    for link, (at, _) in one.partings.items():
        ours, theirs = (float(x.logp_BL[b, at] - x.other_BL[b, at]) for x in (here, no_memory))
        said[link.rebuilt] = said[link.rebuilt]._replace(margin=ours, margin_no_memory=theirs)
        if theirs > 0:
            preferred.add(link)
    before, after = ([w.text for w in x] for x in (one.source_words, one.rebuilt_words))
    return attribution.attribute(before, after, one.links, preferred), said


# --- tokens and words --------------------------------------------------------------------------


def token_spans(tok: Tokenizer, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of `text` = decode(ids) that each token adds.

    Found by decoding prefixes, since a decoder need not write the tokens that the tokenizer would
    have cut its text into. A token that completes no character (a byte of one) has the character
    that it is a part of; one that is no text (a special token) has an empty range.
    """
    out, at = [], 0
    for k in range(len(ids)):
        said, start = tok.decode(ids[: k + 1]), at
        while at < min(len(said), len(text)) and said[at] == text[at]:
            at += 1
        part = at == start and len(said) > at
        out.append((start, min(at + part, len(text))))
    return out


def tokens_of(word: Word, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The tokens that hold a character of `word`."""
    return [k for k, (start, end) in enumerate(spans) if start < word.end and end > word.start]


def parting(
    tok: Tokenizer,
    ids: Sequence[int],
    text: str,
    spans: Sequence[tuple[int, int]],
    word: Word,
    other: str,
) -> Parting | None:
    """Where the tokens of a rebuilt text would have parted, had `other` stood in place of `word`.

    `ids` are the tokens as they were said, with an end token if one was. None where the two cannot
    be compared at one token of the word: the tokens before it would have been others too, or the
    text cannot be said by this tokenizer.
    """
    mine = tokens_of(word, spans)
    try:
        instead = [*tok.encode(text[: word.start] + other + text[word.end :]), tok.eos_id]
    except TokenizerError:
        return None
    same = next((k for k, (a, b) in enumerate(zip(ids, instead, strict=False)) if a != b), math.inf)
    # One past the word: "car" and "carpet" part at what comes after "car".
    return Parting(int(same), instead[int(same)]) if mine[0] <= same <= mine[-1] + 1 else None
