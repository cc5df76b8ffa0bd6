"""SAGE's token scores (arXiv 2604.15583): the attention of a question to each token of a text.

A scorer, any language model, reads the text in chunks:

    Context: <at most 2,000 tokens of the text>\\n     keys and values computed once
    Question: <a question>\\nAnswer:                   the tail, once for each question

Raw score of a token: attention from the tail, summed over all layers, heads and tail tokens,
divided by the number of tail tokens, times the length of its chunk / that of the longest one. Other
variants subtract the raw score of another question:

    raw        nothing
    baseline   of "Please repeat the context."
    farthest   of the least similar other question about the text; without one as `baseline`

Assumed, as the paper's code leaves it open here: parts of the prompt are tokenised one by one, and
the line break after the chunk is no part of the tail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxcomp.config import Config
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.inference.scoring import padded, rounded
from jaxcomp.inference.windows import SelectError
from jaxcomp.models import hf
from jaxcomp.models.attention_scores import places, read_rows, tail_attention
from jaxcomp.models.hub import folder_of
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh, whole_batch
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import weights_identity
from jaxcomp.training.pretrained import tokenizer_of

VARIANTS = ("farthest", "baseline", "raw")
NEUTRAL = "Please repeat the context."
CHUNK = 2000  # most tokens of a chunk
_BEFORE, _AFTER, _TAIL = "Context: ", "\n", "Question: {question}\nAnswer:"
_CHUNK_STEP, _TAIL_STEP = 256, 32  # lengths are rounded up to these, so that few shapes compile
Seen = Callable[[int, int], None]  # (tokens scored, tokens in all)


class Scored(NamedTuple):
    """offsets: the characters [start, end) of each of the text's W tokens. score_QW: a row for each
    question, float64."""

    offsets: list[tuple[int, int]]
    score_QW: np.ndarray


class Scorer:
    """A language model that scores the tokens of texts.

    Args:
        model: the model, on `mesh`.
        tok: its tokenizer.
        mesh: where it lies.
        identity: what names its weights, for result files.
        chunk: most tokens of the text that it reads at once.
    """

    def __init__(
        self, model: Transformer, tok: Tokenizer, mesh: Mesh, identity: Any = None,
        chunk: int = CHUNK,
    ):  # fmt: skip
        self.model, self.tok, self.mesh = model, tok, mesh
        self.identity, self.chunk = identity, chunk
        self._graphdef, self._state = nnx.split(model)

    def scores(self, text: str, questions: Sequence[str], seen: Seen | None = None) -> Scored:
        """Raw scores of every token for every question.

        Raises:
          SelectError: a question is longer than a chunk, or than the scorer's positions allow.
          TokenizerError: the scorer's tokenizer has no token for a character.
        """
        ids, offsets = self.tok.encode_with_offsets(text)
        tails = [self.tok.encode(_TAIL.format(question=q)) for q in questions]
        before, after = self.tok.encode_batch([_BEFORE, _AFTER])
        room = self._room(questions, tails, len(before) + len(after))
        chunks = [ids[at : at + room] for at in range(0, len(ids), room)]
        score_QW = np.zeros((len(tails), len(ids)))
        rows, at = whole_batch(1, self.mesh), 0
        for start in range(0, len(chunks), rows):
            part = chunks[start : start + rows]
            found_QBS = self._of_chunks([[*before, *chunk, *after] for chunk in part], tails)
            for b, chunk in enumerate(part):
                n = len(chunk)
                own_QT = found_QBS[:, b, len(before) : len(before) + n]
                score_QW[:, at : at + n] = own_QT * (n / len(chunks[0]))
                at += n
            if seen is not None:
                seen(at, len(ids))
        return Scored(offsets, score_QW)

    def embeddings(self, questions: Sequence[str]) -> np.ndarray:
        """The mean last hidden state of each question, float32."""
        with use_mesh(self.mesh):
            rows, out = whole_batch(1, self.mesh), []
            for ids in self.tok.encode_batch(questions):
                put = put_batch(padded([ids] * rows, rows, _TAIL_STEP), self.mesh)
                out.append(np.asarray(_mean_state(self._graphdef, self._state, *put))[0])
            return np.stack(out)

    def _of_chunks(self, rows: Sequence[list[int]], tails: Sequence[list[int]]) -> np.ndarray:
        """score_QBS of a batch of prompts without their tails."""
        B = whole_batch(len(rows), self.mesh)
        room = rounded(max(map(len, tails)), _TAIL_STEP)
        with use_mesh(self.mesh):
            tok_BP, start_B = put_batch(padded(rows, B, _CHUNK_STEP), self.mesh)
            cache = read_rows(self._graphdef, self._state, tok_BP, start_B, room)
            found = []
            for tail in tails:
                tok_BL, len_B = padded([tail] * B, B, room)
                put = put_batch((tok_BL, len_B), self.mesh)
                found.append(tail_attention(self._graphdef, self._state, cache, start_B, *put))
            return np.stack([np.asarray(score_BS, np.float64) for score_BS in found])

    def _room(self, questions: Sequence[str], tails: Sequence[list[int]], around: int) -> int:
        """Tokens of a chunk: at most `chunk`, and what the scorer's positions leave."""
        longest = max(range(len(tails)), key=lambda q: len(tails[q]))
        n, most = len(tails[longest]), self.model.cfg.max_position_embeddings
        room = min(self.chunk, most - n - around)
        if n > self.chunk or room < 1:
            raise SelectError(
                f"question {questions[longest][:40]!r}... has {n:,} tokens with its marker; "
                f"expected at most {min(self.chunk, most - around - 1):,} for this scorer: shorten "
                "it"
            )
        return room


