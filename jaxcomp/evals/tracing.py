"""What the decoder expected, with the memory and without, at each word it wrote by itself.

A passage is rebuilt (greedy), its words are attributed (attribution.py), and the decoder is run
along its own tokens twice more: after the memory, and after none (the floor). Where a word of the
source was replaced, the floor is asked which of the two words it finds likelier at that place.
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
from jaxcomp.data.batches import Batch, Example, batch_examples
from jaxcomp.data.tokenizer import Tokenizer, TokenizerError
from jaxcomp.evals import attribution
from jaxcomp.evals.attribution import Attribution, Link, Word
from jaxcomp.inference import decode
from jaxcomp.runtime.sharding import on_host, put_batch, whole_batch


class Expected(NamedTuple):
    """Along given tokens, in nats, one value a token (0 where there is none): ln p of the token, ln
    p of another one in its place, and the entropy of the distribution both are read from."""

    logp_BL: jax.Array
    other_BL: jax.Array
    entropy_BL: jax.Array


class Said(NamedTuple):
    """What was expected of one rebuilt word. Natural logarithms, summed over the word's tokens.

    `entropy` is the largest of its tokens', with the memory. The margins are of a contested word
    (None elsewhere, and where the floor could not be asked): ln p of the first token at which it
    and the source's word part, less ln p of the source's token there; above 0, this word is the
    likelier. `margin` is with the memory, `margin_floor` without.
    """

    entropy: float
    logp: float
    logp_floor: float
    margin: float | None = None
    margin_floor: float | None = None


class Trace(NamedTuple):
    """One passage, rebuilt and accounted for. `said` are of the rebuilt words, in their order.

    `loss` is that of the source (nats/token, TF); `undecided` counts contested words of which the
    floor could not be asked (see `parting`), which are never called overwritten.
    """

    example: Example
    rebuilt: str
    source_words: list[Word]
    rebuilt_words: list[Word]
    labels: Attribution
    said: list[Said]
    loss: float
    undecided: int
    vec_MD: np.ndarray


class Parting(NamedTuple):
    """The first token at which two spellings of a text differ, and the other spelling's token."""

    at: int
    token: int


def trace(
    cfg: Config, model: AutoEncoder, examples: Sequence[Example], dec_tok: Tokenizer
) -> Iterator[Trace]:
    """One `Trace` for each example, in order, in batches of `cfg.eval.batch`. Needs a mesh."""
    graphdef, state = nnx.split(model)
    mesh, at = jax.sharding.get_mesh(), 0
    for batch, valid in batch_examples(examples, whole_batch(cfg.eval.batch, mesh), cfg):
        part, put = examples[at : at + valid], put_batch(batch, mesh)
        memory = decode.read(graphdef, state, put.ctx_BGT, put.ctx_len_BG, cfg.memory.ratio)
        rebuilt = _rebuild(graphdef, state, memory, put, part, dec_tok)
        tok_BL, len_B = rebuilt.rows(batch.tok_BOL[:, 0].shape, dec_tok.eos_id)
        other_BL = tok_BL.copy()
        for b, one in enumerate(rebuilt.aligned):
            for found in one.partings.values():
                other_BL[b, found.at] = found.token
        mine = put_batch((batch.mode_BO[:, 0], tok_BL, other_BL, len_B), mesh)
        asked = [expected(graphdef, state, m, *mine) for m in (memory, decode.no_memory(memory))]
        here, floor = map(on_host, asked)
        vec_BMD, seg_BM = on_host((memory.vec_BMD, memory.seg_BM))
        for b, (example, one) in enumerate(zip(part, rebuilt.aligned, strict=True)):
            labels, said = _told(one, b, here, floor)
            yield Trace(
                example=example,
                rebuilt=one.text,
                source_words=one.source_words,
                rebuilt_words=one.rebuilt_words,
                labels=labels,
                said=said,
                loss=rebuilt.loss[b],
                undecided=len(one.contested) - len(one.partings),
                vec_MD=vec_BMD[b, seg_BM[b] > 0],
            )
        at += valid


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
    """Reads `tok_BL` after the memory; position by position, what was expected of it and of
    `other_BL`. The rows' lengths are `len_B`; with `reconstruction.no_memory`, the floor's."""
    model = nnx.merge(graphdef, state)
    hidden_BLD, valid_BL = decode.after_memory(model, memory, mode_B, tok_BL, len_B)
    parts = decode.read_off(_read_off, model, hidden_BLD, tok_BL, other_BL)
    return Expected(*(jnp.where(valid_BL, p, 0) for p in parts))


