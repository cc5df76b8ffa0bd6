"""The compressor: a transformer that writes a segment into M memory vectors.

The memory kind is a strategy: a class in `KINDS`, chosen by `memory.kind`, that is built as
`Compressor` is and answers `(ctx_BT, len_B, ratio=...)` with a `Memory`. Only `append` exists;
pooled blocks would be another class here, and key-value memories one whose `Memory` carries more.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress.connector import Connector
from jaxcomp.config import ConfigError, MemoryConfig
from jaxcomp.llm.model import Transformer
from jaxcomp.sharding import SPECS, constrain


class Memory(NamedTuple):
    """M vectors of each row, with their places (in the compressor as `Compressor` gives it, in the
    decoder as `AutoEncoder.memory` does)."""

    vec_BMD: jax.Array  # float32; zero where not valid
    seg_BM: jax.Array  # int32, 1 = valid, 0 = not
    pos_BM: jax.Array  # int32 position ids
    end_B: jax.Array  # int32, the first position id after the memory


class Scale(NamedTuple):
    """Where embeddings lie: their mean, and their standard deviation around it (root mean square
    over the D axes)."""

    mean_D: jax.Array
    std: float


class Compressor(nnx.Module):
    """Kind `append`: learned memory tokens after the T slots of a segment, last states read out.

    Memory tokens see every valid context token and the earlier valid memory tokens, never padding.
    They start as one vector where their places tell them apart (`spread`), else each as its own.

    Args:
        llm: the tower, width E.
        memory: layout, connector width.
        segment: T.
        slots: memory tokens held, T / (the smallest ratio it will be asked for).
        scale: of the decoder's token embeddings; the memory starts there.
        decoder_learns: it is trained too, so that this scale will change.
        rngs: its `params` stream draws memory tokens and connector.
    """

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
        mean_E, std_E = moments(llm.emb[...])
        # All alike where their places tell them apart: what one learns of its block, all learn.
        drawn = 1 if memory.positions == "spread" else slots
        noise_ME = jax.random.normal(rngs.params(), (drawn, mean_E.shape[0]))
        mem_ME = jnp.broadcast_to(mean_E + noise_ME * std_E, (slots, mean_E.shape[0]))
        self.mem_ME = nnx.Param(constrain(mem_ME, "mem_MD"), spec="mem_MD")
        mean_D, std = scale
        self.connector = Connector(
            mean_E.shape[0],
            memory.connector_hidden or 2 * mean_D.shape[0],
            mean_D,
            std,
            # Embeddings that learn grow from some 0.1 to several units (docs/tiny-models.md).
            unit=max(1.0, std) if decoder_learns else std,
            rngs=rngs,
        )

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
            tok_BME = jnp.broadcast_to(
                self._tokens(M), (B, M, self.mem_ME.shape[1]), out_sharding=SPECS["act_BLD"]
            )
            ctx_BTE = self.llm.embed(ctx_BT)
            x_BSE = jnp.concatenate([ctx_BTE, tok_BME.astype(ctx_BTE.dtype)], axis=1)
            seg_BM, pos_BM = self.places(M, len_B, ratio)
            slot_BT = _rows(jnp.arange(T, dtype=jnp.int32), B)
            seg_BT = (slot_BT < len_B[:, None]).astype(jnp.int32)
            hidden_BSE = self.llm(
                x_BSE,
                jnp.concatenate([slot_BT, pos_BM], axis=1),
                jnp.concatenate([seg_BT, seg_BM], axis=1),
                remat=remat,
                packed=False,
                dropout_key=dropout_key,
            )
            # Invalid vectors are zero, so that nothing downstream can depend on padding.
            vec_BMD = self.connector(hidden_BSE[:, T:]) * seg_BM[:, :, None]
        return Memory(vec_BMD, seg_BM, pos_BM, jnp.max(pos_BM, axis=1) + 1)

    def count(self, T: int, ratio: int) -> int:
        """M for segments of T tokens at `ratio`."""
        if T % ratio:
            raise ConfigError(f"memory.ratio {ratio} does not divide the segment length {T}")
        if T // ratio > self.slots:
            raise ConfigError(
                f"{T} tokens at ratio {ratio} need {T // ratio} memory tokens, this compressor was "
                f"built with {self.slots}; build it with the smallest ratio among train.ratios"
            )
        return T // ratio

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


KINDS: dict[str, type[Compressor]] = {"append": Compressor}


def kind_of(memory: MemoryConfig) -> type[Compressor]:
    """The strategy `memory.kind` names. Raises ConfigError that lists the known ones."""
    if memory.kind not in KINDS:
        raise ConfigError(
            f"memory.kind = {memory.kind!r} is unknown; expected one of: {', '.join(sorted(KINDS))}"
        )
    return KINDS[memory.kind]


def moments(emb_VD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over tokens of an embedding table, float32, each of width D."""
    emb_VD = emb_VD.astype(jnp.float32)
    mean_D = constrain(jnp.mean(emb_VD, axis=0), "norm_D")
    std_D = constrain(jnp.std(emb_VD, axis=0), "norm_D")
    return mean_D, std_D


def scale_of(emb_VD: jax.Array) -> Scale:
    mean_D, std_D = moments(emb_VD)
    return Scale(mean_D, float(jnp.sqrt(jnp.mean(std_D**2))))


def _rows(x_M: jax.Array, rows: int) -> jax.Array:
    return jnp.broadcast_to(x_M, (rows, *x_M.shape), out_sharding=SPECS["batch"])