def load_scorer(name: str | Path, dtype: str = "float32", mesh: Mesh | None = None) -> Scorer:
    """Load a language model that scores tokens for `jaxcomp.select`.

    Args:
        name: a Hugging Face folder or a hub id.
        dtype: of the weights.
        mesh: device mesh; None: the active one, else all devices over "fsdp".

    Returns:
        The scorer, with its weights on `mesh`.

    Raises:
        HfError, HubError, ConfigError, TokenizerError: a file is missing or does not fit.

    Example:
        >>> from jaxcomp.training.pretrained import ASSETS
        >>> scorer = jaxcomp.load_scorer(ASSETS / "bases/llama-24-s0")
    """
    folder = folder_of(str(name))
    tok = tokenizer_of(folder)
    mesh = mesh or mesh_for(Config())
    with use_mesh(mesh):
        model = hf.load(folder, dtype=dtype)
    return Scorer(model, tok, mesh, weights_identity(folder))


def contrasts(variant: str, questions: Sequence[str], embedder: Scorer | None = None) -> list[str]:
    """Of each question about one text the one whose score is subtracted; "" for `raw`.

    For `farthest`: the least similar other question, the first of equals; NEUTRAL where there is no
    other. Similarity: cosine of counts of character trigrams within words, in lower case; with an
    `embedder` of its mean last hidden states.
    """
    if variant not in VARIANTS:
        raise SelectError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}")
    if variant != "farthest" or len(set(questions)) < 2:
        return ["" if variant == "raw" else NEUTRAL] * len(questions)
    near_QQ, out = _similarities(questions, embedder), []
    for q, question in enumerate(questions):
        others = [o for o, other in enumerate(questions) if other != question]
        out.append(questions[min(others, key=lambda o, q=q: near_QQ[q, o])])
    return out


def differences(
    scorer: Scorer, text: str, asked: Sequence[tuple[str, str]], seen: Seen | None = None
) -> Scored:
    """Scores of pairs (question, the one that is subtracted or ""), a row each; raises as
    `Scorer.scores`."""
    every = list(dict.fromkeys(question for pair in asked for question in pair if question))
    offsets, score_QW = scorer.scores(text, every, seen)
    row = dict(zip(every, score_QW, strict=True)) | {"": np.zeros(len(offsets))}
    return Scored(offsets, np.stack([row[question] - row[other] for question, other in asked]))


def _similarities(questions: Sequence[str], embedder: Scorer | None) -> np.ndarray:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    if embedder is not None:
        return cosine_similarity(embedder.embeddings(questions))
    trigrams = CountVectorizer(analyzer="char_wb", ngram_range=(3, 3))
    return cosine_similarity(trigrams.fit_transform(questions))


@functools.partial(jax.jit, static_argnames=("graphdef",))
def _mean_state(graphdef: Any, state: Any, tok_BL: jax.Array, len_B: jax.Array) -> jax.Array:
    model = nnx.merge(graphdef, state)
    pos_BL, seg_BL = places(tok_BL, len_B)
    hidden_BLD = model(model.embed(tok_BL), pos_BL, seg_BL).astype(jnp.float32)
    return jnp.sum(hidden_BLD * seg_BL[:, :, None], axis=1) / len_B[:, None]
