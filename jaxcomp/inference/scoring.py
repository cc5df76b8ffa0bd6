"""The frozen decoder on batches of prefixes: likelihoods of continuations, and generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxcomp.compress.autoencoder import AutoEncoder, Prefix
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.inference import decode
from jaxcomp.models.generate import Read, read, resume
from jaxcomp.runtime.sharding import put_batch, use_mesh, whole_batch

_STEP = 32  # lengths are rounded up to this, so that few shapes are compiled
_OPTION_STEP = 8  # the same for the options of an answer, which are a few words
Options = Sequence[Sequence[int]]  # of one row: texts in decoder tokens


class Score(NamedTuple):
    """Teacher-forced likelihood of a text: the sum of -ln p (`nats`) over its decoder `tokens`.

    Example:
        >>> score = jaxcomp.Score(nats=6.0, tokens=4)
        >>> score.nats / score.tokens
        1.5
    """

    nats: float
    tokens: int


class FrozenDecoder:
    """What `Pair` does without a compressor; arguments as of `Pair`."""

    def __init__(self, model: AutoEncoder, dec_tok: Tokenizer, mesh: Mesh, batch: int):
        self.model, self.dec_tok, self.mesh, self.batch = model, dec_tok, mesh, batch
        self._graphdef, self._state = nnx.split(model)

    def plain(self, tokens: Sequence[Sequence[int]]) -> Prefix:
        """At most `batch` rows of decoder tokens as a language model reads them: from position 0,
        without memory, marker or begin token."""
        with use_mesh(self.mesh):
            return decode.plain(self._graphdef, self._state, *self._padded(tokens))

    def answers(self, prefix: Prefix, *, max_new: int = 64, stop: str = "\n") -> list[str]:
        """The greedy continuation of every row, cut as `ask` says; stripped."""
        with use_mesh(self.mesh):
            return self._said(read(self.model.decoder, *prefix, room=max_new), max_new, stop)

    def likelihoods(self, prefix: Prefix, options: Sequence[Options]) -> list[list[Score]]:
        """How likely the decoder finds each of a row's options (decoder tokens; equally many a
        row) right after the row's prefix, without an end token. Rows beyond `options` are fill."""
        with use_mesh(self.mesh):
            found = read(self.model.decoder, *prefix, room=_room(options))
            return self._scored(found, options)

    def judged(
        self, prefix: Prefix, options: Sequence[Options], *, max_new: int = 64, stop: str = "\n"
    ) -> tuple[list[list[Score]], list[str]]:
        """`likelihoods` and `answers`, for which the prefix is read once."""
        with use_mesh(self.mesh):
            found = read(self.model.decoder, *prefix, room=max(max_new, _room(options)))
            return self._scored(found, options), self._said(found, max_new, stop)

    def _said(self, found: Read, max_new: int, stop: str) -> list[str]:
        out = resume(self.model.decoder, found, max_new=max_new, eos_id=self.dec_tok.eos_id)
        texts = [text.strip() for text in self._texts(out)]
        return [text.split(stop)[0].strip() if stop else text for text in texts]

    def _scored(self, found: Read, options: Sequence[Options]) -> list[list[Score]]:
        B, O = found.logits_BV.shape[0], len(options[0])
        flat = [ids for row in options for ids in row]
        tok_NL, len_N = padded(flat, B * O, _OPTION_STEP)
        put = put_batch((tok_NL.reshape(B, O, -1), len_N.reshape(B, O)), self.mesh)
        nll_BOL = decode.likelihoods(self._graphdef, self._state, found, *put)
        nll_BO = np.asarray(nll_BOL, np.float64).sum(2)
        return [
            [Score(float(nats), len(ids)) for nats, ids in zip(nll_O, row, strict=True)]
            for nll_O, row in zip(nll_BO, options, strict=False)
        ]

    def _size(self, rows: int) -> int:
        """Rows of the batch that holds `rows`: a power of two, so that few shapes are compiled."""
        return whole_batch(min(self.batch, 1 << (rows - 1).bit_length()), self.mesh)

    def _padded(self, lists: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
        tok_BL, len_B = padded(lists, self._size(len(lists)), _STEP)
        return put_batch((tok_BL, len_B), self.mesh)

    def _texts(self, out: Any) -> list[str]:
        tok_BL, len_B = np.asarray(out.tok_BL), np.asarray(out.len_B)
        return [self.dec_tok.decode(ids[:n]) for ids, n in zip(tok_BL, len_B, strict=True)]


def padded(lists: Sequence[Sequence[int]], size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of rows as tok_BL, padded at the end to a multiple of `step` (at least one) and
    filled up with empty rows to B = `size`; and their lengths len_B."""
    longest = max([1, *map(len, lists)])
    tok_BL = np.zeros((size, rounded(longest, step)), np.int32)
    len_B = np.zeros(size, np.int32)
    for b, ids in enumerate(lists):
        tok_BL[b, : len(ids)], len_B[b] = ids, len(ids)
    return tok_BL, len_B


def rounded(length: int, step: int = _STEP) -> int:
    """The next multiple of `step`."""
    return -(-length // step) * step


def _room(options: Sequence[Options]) -> int:
    longest = max((len(ids) for row in options for ids in row), default=0)
    return rounded(max(longest, 1), _OPTION_STEP)
