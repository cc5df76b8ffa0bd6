"""Cramming (arXiv 2502.13063): the vectors of one text, optimised for that text alone.

What so many vectors can carry to the frozen decoder: the upper bound of every compressor, as far
as the steps reach. The loss is that of rebuilding, teacher-forced. Adam updates only the vectors,
in units of the spread of the decoder's token embeddings. Rows are independent: each has its own
loss, and Adam is elementwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.compress.baselines import Plain, blocks, picks
from jaxcomp.compress.memory import Memory, moments
from jaxcomp.runtime.sharding import constrain

LR = 0.3  # of Adam, in standard deviations of the decoder's token embeddings


class Crammed(NamedTuple):
    """`nll_NB` are nats a target token (end token included) of each row, before the first update,
    ..., after the last: N = steps + 1; 0 for a row without target."""

    memory: Memory
    nll_NB: jax.Array


@partial(jax.jit, static_argnames=("graphdef", "steps"))
def cram(
    graphdef: Any,
    state: Any,
    memory: Memory,
    tok_BL: jax.Array,
    len_B: jax.Array,
    *,
    steps: int,
    lr: float = LR,
) -> Crammed:
    """`memory` with vectors optimised to rebuild tok_BL, from where they stand.

    Args:
        graphdef, state: nnx.split of the pair; read only.
        memory: the start, such as a compressor's or `mean_start`'s. Places stay.
        tok_BL: target tokens, the end token included; len_B counts them.
        steps: updates of Adam.
        lr: its constant rate, in standard deviations of the decoder's token embeddings.

    The logits of all rows exist at once (B x L x V float32).
    """
    return crammed(nnx.merge(graphdef, state), memory, tok_BL, len_B, steps, lr)


def crammed(
    model: AutoEncoder,
    memory: Memory,
    tok_BL: jax.Array,
    len_B: jax.Array,
    steps: int,
    lr: jax.Array | float,
) -> Crammed:
    """`cram`, inside a compiled function."""
    _, std_D = moments(model.decoder.table_VD())
    unit = jnp.sqrt(jnp.mean(std_D**2))
    adam = optax.adam(lr)

    def moved(step_BMD: jax.Array) -> Memory:
        vec_BMD = memory.vec_BMD + unit * step_BMD
        return memory._replace(vec_BMD=vec_BMD * memory.seg_BM[:, :, None])

    def loss(step_BMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        nll_B = rebuilt_nll(model, moved(step_BMD), tok_BL, len_B)
        return jnp.sum(nll_B), nll_B

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
        step_BMD, opt = carry
        (_, nll_B), grad_BMD = jax.value_and_grad(loss, has_aux=True)(step_BMD)
        update_BMD, opt = adam.update(grad_BMD, opt)
        return (step_BMD + update_BMD, opt), nll_B

    zero_BMD = jnp.zeros_like(memory.vec_BMD)
    (step_BMD, _), nll_NB = jax.lax.scan(body, (zero_BMD, adam.init(zero_BMD)), length=steps)
    last_1B = loss(step_BMD)[1][None]
    return Crammed(moved(step_BMD), jnp.concatenate([nll_NB, last_1B], axis=0))


def rebuilt_nll(
    model: AutoEncoder, memory: Memory, tok_BL: jax.Array, len_B: jax.Array
) -> jax.Array:
    """nll_B: nats a target token of rebuilding each row from its memory, teacher-forced."""
    found = model.after(memory, tok_BL, len_B[:, None], jnp.zeros_like(len_B))
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(found.hidden_RLD), axis=-1)
    is_label_BLV = jnp.arange(logp_BLV.shape[-1]) == tok_BL[:, :, None]
    nll_BL = -jnp.sum(jnp.where(is_label_BLV, logp_BLV, 0.0), axis=-1)
    return jnp.sum(jnp.where(found.valid_RL, nll_BL, 0.0), axis=1) / jnp.maximum(len_B, 1)


def mean_start(model: AutoEncoder, memory: Memory) -> Memory:
    """The places of `memory`, each valid vector the decoder's mean token embedding."""
    mean_D, _ = moments(model.decoder.table_VD())
    vec_BMD = constrain(jnp.zeros_like(memory.vec_BMD) + mean_D, "act_BLD")
    return memory._replace(vec_BMD=vec_BMD * memory.seg_BM[:, :, None])


class CrammedPair(Plain):
    """A pair whose memory of a text is crammed on the spot, for `evals.evaluate` as in
    baselines.py: context tokens are the decoder's. Starts at `mean_start`.

    Args:
        pair: gives decoder, markers and layout.
        eos_id: the decoder's end token.
        steps, lr: as of `cram`.
    """

    def __init__(self, pair: AutoEncoder, *, eos_id: int, steps: int, lr: float = LR):
        super().__init__(pair)
        self.eos_id, self.steps, self.lr = eos_id, steps, lr

    def memory(
        self,
        ctx_BGT: jax.Array,
        len_BG: jax.Array,
        *,
        ratio: int,
        remat: str = "none",
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """As `AutoEncoder.memory`, of decoder tokens, which are also the target."""
        tok_BS, seg_BS = self._text(ctx_BGT, len_BG)
        S = tok_BS.shape[1]
        seg_BM, last_BM = blocks(seg_BS, ratio)
        zero_BMD = jnp.zeros((*seg_BM.shape, self.decoder.cfg.hidden_size), jnp.float32)
        start = self._placed(constrain(zero_BMD, "act_BLD"), seg_BM, last_BM, S)
        count_B = jnp.sum(seg_BS, axis=1)
        # Segments in a row, without the padding between them, and the end token.
        target_BL = jnp.sum(picks(seg_BS, S + 1) * tok_BS[:, None], axis=2)
        is_end_BL = jnp.arange(S + 1, dtype=jnp.int32) == count_B[:, None]
        target_BL = jnp.where(is_end_BL, self.eos_id, target_BL)
        return crammed(
            self, mean_start(self, start), target_BL, count_B + 1, self.steps, self.lr
        ).memory
