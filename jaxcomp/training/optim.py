"""AdamW with warm-up, cosine and clipping, and the one compiled update step.

What may differ between jobs of equal shape (rates, lengths, seeds, weights) is a traced argument of
`train_step`; what is static is compared by value. So such jobs compile once in a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxcomp.config import OptimConfig
from jaxcomp.runtime.sharding import SPECS, on_host, put_batch
from jaxcomp.training.loss import Objective, Terms

EMA = 0.98  # of the loss that the log smooths
LAYERS = "compressor/llm/layers/"  # stacked on axis 0
_BILLION = 10**9


class Adam(NamedTuple):
    """The optimiser's static part. With `last_layer`, of the layers of the compressor's tower only
    the last moves."""

    b1: float
    b2: float
    weight_decay: float
    clip: float
    accumulate: int
    last_layer: bool = False


class Schedule(NamedTuple):
    """The optimiser's traced part, float32 scalars.

    rate(step) = lr * min(1, (step + 1) / warmup) before the peak, then a half cosine from lr to
    final_lr * lr at `steps`; embed_lr times that for token embeddings and memory tokens. Markers
    move only in the first marker_steps steps.
    """

    lr: Any
    embed_lr: Any
    warmup: Any
    steps: Any
    final_lr: Any
    marker_steps: Any


Params = dict[str, jax.Array]  # by path, "compressor/llm/layers/q/w"


class TrainState(NamedTuple):
    """All that training changes, and all that a checkpoint holds of the model."""

    step: jax.Array  # int32, updates done
    params: Params  # the trainable split
    opt: Any
    loss_ema: jax.Array  # float32, not yet debiased
    tokens_2: jax.Array  # int32 (billions, rest) of tokens seen: int32 alone would overflow


class Layout(NamedTuple):
    """How a model is put together from `Params`. Plain dicts travel between host and device
    because nnx.State costs milliseconds of Python at each dispatch, and a tiny step has few."""

    graphdef: Any
    names: tuple[str, ...]
    treedef: Any

    def merge(self, *params: Params) -> Any:
        every: Params = {name: x for part in params for name, x in part.items()}
        leaves = [every[name] for name in self.names]
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))


class StepSpec(NamedTuple):
    """What a step is compiled for; compared by value."""

    layout: Layout
    objective: Any  # loss.Objective, hashable
    adam: Adam


def split_model(model: nnx.Module, trainable: Any) -> tuple[Layout, Params, Params]:
    """(layout, trainable, frozen) of a model; `trainable` is an nnx filter."""
    graphdef, state = nnx.split(model)
    paths, treedef = jax.tree_util.tree_flatten_with_path(state)
    names = tuple(_name(path) for path, _ in paths)
    every = dict(zip(names, (x for _, x in paths), strict=True))
    chosen, _ = nnx.split_state(state, trainable, ...)
    mine = {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(chosen)}
    trained = {name: x for name, x in every.items() if name in mine}
    frozen = {name: x for name, x in every.items() if name not in mine}
    return Layout(graphdef, names, treedef), trained, frozen


def _name(path: Any) -> str:
    keys = [str(k.key) for k in path if hasattr(k, "key")]
    return "/".join(keys)


def split_optim(
    cfg: OptimConfig, marker_steps: float = float("inf"), last_layer: bool = False
) -> tuple[Adam, Schedule]:
    """The static and the traced part of an OptimConfig."""
    adam = Adam(cfg.b1, cfg.b2, cfg.weight_decay, cfg.clip, cfg.accumulate, last_layer)
    values = (cfg.lr, cfg.embed_lr, cfg.warmup, cfg.steps, cfg.final_lr, marker_steps)
    return adam, Schedule(*(jnp.float32(v) for v in values))


def rate(schedule: Schedule, step: jax.Array) -> jax.Array:
    """Learning rate of update `step` (0, 1, ...); see `Schedule`."""
    step = step.astype(jnp.float32)
    warm = jnp.minimum(1.0, (step + 1) / jnp.maximum(schedule.warmup, 1.0))
    span = jnp.maximum(schedule.steps - schedule.warmup, 1.0)
    done = jnp.clip((step - schedule.warmup) / span, 0.0, 1.0)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * done))
    return schedule.lr * warm * (schedule.final_lr + (1 - schedule.final_lr) * cosine)


def transform(adam: Adam) -> optax.GradientTransformation:
    """Adam, and decoupled weight decay on matrices (not norms, biases, embeddings, memory tokens or
    markers); clipping and the learning rate are `train_step`'s."""
    parts = [optax.scale_by_adam(b1=adam.b1, b2=adam.b2)]
    if adam.weight_decay:
        parts.append(optax.add_decayed_weights(adam.weight_decay, mask=_decayed))
    return optax.chain(*parts)


