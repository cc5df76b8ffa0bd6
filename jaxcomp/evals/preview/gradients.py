"""Dependence of outputs on inputs, by derivatives of the training objective.

A zero nudge is added to every input and to every state of each tower, and the gradient by that
nudge says whether the place mattered. Blocked attention has weight exactly 0, and so its gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.models.block import KeyValues, KVOverride
from jaxcomp.training.optim import Layout, Params


class Tower(NamedTuple):
    """One tower's call of S places, and the gradient of what was asked, each row by itself."""

    pos_BS: Any
    seg_BS: Any
    hidden_BSD: Any
    by_input_BSD: Any
    by_state_BSD: Any

    @property
    def read_BS(self) -> np.ndarray:
        """Whether what was asked depends on the input at that place."""
        return np.any(np.asarray(self.by_input_BSD) != 0, axis=-1)

    @property
    def used_BS(self) -> np.ndarray:
        """Whether what was asked depends on the state at that place through the loss alone."""
        return np.any(np.asarray(self.by_state_BSD) != 0, axis=-1)


class Heard(NamedTuple):
    """Compressor rows are b * G + g, decoder rows b * O + o. nll_BO is each target's summed loss in
    nats, sums_K what the objective adds up."""

    compressor: Tower
    decoder: Tower
    nll_BO: Any
    sums_K: Any


class Ask(NamedTuple):
    """What is differentiated: the loss of each target times weights_BO, plus the state of each row
    of a tower at the place `compressor_B` or `decoder_B` (-1: none)."""

    weights_BO: Any
    compressor_B: Any
    decoder_B: Any


class _Tap:
    """Stands in for a tower, adds the nudges and keeps what went by (of the last call).

    The nudge of an input whose keys and values are given goes to those: nothing else of it is read.
    """

    def __init__(self, tower: Any, nudge: tuple[Any, Any] | None):
        self.tower, self.nudge = tower, nudge
        self.heard: tuple[Any, ...] = ()

    def __call__(self, x_BSD: jax.Array, *places: Any, **options: Any) -> jax.Array:
        x_BSD = self._nudged(x_BSD, 0)
        if self.nudge is not None and options.get("kv_override") is not None:
            options["kv_override"] = _pushed(options["kv_override"], self.nudge[0])
        return self._heard(x_BSD, places, self.tower(x_BSD, *places, **options))

    def keep(self, x_BSD: jax.Array, *places: Any, **options: Any) -> tuple[jax.Array, KeyValues]:
        x_BSD = self._nudged(x_BSD, 0)
        hidden_BSD, kv = self.tower.keep(x_BSD, *places, **options)
        return self._heard(x_BSD, places, hidden_BSD), kv

    def _nudged(self, x_BSD: jax.Array, which: int) -> jax.Array:
        return x_BSD if self.nudge is None else x_BSD + self.nudge[which]

    def _heard(self, x_BSD: jax.Array, places: Any, hidden_BSD: jax.Array) -> jax.Array:
        self.heard = (x_BSD, *places, hidden_BSD)
        return self._nudged(hidden_BSD, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tower, name)


def _pushed(kv_override: KVOverride, nudge_BSD: jax.Array) -> KVOverride:
    """Every key and value of a place, moved by the sum of the place's nudge."""
    M = kv_override.kv.k_YBMKH.shape[2]
    mine_BMD = jax.lax.dynamic_slice_in_dim(nudge_BSD, kv_override.first, M, axis=1)
    push_BM11 = jnp.sum(mine_BMD, axis=-1)[:, :, None, None]
    return kv_override._replace(kv=KeyValues(*(x + push_BM11 for x in kv_override.kv)))


@partial(jax.jit, static_argnames=("layout", "objective"))
def listen(layout: Layout, objective: Any, params: Params, batch: Any, ask: Ask) -> Heard:
    """One forward and backward pass of `objective` (a `train.loss.Objective`) over a batch."""

    def run(nudges: Any, weights_BO: jax.Array) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
        model: AutoEncoder = layout.merge(params)
        taps = tuple(map(_Tap, (model.compressor.llm, model.decoder), nudges))
        # Past the modules' own attribute rules: nothing splits this model again.
        vars(model.compressor)["llm"], vars(model)["decoder"] = taps
        terms = objective.terms(model, batch, weights_BO, None)
        return terms, tuple(tap.heard for tap in taps)

    _, shapes = jax.eval_shape(partial(run, (None, None)), ask.weights_BO)

    def zeros(shape: Any) -> jax.Array:
        return jnp.zeros(shape.shape, shape.dtype, out_sharding=shape.sharding)

    nudges = tuple((zeros(x), zeros(hidden)) for x, _, _, hidden in shapes)

    def asked(nudges: Any, weights_BO: jax.Array):
        terms, heard = run(nudges, weights_BO)
        total = terms.loss
        for (*_, hidden_BSD), at_B in zip(heard, ask[1:], strict=True):
            # One fixed direction of each state, in which no two inputs' effects cancel.
            direction_D = jnp.cos(1.0 + 7.0 * jnp.arange(hidden_BSD.shape[-1]))
            at_BS = jnp.arange(hidden_BSD.shape[1]) == at_B[:, None]
            total += jnp.sum(jnp.sum(hidden_BSD * direction_D, axis=-1) * at_BS)
        return total, (terms.sums_K, heard)

    (by_nudge, nll_BO), (sums_K, heard) = jax.grad(asked, argnums=(0, 1), has_aux=True)(
        nudges, ask.weights_BO
    )
    compressor, decoder = (Tower(*h[1:], *by) for h, by in zip(heard, by_nudge, strict=True))
    return Heard(compressor, decoder, nll_BO, sums_K)
