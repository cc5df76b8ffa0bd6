"""A trained pair: compress, reconstruct, ask and score."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcomp.compress.autoencoder import AutoEncoder, Prefix
from jaxcomp.compress.memory import Memory as Placed
from jaxcomp.data.batches import CONTINUE, REBUILD
from jaxcomp.data.qa import QUESTION
from jaxcomp.data.segments import Segment, cut_encoded
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.inference import decode
from jaxcomp.inference.memory import Memory, MemoryFileError
from jaxcomp.inference.scoring import FrozenDecoder, Score, padded, rounded
from jaxcomp.runtime.sharding import put_batch, use_mesh

NO_PROMPT = (
    "this compressor writes keys and values for every layer, which no prompt of "
    "embeddings can hold; train one of another memory.kind"
)
Seen = Callable[[int, int], None]  # (segments done, segments in all)


class PairError(ValueError):
    """The pair cannot do this; the message says why and what to do."""


class Traits(NamedTuple):
    """What a pair was trained as, beside its weights."""

    ratio: int
    segments: int  # G: segments of one example
    target: int  # L: decoder tokens of a target, end token included
    decoder: str  # see inference.Memory
    compressor: str


class Pair(FrozenDecoder):
    """A compressor and the frozen decoder that reads its memory vectors.

    `jaxcomp.load` makes one. Methods take any number of texts and batch them.

    Args:
        model: the trained pair, on `mesh`.
        toks: the compressor's and the decoder's tokenizer.
        traits: ratio, segments and target length of the training.
        mesh: device mesh of the weights; every method enters it.
        batch: largest number of rows per device call.

    Example:
        >>> pair = jaxcomp.load("demo/llama-24-r4")
        >>> len(pair.reconstruct(pair.compress(["The fox looked small.", "Bob lived in Rome."])))
        2
    """

    def __init__(
        self,
        model: AutoEncoder,
        toks: tuple[Tokenizer, Tokenizer],
        traits: Traits,
        mesh: Mesh,
        batch: int = 32,
    ):
        self.comp_tok, dec_tok = toks
        super().__init__(model, dec_tok, mesh, batch)
        self.traits, self.segment = traits, model.compressor.segment

    def compress(
        self, texts: str | Sequence[str], *, ids: Sequence[str] = (), seen: Seen | None = None
    ) -> Memory:
        """Compress texts into memory vectors.

        Each text is cut into segments of the trained length, in tokens. An empty text has no
        vectors. Where the decoder's tokenizer normalises to NFC, the NFC form is compressed.

        Args:
            texts: one text or several.
            ids: names of the texts; default "0", "1", ...
            seen: called with (segments done, segments in all) after each batch.

        Returns:
            The memory of all texts, ceil(tokens / ratio) vectors of width D per segment.

        Raises:
            PairError: the number of ids differs from the number of texts.
            SegmentError, TokenizerError: a text cannot be cut or tokenised.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        texts = self.dec_tok.respell(texts)
        ids = tuple(ids) or tuple(str(i) for i in range(len(texts)))
        if len(ids) != len(texts):
            raise PairError(f"{len(ids)} ids for {len(texts)} texts; expected one a text")
        encoded = self.comp_tok.encode_batch_with_offsets(texts)
        cuts = [
            cut_encoded(text, *found, self.segment)
            for text, found in zip(texts, encoded, strict=True)
        ]
        pieces = [piece for cut in cuts for piece in cut]
        labels = self.dec_tok.encode_exactly([piece.text for piece in pieces])
        width = self.model.width
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
        """Rebuild every text from its memory, free-running.

        As many segments as a training example has are rebuilt at a time; the parts are joined.

        Args:
            memory: what `compress` returned.
            max_new: largest number of decoder tokens per part; 0: the source's number, but at
                least the training target's.
            temperature: of sampling; 0: greedy.
            seed: of sampling.

        Returns:
            One text per memory.

        Raises:
            MemoryFileError: another pair wrote the memory.
            PairError: `max_new` exceeds the decoder's positions.
        """
        self._mine(memory)
        self._check_new(max_new)
        G = self.traits.segments
        windows = list(memory.windows(G))
        most = [max_new or max(self.traits.target, int(w.labels_G.sum()) + 1) for w in windows]
        parts: list[str] = []
        for number, part in enumerate(self._batches(windows)):
            with use_mesh(self.mesh):
                placed = self._place(part, G)
                limit_B = np.zeros(placed.seg_BM.shape[0], np.int32)  # 0: rows that fill the batch
                limit_B[: len(part)] = most[number * self.batch :][: len(part)]
                out = decode.free(
                    self._graphdef, self._state, placed, self._mode(placed, REBUILD),
                    jax.random.fold_in(jax.random.key(seed), number),
                    max_new=max_new or rounded(max(most)), eos_id=self.dec_tok.eos_id,
                    temperature=temperature, limit_B=put_batch(limit_B, self.mesh),
                )  # fmt: skip
                parts += self._texts(out)[: len(part)]
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
        """Answer a question about each text from its memory alone, greedily.

        The decoder reads the memory, the continuation marker, and the question in `template`. For
        an empty text it reads no vector, so it guesses.

        Args:
            memory: what `compress` returned.
            question: one for all texts, or one per text.
            max_new: largest number of answer tokens.
            template: prompt with the placeholder `{question}`.
            stop: the answer ends before this text; "": only at the end token.

        Returns:
            One answer per text.

        Raises:
            MemoryFileError: another pair wrote the memory.
            PairError: the number of questions is wrong, or the prompt exceeds the decoder's
                positions.
        """
        self._check_new(max_new)
        questions = self._one_each(question, memory, "questions")
        answers = [""] * len(memory)
        for which, prefix in self.asked(memory, [template.format(question=q) for q in questions]):
            found = self.answers(prefix, max_new=max_new, stop=stop)
            for row, text in zip(which, found, strict=False):  # the rest fills the batch
                answers[row] = text
        return answers

    def prompts(
        self, memory: Memory, question: str | None = None, template: str = QUESTION
    ) -> list[np.ndarray]:
        """Return the embeddings that the decoder reads before it rebuilds or answers.

        Args:
            memory: what `compress` returned.
            question: None for the prompt of rebuilding.
            template: prompt with the placeholder `{question}`.

        Returns:
            One float32 array [P, D] per text.

        Raises:
            PairError: the memory is keys and values (`memory.kind=kv`).
        """
        if self.model.per_layer:
            raise PairError(NO_PROMPT)
        mode, tail = (REBUILD, "") if question is None else (CONTINUE, template)
        tails = [tail.format(question=question)] * len(memory)
        out = [np.zeros((0, 0), np.float32)] * len(memory)
        for which, prefix in self.asked(memory, tails, mode):
            x_BPD, seg_BP = np.asarray(prefix.x_BPD, np.float32), np.asarray(prefix.seg_BP)
            for row, x_PD, seg_P in zip(which, x_BPD, seg_BP, strict=False):
                out[row] = x_PD[seg_P > 0]
        return out

    def score(
        self,
        memory: Memory,
        text: str | Sequence[str],
        *,
        mode: str = "rebuild",
        no_memory: bool = False,
    ) -> list[Score]:
        """Score a text given each memory, teacher-forced.

        Args:
            memory: what `compress` returned.
            text: one for all memories, or one per memory.
            mode: "rebuild" scores it as the memory's own text, end token included; "continue" as
                the text that follows, without an end token.
            no_memory: hide the vectors from the decoder; prompt and positions stay the same.

        Returns:
            One `Score` per memory, in nats.

        Raises:
            MemoryFileError: another pair wrote the memory.
            PairError: `mode` is unknown, or the text exceeds the decoder's positions.
        """
        modes = {"rebuild": REBUILD, "continue": CONTINUE}
        if mode not in modes:
            raise PairError(f"mode {mode!r}; expected one of: {', '.join(modes)}")
        end = [self.dec_tok.eos_id] if mode == "rebuild" else []
        texts = self._one_each(text, memory, "texts")
        labels = [[*ids, *end] for ids in self.dec_tok.encode_batch(texts)]
        out = [Score(0.0, 0)] * len(memory)
        for which, placed, mode_B in self._by_size(memory, modes[mode]):
            with use_mesh(self.mesh):
                tok_BL, len_B = self._padded([labels[row] for row in which])
                self._fits(placed, len_B)
                placed = decode.no_memory(placed) if no_memory else placed
                args = (self._graphdef, self._state, placed, mode_B, tok_BL, len_B)
                found = decode.forced(*args)
                nll_B = np.asarray(found.nll_BL, np.float64).sum(1)
            for row, nll in zip(which, nll_B, strict=False):  # the rest fills the batch
                out[row] = Score(float(nll), len(labels[row]))
        return out

    def asked(
        self, memory: Memory, tails: Sequence[str], mode: int = CONTINUE
    ) -> Iterator[tuple[list[int], Prefix]]:
        """Yield batches of decoder prefixes: the memory, the marker of `mode`, and a tail each.

        Args:
            memory: what `compress` returned.
            tails: one text per memory, such as a question.
            mode: REBUILD or CONTINUE.

        Yields:
            (numbers of the texts, prefix of at most `batch` rows); further rows fill the batch.
        """
        ids = self.dec_tok.encode_batch(tails)
        for which, placed, mode_B in self._by_size(memory, mode):
            with use_mesh(self.mesh):
                tok_BL, len_B = self._padded([ids[row] for row in which])
                self._fits(placed, len_B)
                args = (self._graphdef, self._state, placed, mode_B, tok_BL, len_B)
                yield which, decode.with_text(*args)

    # --- batches -----------------------------------------------------------------------------

    def _vectors(self, pieces: Sequence[Segment], seen: Seen | None) -> Iterator[np.ndarray]:
        done = 0
        for part in self._batches(pieces):
            ids = [piece.ids for piece in part]
            ctx_BT, len_B = padded(ids, self._size(len(part)), self.segment)
            with use_mesh(self.mesh):
                put = put_batch((ctx_BT, len_B), self.mesh)
                vec_BMD = decode.write(self._graphdef, self._state, *put, self.traits.ratio)
                vec_BMD = np.asarray(vec_BMD, np.float32)
            for b, piece in enumerate(part):
                yield vec_BMD[b, : -(-len(piece.ids) // self.traits.ratio)]
            done += len(part)
            if seen is not None:
                seen(done, len(pieces))

    def _place(self, texts: Sequence[Memory], G: int) -> Placed:
        """Memories of at most G segments each as one device batch, filled up with empty rows."""
        M = -(-self.segment // self.traits.ratio)
        shape = (self._size(len(texts)), G, M, self.model.width)
        vec_BGMD, len_BG = np.zeros(shape, np.float32), np.zeros(shape[:2], np.int32)
        for b, text in enumerate(texts):
            start = 0
            for g, (tokens, count) in enumerate(zip(text.tokens_G, text.counts_G, strict=True)):
                len_BG[b, g] = tokens
                vec_BGMD[b, g, :count] = text.vec_ND[start : start + count]
                start += count
        put = put_batch((vec_BGMD, len_BG), self.mesh)
        return decode.place(self._graphdef, self._state, *put, self.traits.ratio)

    def _fits(self, placed: Placed, len_B: jax.Array) -> None:
        """Raises PairError where a whole memory and what follows are too long for the decoder."""
        tokens_B = np.asarray(len_B)
        need_B = np.asarray(placed.end_B) + 2 + tokens_B
        worst = int(np.argmax(need_B))
        most = self.model.decoder.cfg.max_position_embeddings
        if need_B[worst] > most:
            raise PairError(
                f"a text of {placed.seg_BM.shape[1]} memory slots and {tokens_B[worst]} tokens "
                f"needs {need_B[worst]} positions, this decoder has {most} "
                "(max_position_embeddings); ask about, or score, a shorter text"
            )

    def _check_new(self, max_new: int) -> None:
        most = self.model.decoder.cfg.max_position_embeddings
        if not 0 <= max_new <= most:
            raise PairError(
                f"max_new = {max_new}: expected at least 0 and at most {most}, the positions that "
                "this decoder has (max_position_embeddings)"
            )

    def _batches(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(items), self.batch):
            yield items[start : start + self.batch]

    def _by_size(self, memory: Memory, mode: int) -> Iterator[tuple[list[int], Placed, jax.Array]]:
        """Batches of texts with room for equally many segments, at least as many as an example of
        the training, which the decoder has always read behind so many: where a row's text ends in
        the decoder depends on that number, and must not depend on its neighbours."""
        self._mine(memory)
        sizes = np.maximum(memory.segments_B, self.traits.segments).tolist()
        for size in sorted(set(sizes)):
            for which in self._batches([row for row, n in enumerate(sizes) if n == size]):
                with use_mesh(self.mesh):
                    placed = self._place([memory[row] for row in which], size)
                    mode_B = self._mode(placed, mode)
                yield list(which), placed, mode_B

    def _mode(self, placed: Placed, mode: int) -> jax.Array:
        return put_batch(np.full(placed.seg_BM.shape[0], mode, np.int32), self.mesh)

    def _one_each(self, given: str | Sequence[str], memory: Memory, what: str) -> list[str]:
        every = [given] * len(memory) if isinstance(given, str) else list(given)
        if len(every) != len(memory):
            raise PairError(
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
        width = self.model.width
        if memory.vec_ND.shape[1] != width:
            raise MemoryFileError(
                f"this memory has vectors of {memory.vec_ND.shape[1]}, this pair's decoder reads "
                f"{width}; compress again"
            )
