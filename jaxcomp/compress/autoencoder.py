"""Compressor and decoder as one model, its trainable part, and its decoder input.

The decoder reads `<begin> mem_1..mem_GM <end> <marker of mode> tok_1..tok_L`; the marker predicts
tok_1 and the last token predicts the end token. Position ids (C = G * T, the room of the context):

    spread       begin 0 · vector m of segment g at 1 + g T + min((m + 1) ratio, t_g) - 1 ·
                 end 1 + C · marker 2 + C · tok_i (i = 0, 1, ..) at 3 + C + i
    consecutive  begin 0 · the n-th valid vector at 1 + n · end, marker, tok_i follow without a gap

So in `spread` target token i stands 2 + C + ratio - 1 - (i mod ratio) after the vector of its
block, wherever the block is and whatever the text's length (for the last, shorter block of t
tokens: 3 + C + i - t): one relative distance to learn instead of one for each length. The formula
reads i in decoder tokens; with two tokenizers it holds up to their ratio of lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress import kv, recipes
from jaxcomp.compress.kinds import kind_of
from jaxcomp.compress.memory import Compressor, Memory, Scale, moments, reshape, scale_of
from jaxcomp.config import ConfigError, MemoryConfig, TrainConfig
from jaxcomp.models.block import KVOverride
from jaxcomp.models.lora import LoraParam
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import SPECS, constrain

BEGIN, END, REBUILD, CONTINUE = range(4)  # rows of markers_4D; mode 0 is REBUILD, 1 CONTINUE


class Prefix(NamedTuple):
    """What stands before the target. P = G * M + 3; start_pos_B is the position of tok_1.

    Of a memory of kind `kv` the G * M inputs are zero, and `kv_override` takes the place of the
    keys and values that the decoder would make of them.
    """

    x_BPD: jax.Array
    pos_BP: jax.Array
    seg_BP: jax.Array
    start_pos_B: jax.Array
    kv_override: KVOverride | None = None


class Targets(NamedTuple):
    """Decoder states that predict, with what they should predict; R = B * O rows."""

    hidden_RLD: jax.Array
    label_RL: jax.Array
    valid_RL: jax.Array  # bool: a label, not padding


class AutoEncoder(nnx.Module):
    """The pair. `markers_4D` are the decoder's four learned inputs (begin, end, rebuild, continue);
    they start at `markers_4D` if given, else at the decoder's mean embedding with a little noise
    (a tenth of the embeddings' standard deviation) to tell them apart."""

    per_layer = False  # of a pair without a compressor; else its compressor's

    def __init__(
        self,
        compressor: Compressor,
        decoder: Transformer,
        *,
        rngs: nnx.Rngs,
        markers_4D: jax.Array | None = None,
    ):
        self.compressor = compressor
        self.decoder = decoder
        self.positions = compressor.positions
        self.per_layer = compressor.per_layer
        D = decoder.cfg.hidden_size
        if markers_4D is None:
            mean_D, std_D = moments(decoder.table_VD())
            markers_4D = mean_D + 0.1 * std_D * jax.random.normal(rngs.params(), (4, D))
        elif markers_4D.shape != (4, D):
            raise ConfigError(f"markers have shape {markers_4D.shape}, this decoder needs {(4, D)}")
        markers_4D = constrain(jnp.asarray(markers_4D, jnp.float32), "mem_MD")
        self.markers_4D = nnx.Param(markers_4D, spec="mem_MD")

    @property
    def width(self) -> int:
        """Numbers of one memory vector: the decoder's width D, or what its kind says."""
        return self.compressor.width(self.decoder.cfg)

    def memory(
        self,
        ctx_BGT: jax.Array,
        len_BG: jax.Array,
        *,
        ratio: int,
        remat: str = "none",
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """Memory of G segments, concatenated (B, G * M), with the decoder's position ids.

        len_BG are the valid tokens of each segment; 0 = absent, which gives no valid vector.
        """
        B, G, T = ctx_BGT.shape
        rows = reshape(ctx_BGT, B * G, T), reshape(len_BG, B * G)
        flat = self.compressor(*rows, ratio=ratio, remat=remat, dropout_key=dropout_key)
        M, D = flat.vec_BMD.shape[1:]
        vec_BGMD = jnp.reshape(flat.vec_BMD, (B, G, M, D), out_sharding=SPECS["act_BLD"])
        return self.place(vec_BGMD, reshape(flat.seg_BM, B, G, M), reshape(flat.pos_BM, B, G, M), T)

    def place(self, vec_BGMD: jax.Array, seg_BGM: jax.Array, pos_BGM: jax.Array, T: int) -> Memory:
        """Memories of G segments of T slots, each with its places in the compressor, one after the
        other with the decoder's position ids."""
        B, G, M, D = vec_BGMD.shape
        seg_BM = reshape(seg_BGM, B, G * M)
        if self.positions == "consecutive":
            pos_BM = jnp.maximum(jnp.cumsum(seg_BM, axis=1), 1)  # valid ones count from 1
            end_B = 1 + jnp.sum(seg_BM, axis=1)
        else:
            end_B = constrain(jnp.full(B, 1 + G * T, seg_BM.dtype), "batch")
            pos_BGM = pos_BGM + 1 + T * jnp.arange(G, dtype=jnp.int32)[:, None]
            pos_BM = reshape(pos_BGM, B, G * M)
        vec_BMD = jnp.reshape(vec_BGMD, (B, G * M, D), out_sharding=SPECS["act_BLD"])
        return Memory(vec_BMD, seg_BM, pos_BM, end_B)

    def prefix(self, memory: Memory, mode_B: jax.Array) -> Prefix:
        """`<begin> mem <end> <marker>` of each row; mode_B: 0 rebuild, 1 continue."""
        B = memory.seg_BM.shape[0]
        markers_4D = self.markers_4D[...]
        edge_B2D = jnp.broadcast_to(
            markers_4D[:2], (B, 2, markers_4D.shape[1]), out_sharding=SPECS["act_BLD"]
        )
        # A product with a one-hot row: its gradient is a matrix product, not a scatter.
        mode_B = constrain(mode_B, "batch")
        hot_B2 = (mode_B[:, None] == jnp.arange(2)).astype(jnp.float32)
        marker_BD = jnp.einsum("BK,KD->BD", hot_B2, markers_4D[REBUILD:])
        mem_BMD, kv_override = memory.vec_BMD, None
        if self.per_layer:
            stored = kv.unflat(memory.vec_BMD, self.decoder.cfg)
            kv_override = KVOverride(stored, jnp.int32(1))
            shape = (*memory.seg_BM.shape, markers_4D.shape[1])
            mem_BMD = jnp.zeros(shape, markers_4D.dtype, out_sharding=SPECS["act_BLD"])
        x_BPD = jnp.concatenate(
            [edge_B2D[:, :1], mem_BMD, edge_B2D[:, 1:], marker_BD[:, None]], axis=1
        )
        one_B1 = jnp.ones_like(memory.end_B)[:, None]
        seg_BP = jnp.concatenate([one_B1, memory.seg_BM, one_B1, one_B1], axis=1)
        end_B1 = memory.end_B[:, None]
        pos_BP = jnp.concatenate([0 * one_B1, memory.pos_BM, end_B1, end_B1 + 1], axis=1)
        dtype = self.decoder.dtype
        return Prefix(x_BPD.astype(dtype), pos_BP, seg_BP, memory.end_B + 2, kv_override)

    def targets(
        self,
        ctx_BGT: jax.Array,
        len_BG: jax.Array,
        tok_BOL: jax.Array,
        tok_len_BO: jax.Array,
        mode_BO: jax.Array,
        *,
        ratio: int,
        remat: str = "none",
        word_dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> Targets:
        """Teacher-forced decoder states of every target, at the L positions that predict a token.

        Args are the fields of `data.eval_sets.Batch`. Row b * O + o is target o of example b. With
        a `dropout_key`, each word the decoder reads is hidden (a zero vector) with probability
        `word_dropout`, in rows that have a memory.
        """
        B, O = tok_len_BO.shape
        memory = self.memory(ctx_BGT, len_BG, ratio=ratio, remat=remat, dropout_key=dropout_key)
        if O > 1:
            memory = Memory(*(_repeat(a, O) for a in memory))
        rows = (reshape(x, B * O, *x.shape[2:]) for x in (tok_BOL, tok_len_BO[:, :, None], mode_BO))
        return self.after(
            memory, *rows, remat=remat, word_dropout=word_dropout, dropout_key=dropout_key
        )

    def after(
        self,
        memory: Memory,
        tok_RL: jax.Array,
        len_R1: jax.Array,
        mode_R: jax.Array,
        *,
        remat: str = "none",
        word_dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> Targets:
        """As `targets`, of one target a row with its memory; len_R1 counts the end token."""
        L = tok_RL.shape[1]
        tok_RL, len_R1 = constrain(tok_RL, "batch"), constrain(len_R1, "batch")
        prefix = self.prefix(memory, mode_R)
        with jax.named_scope("decoder"):
            # The last token is only ever a label.
            x_RLD = self.decoder.embed(tok_RL[:, :-1])
            if word_dropout and dropout_key is not None:
                x_RLD = _hide_words(x_RLD, memory.seg_BM, word_dropout, dropout_key)
            slot_L = jnp.arange(L, dtype=jnp.int32)
            seg_RL = (slot_L[:-1] < len_R1 - 1).astype(jnp.int32)
            pos_RL = prefix.start_pos_B[:, None] + slot_L[:-1]
            hidden_RSD = self.decoder(
                jnp.concatenate([prefix.x_BPD, x_RLD], axis=1),
                jnp.concatenate([prefix.pos_BP, pos_RL], axis=1),
                jnp.concatenate([prefix.seg_BP, seg_RL], axis=1),
                remat=remat,
                packed=False,
                kv_override=prefix.kv_override,
            )
        P = prefix.seg_BP.shape[1]
        return Targets(hidden_RSD[:, P - 1 :], tok_RL, slot_L < len_R1)


def build(
    llm: Transformer,
    decoder: Transformer,
    memory: MemoryConfig,
    train: TrainConfig,
    *,
    segment: int,
    seed: int,
    markers_4D: jax.Array | None = None,
    scale: Scale | None = None,
) -> AutoEncoder:
    """A fresh pair from two towers; `seed` draws memory tokens, connector and markers.

    `scale` is that of the decoder's embeddings, measured unless it is given.
    """
    recipes.check(memory)
    recipes.check_shapes(memory, llm.cfg, decoder.cfg)
    rngs = nnx.Rngs(params=seed)
    compressor = kind_of(memory)(
        llm,
        memory,
        segment=segment,
        slots=slots_of(memory, train, segment),
        scale=scale_of(decoder.table_VD()) if scale is None else scale,
        decoder_learns=train.train_decoder,
        rngs=rngs,
    )
    return AutoEncoder(compressor, decoder, rngs=rngs, markers_4D=markers_4D)


def slots_of(memory: MemoryConfig, train: TrainConfig, segment: int) -> int:
    """Memory tokens that a compressor holds: T / (the smallest ratio it is trained at)."""
    return segment // min((memory.ratio, *train.ratios, *train.curriculum))


class Dtypes(NamedTuple):
    """Of the towers' base weights and of their computation."""

    compressor: str
    decoder: str
    compute: str


def dtypes(train: TrainConfig, memory: MemoryConfig) -> Dtypes:
    """What is frozen is held in `train.dtype`, in which both towers compute; what is trained is
    held in float32."""
    learns = memory.trained != "connector" and memory.lora.rank == 0, train.train_decoder
    compressor, decoder = ("float32" if each else train.dtype for each in learns)
    return Dtypes(compressor, decoder, train.dtype)


def trainable_filter(train: TrainConfig, memory: MemoryConfig):
    """The nnx filter of what is trained: of the tower what `memory.trained` says (its LoRA leaves
    where `memory.lora.rank` > 0), memory tokens, connector, markers, and the decoder only with
    `train.train_decoder`. What of a tower its kind never uses is never trained. Layers lie in one
    array: that only the last of them moves is the optimiser's (`optim.Adam.last_layer`)."""
    lora, trained = memory.lora.rank > 0, memory.trained
    unused = kind_of(memory).unused

    def keep(path: tuple, value: object) -> bool:
        tower = path[:2] == ("compressor", "llm")
        if tower and lora:
            return isinstance(value, LoraParam)
        held = path[0] == "decoder" and not train.train_decoder
        if tower:
            kept = trained == "connector" or (trained == "last_layer" and path[2] != "layers")
            held = kept or path[2] in unused
        return isinstance(value, nnx.Param) and not held

    return keep


def _hide_words(
    x_RLD: jax.Array, seg_RM: jax.Array, share: float, dropout_key: jax.Array
) -> jax.Array:
    # A stream of its own: the compressor's LoRA layers split the key itself.
    hidden_RL = jax.random.bernoulli(
        jax.random.fold_in(dropout_key, 1), share, x_RLD.shape[:2], out_sharding=SPECS["batch"]
    )
    hidden_RL = hidden_RL & (jnp.max(seg_RM, axis=1, keepdims=True) > 0)
    return jnp.where(hidden_RL[:, :, None], 0, x_RLD).astype(x_RLD.dtype)


def _repeat(x: jax.Array, times: int) -> jax.Array:
    """Rows b -> b * times + o, without moving rows between devices."""
    shape = (x.shape[0], times, *x.shape[1:])
    wide = jnp.broadcast_to(x[:, None], shape, out_sharding=SPECS["batch"])
    return reshape(wide, -1, *x.shape[1:])
