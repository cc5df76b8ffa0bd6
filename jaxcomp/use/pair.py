"""A trained pair at work: texts into memories, memories into texts, answers and likelihoods."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxcomp.compress.autoencoder import AutoEncoder, Prefix
from jaxcomp.compress.compressor import Memory as Placed
from jaxcomp.data.pipeline import CONTINUE, REBUILD
from jaxcomp.data.segments import Segment, cut_encoded
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.fidelity import reconstruction
from jaxcomp.llm.generate import generate
from jaxcomp.sharding import put_batch, use_mesh, whole_batch
from jaxcomp.use.memory import Memory, MemoryFileError

QUESTION = "\nQuestion: {question}\nAnswer:"
_STEP = 32  # lengths are rounded up to this, so that few shapes are compiled
Seen = Callable[[int, int], None]  # (segments done, segments in all)


class Score(NamedTuple):
    """Teacher-forced: `nats` is the sum of -ln p over `tokens` decoder tokens of a text."""

    nats: float
    tokens: int


class Traits(NamedTuple):
    """What a pair was trained as, beside its weights."""

    ratio: int
    segments: int  # G: segments of one example
    target: int  # L: decoder tokens of a target, end token included
    decoder: str  # see use.Memory
    compressor: str


class Pair:
    """A compressor and the decoder that reads it. Made by `jaxcomp.load`.

    Args:
        model: the trained pair, on `mesh`.
        toks: the compressor's and the decoder's tokenizer.
        traits: how it was trained.
        mesh: where it lies; every method enters it.
        batch: most rows computed at once.
    """

    def __init__(
        self,
        model: AutoEncoder,
        toks: tuple[Tokenizer, Tokenizer],
        traits: Traits,
        mesh: Mesh,
        batch: int = 32,
    ):
        self.model, self.mesh, self.traits, self.batch = model, mesh, traits, batch
        self.comp_tok, self.dec_tok = toks
        self.segment = model.compressor.segment
        self._graphdef, self._state = nnx.split(model)

    def compress(
        self, texts: str | Sequence[str], *, ids: Sequence[str] = (), seen: Seen | None = None
    ) -> Memory:
        """The memory of one text or of several, each cut into segments of the trained length.

        `ids` name the texts (default "0", "1", ...); `seen` is told how far it is. An empty text
        has no vectors. Raises SegmentError or TokenizerError for a text that cannot be cut.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = tuple(ids) or tuple(str(i) for i in range(len(texts)))
        if len(ids) != len(texts):
            raise MemoryFileError(f"{len(ids)} ids for {len(texts)} texts; expected one a text")
        encoded = self.comp_tok.encode_batch_with_offsets(texts)
        cuts = [
            cut_encoded(text, *found, self.segment)
            for text, found in zip(texts, encoded, strict=True)
        ]
        pieces = [piece for cut in cuts for piece in cut]
        labels = self.dec_tok.encode_batch([piece.text for piece in pieces])
        width = self.model.decoder.cfg.hidden_size
        vectors = [np.zeros((0, width), np.float32), *self._vectors(pieces, seen)]
        return Memory(
            np.concatenate(vectors),
            np.array([len(piece.ids) for piece in pieces], np.int32),
            np.array([len(found) for found in labels], np.int32),
            np.array([len(piece.text.encode()) for piece in pieces], np.int32),
            np.array([len(cut) for cut in cuts], np.int32),
            ids,
            self.traits.ratio,
            self.segment,
            self.traits.decoder,
            self.traits.compressor,
        )

    def reconstruct(
        self, memory: Memory, *, max_new: int = 0, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Every text, rebuilt free-running: greedy, or sampled with `seed` at a temperature.

        Each example's worth of segments is rebuilt on its own and the parts are joined. `max_new`
        is the most decoder tokens of a part (0: what its text had, at least a training target).
        """
        self._mine(memory)
        G = self.traits.segments
        windows = [part for text in _each(memory) for part in _windows(text, G)]
        need = max([self.traits.target, *(int(w.labels_G.sum()) + 1 for w in windows)])
        parts: list[str] = []
        for number, rows in enumerate(self._rows(windows)):
            with use_mesh(self.mesh):
                placed, valid = self._place(rows, G)
                out = reconstruction.free(
                    self._graphdef, self._state, placed, self._mode(placed, REBUILD),
                    jax.random.fold_in(jax.random.key(seed), number),
                    max_new=max_new or _round(need), eos_id=self.dec_tok.eos_id,
                    temperature=temperature,
                )  # fmt: skip
                parts += self._texts(out)[:valid]
        left = iter(parts)
        return ["".join(itertools.islice(left, -(-n // G))) for n in memory.segments_B.tolist()]

    def ask(
        self,
        memory: Memory,
        question: str | Sequence[str],
        *,
        max_new: int = 64,
        template: str = QUESTION,
        stop: str = "\n",
    ) -> list[str]:
        """The decoder's greedy answer about each text, from its whole memory alone.

        The decoder reads the memory, the marker of continuing, and `template` with the question
        (one for all texts, or one a text). The answer ends at the end token, at `stop` ("": never)
        or after `max_new` tokens. An empty text has an empty memory: the decoder then guesses.
        """
        self._mine(memory)
        questions = self._one_each(question, memory, "questions")
        tails = self.dec_tok.encode_batch([template.format(question=q) for q in questions])
        answers = [""] * len(memory)
        for rows, texts in self._by_size(memory):
            with use_mesh(self.mesh):
                placed, valid = self._place(texts, max(int(texts[0].segments_B[0]), 1))
                tok_BL, len_B = self._padded([tails[row] for row in rows])
                prefix = _with_text(
                    self._graphdef, self._state, placed, self._mode(placed, CONTINUE), tok_BL, len_B
                )
                out = generate(
                    self.model.decoder, *prefix, max_new=max_new, eos_id=self.dec_tok.eos_id
                )
                for row, text in zip(rows, self._texts(out)[:valid], strict=True):
                    text = text.strip()
                    answers[row] = text.split(stop)[0].strip() if stop else text
        return answers

    def score(
        self, memory: Memory, text: str | Sequence[str], *, mode: str = "rebuild"
    ) -> list[Score]:
        """How likely the decoder finds a text (one for all, or one a memory) given each memory.

        `rebuild`: as the memory's own text, end token included; `continue`: as what follows it,
        without the end token. A text that becomes no token has 0 nats in 0 tokens.
        """
        self._mine(memory)
        modes = {"rebuild": REBUILD, "continue": CONTINUE}
        if mode not in modes:
            raise ValueError(f"mode {mode!r}; expected one of: {', '.join(modes)}")
        end = [self.dec_tok.eos_id] if mode == "rebuild" else []
        texts = self._one_each(text, memory, "texts")
        labels = [[*ids, *end] for ids in self.dec_tok.encode_batch(texts)]
        out = [Score(0.0, 0)] * len(memory)
        for rows, parts in self._by_size(memory):
            with use_mesh(self.mesh):
                placed, valid = self._place(parts, max(int(parts[0].segments_B[0]), 1))
                tok_BL, len_B = self._padded([labels[row] for row in rows])
                found = reconstruction.forced(
                    self._graphdef, self._state, placed, self._mode(placed, modes[mode]),
                    tok_BL, len_B,
                )  # fmt: skip
                nll_B = np.asarray(found.nll_BL, np.float64).sum(1)[:valid]
                for row, nll in zip(rows, nll_B, strict=True):
                    out[row] = Score(float(nll), len(labels[row]))
        return out

    # --- batches -----------------------------------------------------------------------------

    def _vectors(self, pieces: Sequence[Segment], seen: Seen | None) -> Iterator[np.ndarray]:
        done = 0
        for rows in self._rows(pieces):
            size = self._size(len(rows))
            ctx_BT = np.zeros((size, self.segment), np.int32)
            len_B = np.zeros(size, np.int32)
            for b, piece in enumerate(rows):
                len_B[b] = len(piece.ids)
                ctx_BT[b, : len_B[b]] = piece.ids
            with use_mesh(self.mesh):
                put = put_batch((ctx_BT, len_B), self.mesh)
                vec_BMD = _write(self._graphdef, self._state, *put, self.traits.ratio)
                vec_BMD = np.asarray(vec_BMD, np.float32)
            for b, piece in enumerate(rows):
                yield vec_BMD[b, : -(-len(piece.ids) // self.traits.ratio)]
            done += len(rows)
            if seen is not None:
                seen(done, len(pieces))

    def _place(self, rows: Sequence[Memory], G: int) -> tuple[Placed, int]:
        """Memories of at most G segments each as one device batch; how many rows are real."""
        M = -(-self.segment // self.traits.ratio)
        shape = (self._size(len(rows)), G, M, self.model.decoder.cfg.hidden_size)
        vec_BGMD, len_BG = np.zeros(shape, np.float32), np.zeros(shape[:2], np.int32)
        for b, row in enumerate(rows):
            start = 0
            for g, (tokens, count) in enumerate(zip(row.tokens_G, row.counts_G, strict=True)):
                len_BG[b, g] = tokens
                vec_BGMD[b, g, :count] = row.vec_ND[start : start + count]
                start += count
        put = put_batch((vec_BGMD, len_BG), self.mesh)
        return _place(self._graphdef, self._state, *put, self.traits.ratio), len(rows)

    def _rows(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(items), self.batch):
            yield items[start : start + self.batch]

    def _by_size(self, memory: Memory) -> Iterator[tuple[list[int], list[Memory]]]:
        """Batches of texts with equally many segments: where a row's text ends in the decoder
        depends on that number, and must not depend on its neighbours."""
        texts = list(_each(memory))
        sizes = memory.segments_B.tolist()
        for size in sorted(set(sizes)):
            for rows in self._rows([row for row, n in enumerate(sizes) if n == size]):
                yield list(rows), [texts[row] for row in rows]

    def _size(self, rows: int) -> int:
        """Rows of the batch that holds `rows`: a power of two, so that few shapes are compiled."""
        return whole_batch(min(self.batch, 1 << (rows - 1).bit_length()), self.mesh)

    def _padded(self, lists: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
        width = _round(max(1, *map(len, lists), 1))
        tok_BL = np.zeros((self._size(len(lists)), width), np.int32)
        len_B = np.zeros(len(tok_BL), np.int32)
        for b, ids in enumerate(lists):
            tok_BL[b, : len(ids)], len_B[b] = ids, len(ids)
        return put_batch((tok_BL, len_B), self.mesh)

    def _mode(self, placed: Placed, mode: int) -> jax.Array:
        return put_batch(np.full(placed.seg_BM.shape[0], mode, np.int32), self.mesh)

    def _texts(self, out: Any) -> list[str]:
        tok_BL, len_B = np.asarray(out.tok_BL), np.asarray(out.len_B)
        return [self.dec_tok.decode(ids[:n]) for ids, n in zip(tok_BL, len_B, strict=True)]

    def _one_each(self, given: str | Sequence[str], memory: Memory, what: str) -> list[str]:
        every = [given] * len(memory) if isinstance(given, str) else list(given)
        if len(every) != len(memory):
            raise ValueError(
                f"{len(every)} {what} for {len(memory)} texts; expected one, or one a text"
            )
        return every

    def _mine(self, memory: Memory) -> None:
        """Raises MemoryFileError where this decoder was not trained to read that memory."""
        mine = (self.traits.decoder, self.traits.ratio, self.segment)
        found = (memory.decoder, memory.ratio, memory.segment)
        if found != mine:
            raise MemoryFileError(
                f"this memory is for (decoder, ratio, segment) = {found}, this pair has {mine}; "
                f"use the pair that wrote it (compressor {memory.compressor}), or compress again"
            )


@functools.partial(jax.jit, static_argnames=("graphdef", "ratio"))
def _write(graphdef: Any, state: Any, ctx_BT: jax.Array, len_B: jax.Array, ratio: int) -> jax.Array:
    return nnx.merge(graphdef, state).compressor(ctx_BT, len_B, ratio=ratio).vec_BMD


@functools.partial(jax.jit, static_argnames=("graphdef", "ratio"))
def _place(graphdef: Any, state: Any, vec_BGMD: jax.Array, len_BG: jax.Array, ratio: int) -> Placed:
    model = nnx.merge(graphdef, state)
    M, G = vec_BGMD.shape[2], len_BG.shape[1]
    places = [model.compressor.places(M, len_BG[:, g], ratio) for g in range(G)]
    seg_BGM, pos_BGM = (jnp.stack(part, axis=1) for part in zip(*places, strict=True))
    return model.place(vec_BGMD, seg_BGM, pos_BGM, model.compressor.segment)


@functools.partial(jax.jit, static_argnames=("graphdef",))
def _with_text(
    graphdef: Any,
    state: Any,
    memory: Placed,
    mode_B: jax.Array,
    tok_BL: jax.Array,
    len_B: jax.Array,
) -> Prefix:
    """The decoder's prefix with a text after the marker."""
    model = nnx.merge(graphdef, state)
    prefix = model.prefix(memory, mode_B)
    slot_L = jnp.arange(tok_BL.shape[1], dtype=jnp.int32)
    x_BLD = model.decoder.embed(tok_BL).astype(prefix.x_BPD.dtype)
    seg_BL = (slot_L < len_B[:, None]).astype(jnp.int32)
    pos_BL = prefix.start_pos_B[:, None] + slot_L
    return Prefix(
        jnp.concatenate([prefix.x_BPD, x_BLD], axis=1),
        jnp.concatenate([prefix.pos_BP, pos_BL], axis=1),
        jnp.concatenate([prefix.seg_BP, seg_BL], axis=1),
        prefix.start_pos_B + len_B,
    )


def _each(memory: Memory) -> Iterator[Memory]:
    return (memory[i] for i in range(len(memory)))


def _windows(text: Memory, G: int) -> Iterator[Memory]:
    """One text's memory, G segments at a time, each as the memory of a text of its own."""
    start_G = np.concatenate([[0], np.cumsum(text.counts_G)])
    for first in range(0, len(text.tokens_G), G):
        last = min(first + G, len(text.tokens_G))
        yield Memory(
            text.vec_ND[start_G[first] : start_G[last]],
            *(a[first:last] for a in (text.tokens_G, text.labels_G, text.bytes_G)),
            np.array([last - first], np.int32),
            text.ids, text.ratio, text.segment, text.decoder, text.compressor,
        )  # fmt: skip


def _round(length: int) -> int:
    return -(-length // _STEP) * _STEP
