"""The base class of compressors, with learned memory tokens, and the memory of a segment."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress.kinds import connector_of
from jaxcomp.config import ConfigError, MemoryConfig, ModelConfig
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import SPECS, constrain

Slot = TypeVar("Slot")


class Memory(NamedTuple):
    """M vectors of each row, with their places (in the compressor as `Compressor` gives it, in the
    decoder as `AutoEncoder.memory` does)."""

    vec_BMD: jax.Array  # float32, zero where not valid; as wide as `AutoEncoder.width` says
    seg_BM: jax.Array  # int32, 1 = valid, 0 = not
    pos_BM: jax.Array  # int32 position ids
    end_B: jax.Array  # int32, the first position id after the memory


class Scale(NamedTuple):
    """Where embeddings lie: their mean, and their standard deviation around it (root mean square
    over the D axes)."""

    mean_D: jax.Array
    std: float


class Segments(NamedTuple):
    """Rows to compress: tokens, padded on the right, and where the M memory vectors belong."""

    ctx_BT: jax.Array
    slot_BT: jax.Array  # int32: 0 .. T - 1
    seg_BT: jax.Array  # int32, 1 = a token, 0 = padding
    seg_BM: jax.Array
    pos_BM: jax.Array
    ratio: int


class Compressor(nnx.Module):
    """Kind `append`: learned memory tokens after the T slots of a segment, last states read out.

    Memory tokens see every valid context token and the earlier valid memory tokens, never padding.
    They start as one vector where their places tell them apart (`spread`), else each as its own.

    The other memory kinds are subclasses: `states` says what is read out, `reads` and the
    three attributes what the rest of the program must know. A memory has T / ratio vectors in any
    kind.

    Args:
        llm: the tower, width E.
        memory: layout, connector and its width.
        segment: T.
        slots: memory tokens held, T / (the smallest ratio it will be asked for).
        scale: of the decoder's token embeddings; the memory starts there.
        decoder_learns: it is trained too, so that this scale will change.
        rngs: its `params` stream draws memory tokens and connector.
    """

    per_layer = False  # whether a vector holds keys and values of every layer
    memory_tokens = True  # whether `mem_ME` is held
    unused: tuple[str, ...] = ("head",)  # parts of the tower that no vector depends on

    def __init__(
        self,
        llm: Transformer,
        memory: MemoryConfig,
        *,
        segment: int,
        slots: int,
        scale: Scale,
        decoder_learns: bool,
        rngs: nnx.Rngs,
    ):
        self.llm = llm
        self.segment = segment
        self.slots = slots
        self.positions = memory.positions
        if self.memory_tokens:
            self._hold(rngs)
        self.connector = connector_of(memory)(
            llm.cfg.hidden_size,
            memory.connector_hidden or 2 * scale.mean_D.shape[0],
            *scale,
            unit=1.0 if self.per_layer else unit_of(scale.std, decoder_learns),
            rngs=rngs,
        )

    @staticmethod
    def width(decoder: ModelConfig) -> int:
        """Numbers of one vector, for a decoder of that shape."""
        return decoder.hidden_size

    @classmethod
    def reads(cls, text_T: list[Slot], memory_M: list[Slot]) -> list[Slot]:
        """The tower's slots in its order, from those of the text and of the memory tokens."""
        return [*text_T, *memory_M] if cls.memory_tokens else text_T

    def _hold(self, rngs: nnx.Rngs) -> None:
        mean_E, std_E = moments(self.llm.table_VD())
        # All alike where their places tell them apart: what one learns of its block, all learn.
        drawn = 1 if self.positions == "spread" else self.slots
        noise_ME = jax.random.normal(rngs.params(), (drawn, mean_E.shape[0]))
        mem_ME = jnp.broadcast_to(mean_E + noise_ME * std_E, (self.slots, mean_E.shape[0]))
        self.mem_ME = nnx.Param(constrain(mem_ME, "mem_MD"), spec="mem_MD")

    def __call__(
        self,
        ctx_BT: jax.Array,
        len_B: jax.Array,
        *,
        ratio: int,
        remat: str = "none",
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """Compresses rows of t = len_B valid tokens (padded on the right) into T / ratio vectors.

        The first ceil(t / ratio) are valid. `pos_BM` is the place each memory token had: `spread`:
        min((m + 1) * ratio, t) - 1, the last token of its block; `consecutive`: t + m.
        Raises ConfigError where the ratio does not divide T or asks for more tokens than are held.
        """
        B, T = ctx_BT.shape
        M = self.count(T, ratio)
        with jax.named_scope("compressor"):
            seg_BM, pos_BM = self.places(M, len_B, ratio)
            slot_BT = _rows(jnp.arange(T, dtype=jnp.int32), B)
            seg_BT = (slot_BT < len_B[:, None]).astype(jnp.int32)
            rows = Segments(ctx_BT, slot_BT, seg_BT, seg_BM, pos_BM, ratio)
            # Invalid vectors are zero, so that nothing downstream can depend on padding.
            vec_BMD = self.connector(self.states(rows, remat, dropout_key)) * seg_BM[:, :, None]
        return Memory(vec_BMD, seg_BM, pos_BM, jnp.max(pos_BM, axis=1) + 1)

    def states(self, rows: Segments, remat: str, dropout_key: jax.Array | None) -> jax.Array:
        """The M states that are read out, before the connector; what is not valid means nothing."""
        hidden_BSE = self.llm(
            *self.appended(rows), remat=remat, packed=False, dropout_key=dropout_key
        )
        return hidden_BSE[:, rows.ctx_BT.shape[1] :]

    def text_states(self, rows: Segments, remat: str, dropout_key: jax.Array | None) -> jax.Array:
        """hidden_BTE: the last states of the text alone; those of padding mean nothing."""
        row = self.llm.embed(rows.ctx_BT), rows.slot_BT, rows.seg_BT
        return self.llm(*row, remat=remat, packed=False, dropout_key=dropout_key)

    def appended(self, rows: Segments) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the tower reads, with position and segment ids: the text, then the memory tokens."""
        tok_BME, ctx_BTE = self.tokens_of(rows), self.llm.embed(rows.ctx_BT)
        return (
            jnp.concatenate([ctx_BTE, tok_BME], axis=1),
            jnp.concatenate([rows.slot_BT, rows.pos_BM], axis=1),
            jnp.concatenate([rows.seg_BT, rows.seg_BM], axis=1),
        )

    def count(self, T: int, ratio: int) -> int:
        """M for segments of T tokens at `ratio`."""
        if T % ratio:
            raise ConfigError(f"memory.ratio {ratio} does not divide the segment length {T}")
        if self.memory_tokens and T // ratio > self.slots:
            raise ConfigError(
                f"{T} tokens at ratio {ratio} need {T // ratio} memory tokens, this compressor was "
                f"built with {self.slots}; build it with the smallest ratio among train.ratios"
            )
        return T // ratio

    def tokens_of(self, rows: Segments) -> jax.Array:
        """Memory tokens of every row, tok_BME in the tower's dtype."""
        B, M = rows.seg_BM.shape
        tok_ME = self._tokens(M)
        shape = (B, *tok_ME.shape)
        tok_BME = jnp.broadcast_to(tok_ME, shape, out_sharding=SPECS["act_BLD"])
        return tok_BME.astype(self.llm.dtype)

    def _tokens(self, M: int) -> jax.Array:
        # With blocks, a row keeps its place in the segment at every ratio (the coarser ratios use
        # every second, fourth, ... row); without, the first M.
        if self.positions == "spread" and self.slots % M == 0:
            stride = self.slots // M
            return self.mem_ME[...][stride - 1 :: stride]
        return self.mem_ME[...][:M]

    def places(self, M: int, len_B: jax.Array, ratio: int) -> tuple[jax.Array, jax.Array]:
        """seg_BM and pos_BM of the memory of segments of len_B tokens: what `Memory` holds beside
        the vectors follows from the lengths alone."""
        slot_M = jnp.arange(M, dtype=jnp.int32)
        seg_BM = (slot_M * ratio < len_B[:, None]).astype(jnp.int32)
        if self.positions == "consecutive":
            return seg_BM, len_B[:, None] + slot_M
        last_BM = jnp.minimum((slot_M + 1) * ratio, len_B[:, None]) - 1
        return seg_BM, jnp.maximum(last_BM, 0)


def moments(emb_VD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over tokens of an embedding table, float32, each of width D."""
    emb_VD = emb_VD.astype(jnp.float32)
    mean_D = constrain(jnp.mean(emb_VD, axis=0), "norm_D")
    std_D = constrain(jnp.std(emb_VD, axis=0), "norm_D")
    return mean_D, std_D


def unit_of(std: float, decoder_learns: bool) -> float:
    """The connector's unit, for token embeddings of standard deviation `std`."""
    # Embeddings that learn grow from about 0.1 to several units.
    return max(1.0, std) if decoder_learns else std


def scale_of(emb_VD: jax.Array) -> Scale:
    mean_D, std_D = moments(emb_VD)
    return Scale(mean_D, float(jnp.sqrt(jnp.mean(std_D**2))))


def _rows(x_M: jax.Array, rows: int) -> jax.Array:
    return jnp.broadcast_to(x_M, (rows, *x_M.shape), out_sharding=SPECS["batch"])


def reshape(x: jax.Array, *shape: int) -> jax.Array:
    """With the batch on axis 0, which a plain reshape forgets."""
    return jnp.reshape(x, shape, out_sharding=SPECS["batch"])