def _read_off(
    model: Any, hidden_BLD: jax.Array, tok_BL: jax.Array, other_BL: jax.Array
) -> Expected:
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(hidden_BLD), axis=-1)

    def of(label_BL: jax.Array) -> jax.Array:  # a select, as in reconstruction.forced
        is_label_BLV = jnp.arange(logp_BLV.shape[-1]) == label_BL[:, :, None]
        return jnp.where(is_label_BLV, logp_BLV, 0.0).sum(-1)

    return Expected(of(tok_BL), of(other_BL), -(jnp.exp(logp_BLV) * logp_BLV).sum(-1))


# --- one batch ---------------------------------------------------------------------------------


class _Aligned(NamedTuple):
    """A rebuilt passage before the floor was asked."""

    ids: list[int]  # with the end token where it was said
    text: str
    spans: list[tuple[int, int]]
    source_words: list[Word]
    rebuilt_words: list[Word]
    links: list[Link]
    contested: list[Link]
    partings: dict[Link, Parting]


class _Batch(NamedTuple):
    aligned: list[_Aligned]
    loss: list[float]

    def rows(self, shape: tuple[int, int], pad: int) -> tuple[np.ndarray, np.ndarray]:
        tok_BL, len_B = np.full(shape, pad, np.int32), np.zeros(shape[0], np.int32)
        for b, one in enumerate(self.aligned):
            tok_BL[b, : len(one.ids)], len_B[b] = one.ids, len(one.ids)
        return tok_BL, len_B


def _rebuild(
    graphdef: Any,
    state: Any,
    memory: Memory,
    put: Batch,
    examples: Sequence[Example],
    tok: Tokenizer,
) -> _Batch:
    mode_B, tok_BL = put.mode_BO[:, 0], put.tok_BOL[:, 0]
    forced = decode.forced(graphdef, state, memory, mode_B, tok_BL, put.tok_len_BO[:, 0])
    free = decode.free(
        graphdef, state, memory, mode_B, jax.random.key(0),
        max_new=tok_BL.shape[1], eos_id=tok.eos_id,
    )  # fmt: skip
    nll_BL, said_BL = on_host((forced.nll_BL, free.tok_BL))
    aligned, loss = [], []
    for b, example in enumerate(examples):
        ids, steps = decode.until_end(said_BL[b], tok.eos_id)
        aligned.append(_align(example.text, ids, [tok.eos_id] * (steps - len(ids)), tok))
        loss.append(float(nll_BL[b].sum(dtype=np.float64)) / len(example.target))
    return _Batch(aligned, loss)


def _align(source: str, ids: list[int], end: list[int], tok: Tokenizer) -> _Aligned:
    text = tok.decode(ids)
    source_words, rebuilt_words = attribution.words(source), attribution.words(text)
    before, after = [w.text for w in source_words], [w.text for w in rebuilt_words]
    links = attribution.align(before, after)
    contested = attribution.contested(before, after, links)
    spans, partings = token_spans(tok, ids, text), {}
    for link in contested:
        word, other = rebuilt_words[link.rebuilt], before[link.source]
        found = parting(tok, [*ids, *end], text, spans, word, other)
        # One question a token: of two words that part at the same one, the first is asked about.
        if found is not None and found.at not in {p.at for p in partings.values()}:
            partings[link] = found
    return _Aligned(
        [*ids, *end], text, spans, source_words, rebuilt_words, links, contested, partings
    )


def _told(one: _Aligned, b: int, here: Expected, floor: Expected) -> tuple[Attribution, list[Said]]:
    """The labels of passage `one`, row `b` of the batch, and what was expected of its words."""
    said = []
    for word in one.rebuilt_words:
        mine = tokens_of(word, one.spans)
        said.append(
            Said(
                float(here.entropy_BL[b, mine].max()),
                float(here.logp_BL[b, mine].sum(dtype=np.float64)),
                float(floor.logp_BL[b, mine].sum(dtype=np.float64)),
            )
        )
    preferred = set()
    for link, found in one.partings.items():
        ours, theirs = (_margin(x, b, found.at) for x in (here, floor))
        said[link.rebuilt] = said[link.rebuilt]._replace(margin=ours, margin_floor=theirs)
        if theirs > 0:
            preferred.add(link)
    before, after = ([w.text for w in x] for x in (one.source_words, one.rebuilt_words))
    return attribution.attribute(before, after, one.links, preferred), said


def _margin(found: Expected, b: int, at: int) -> float:
    return float(found.logp_BL[b, at] - found.other_BL[b, at])


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
