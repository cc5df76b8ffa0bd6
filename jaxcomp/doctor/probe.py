"""Listening to the real loss: what both towers are given, answer, and what depends on what.

Dependence is measured by derivatives of the objective that training uses: a zero nudge is added to
every input and to every state of each tower, and the gradient by that nudge says whether the place
mattered. Attention that is blocked has weight exactly 0, so its gradient is exactly 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.train.optim import Layout, Params


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
    """Stands in for a tower, adds the nudges and keeps what went by (of the last call)."""

    def __init__(self, tower: Any, nudge: tuple[Any, Any] | None):
        self.tower, self.nudge = tower, nudge
        self.heard: tuple[Any, ...] = ()

    def __call__(self, x_BSD: jax.Array, pos_BS: Any, seg_BS: Any, **options: Any) -> jax.Array:
        if self.nudge is not None:
            x_BSD = x_BSD + self.nudge[0]
        hidden_BSD = self.tower(x_BSD, pos_BS, seg_BS, **options)
        self.heard = (x_BSD, pos_BS, seg_BS, hidden_BSD)
        return hidden_BSD if self.nudge is None else hidden_BSD + self.nudge[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tower, name)


@partial(jax.jit, static_argnames=("layout", "objective"))
def listen(layout: Layout, objective: Any, params: Params, batch: Any, ask: Ask) -> Heard:
    """One forward and backward pass of `objective` (a `train.loss.Objective`) over a batch."""

    def run(nudges: Any, weights_BO: jax.Array) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
        model: AutoEncoder = layout.merge(params)
        taps = [
            _Tap(tower, nudge)
            for tower, nudge in zip((model.compressor.llm, model.decoder), nudges, strict=True)
        ]
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