def fresh_state(params: Params, adam: Adam) -> TrainState:
    """Step 0. The moments take the parameters' shardings."""
    opt = transform(adam).init(params)
    return TrainState(jnp.int32(0), params, opt, jnp.float32(0.0), jnp.zeros(2, jnp.int32))


def init_state(params: Params, adam: Adam) -> TrainState:
    """`fresh_state`, all of it on the active mesh."""
    return on_mesh(fresh_state(params, adam))


def on_mesh(tree: Any) -> Any:
    """`tree` with every leaf that is on no mesh yet (a fresh scalar) replicated over the active
    one: the first step then has the layouts of the second, and compiles for both."""
    everywhere = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())

    def put(x: jax.Array) -> jax.Array:
        return x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, everywhere)

    return jax.tree.map(put, tree)


def numbers(state: TrainState) -> dict[str, float | None]:
    """What a rerun reproduces: updates, tokens (not padding) of compressor and decoder, loss."""
    steps = int(state.step)
    billions, rest = (int(x) for x in jax.device_get(state.tokens_2))
    return {
        "steps": steps,
        "tokens": billions * _BILLION + rest,
        "train_loss": float(_debiased(state.loss_ema, state.step)) if steps else None,
    }


def _debiased(loss_ema: jax.Array, step: jax.Array) -> jax.Array:
    """Exponential mean of the training loss (decay EMA), debiased for its zero start."""
    return loss_ema / jnp.maximum(1 - EMA ** step.astype(jnp.float32), 1e-9)


@partial(jax.jit, static_argnames=("spec",), donate_argnames=("state",))
def train_step(
    spec: StepSpec,
    state: TrainState,
    frozen: Params,
    batch: Any,
    schedule: Schedule,
    dropout_key: jax.Array | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Returns the new state (the old one is consumed) and scalar metrics.

    The gradient is that of sum(weight * nll) over the whole batch, whatever `accumulate` is.
    Only `state.params` are differentiated; `frozen` are plain inputs.
    """
    grads, sums_K = _gradients(spec, state, frozen, batch, dropout_key)
    with jax.named_scope("optimizer"):
        params, opt, norm, lr = _update(spec.adam, state, grads, schedule)
    metrics = spec.objective.metrics(sums_K)
    ema = EMA * state.loss_ema + (1 - EMA) * metrics["loss"]
    step = state.step + 1
    tokens = spec.objective.tokens(batch)
    rest = state.tokens_2[1] + tokens
    tokens_2 = jnp.stack([state.tokens_2[0] + rest // _BILLION, rest % _BILLION])
    metrics |= {"loss_ema": _debiased(ema, step), "grad_norm": norm, "lr": lr, "tokens": tokens}
    return TrainState(step, params, opt, ema, tokens_2), metrics


def _update(
    adam: Adam, state: TrainState, grads: Params, schedule: Schedule
) -> tuple[Params, Any, jax.Array, jax.Array]:
    """New parameters and moments; the gradient's norm before clipping, and the rate."""
    live = (state.step < schedule.marker_steps).astype(jnp.float32)
    grads = _gate(grads, live, adam.last_layer)
    norm = optax.tree.norm(grads)
    shrink = jnp.minimum(1.0, adam.clip / jnp.maximum(norm, 1e-16))
    grads = jax.tree.map(lambda g: g * shrink, grads)
    updates, opt = transform(adam).update(grads, state.opt, state.params)
    lr = rate(schedule, state.step)
    # Zero gradients alone would leave momentum and weight decay moving what stands still.
    updates = _gate(updates, live, adam.last_layer)
    rates = {name: lr * schedule.embed_lr if _is_input(name) else lr for name in updates}
    params = jax.tree.map(lambda p, u, r: (p - r * u).astype(p.dtype), state.params, updates, rates)
    return params, opt, norm, lr


@partial(jax.jit, static_argnames=("layout", "objective"))
def eval_step(layout: Layout, objective: Objective, params: Params, batch: Any) -> jax.Array:
    """The objective's sums_K over one batch, for `objective.metrics` after adding up."""
    model = layout.merge(params)
    return objective.terms(model, batch, objective.weights(batch), None).sums_K


def summed(model: nnx.Module, objective: Objective, batches: Iterable[Any]) -> np.ndarray:
    """The objective's sums_K over host batches, float64, under the active mesh."""
    mesh = jax.sharding.get_mesh()
    layout, params, _ = split_model(model, nnx.Variable)
    total: Any = np.float64(0)
    for batch in batches:
        sums_K = eval_step(layout, objective, params, put_batch(batch, mesh))
        total += on_host(sums_K).astype(np.float64)
    return total


def _gradients(
    spec: StepSpec, state: TrainState, frozen: Any, batch: Any, dropout_key: jax.Array | None
) -> tuple[Any, jax.Array]:
    def loss(params: Any, batch: Any, weights: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        model = spec.layout.merge(params, frozen)
        terms: Terms = spec.objective.terms(model, batch, weights, key)
        return terms.loss, terms.sums_K

    differentiate = jax.grad(loss, has_aux=True)
    weights = spec.objective.weights(batch)
    key = None if dropout_key is None else jax.random.fold_in(dropout_key, state.step)
    if spec.adam.accumulate == 1:
        return differentiate(state.params, batch, weights, key)

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        index, batch, weights = xs
        key_i = None if key is None else jax.random.fold_in(key, index)
        grads, sums_K = differentiate(state.params, batch, weights, key_i)
        return jax.tree.map(jnp.add, carry, (grads, sums_K)), None

    count = spec.adam.accumulate
    micro = jax.tree.map(lambda x: _micro(x, count), (batch, weights))
    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(differentiate, state.params, *first, key)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype, out_sharding=s.sharding), shapes)
    total, _ = jax.lax.scan(body, zero, (jnp.arange(count), *micro))
    return total


def _micro(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...]; micro-batch i has rows i, i + count, ..., so that no row
    changes its device."""
    shape = (x.shape[0] // count, count, *x.shape[1:])
    return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=SPECS["batch"]), 1, 0)


def moving(name: str, x: Any, last_layer: bool) -> int:
    """How many numbers of the trained leaf `name` move."""
    return x.size // len(x) if last_layer and name.startswith(LAYERS) else x.size


def _gate(tree: Any, live: jax.Array, last_layer: bool) -> Params:
    """Zero in the place of what stands still: markers, and layers before the last."""

    def gated(name: str, x: jax.Array) -> jax.Array:
        if "markers_4D" in name:
            return x * live
        if last_layer and name.startswith(LAYERS):
            last_Y = jnp.arange(len(x)) == len(x) - 1
            return x * jnp.expand_dims(last_Y, range(1, x.ndim))
        return x

    return {name: gated(name, x) for name, x in tree.items()}


def _is_input(name: str) -> bool:
    """Token embeddings and memory tokens: a row moves only in steps that hold its token."""
    return name.rsplit("/", 1)[-1] in ("emb", "mem_ME")


def _decayed(params: Params) -> dict[str, bool]:
    skip = ("norm", "emb", "mem_ME", "markers_4D", "bias")
    return {name: not any(s in name for s in skip) for name in params}
