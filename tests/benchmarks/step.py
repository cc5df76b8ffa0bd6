"""Speed of the compressor's training step: ours, PyTorch's, and where ours spends its time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp.compress.autoencoder import Memory, trainable_filter
from jaxcomp.config import Config, ModelConfig
from jaxcomp.models.model import count_params
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.loss import objective_of, token_nll
from jaxcomp.training.optim import (
    Layout,
    Params,
    StepSpec,
    init_state,
    rate,
    split_model,
    split_optim,
    train_step,
    transform,
)
from tests.benchmarks.fixture import BenchError, Fixture, Times, fixture, interleaved

SAME = 1e-4  # nats by which the two implementations' losses may differ
CHECKED = 3  # updates whose loss is compared


class StepTimes(NamedTuple):
    """`tokens`: not padding, both towers', of one step. `flops`: of one step, padding included.
    Times by name: "step" and the parts; `torch` is empty without PyTorch."""

    tokens: int
    flops: float
    ours: dict[str, Times]
    torch: dict[str, Times]
    losses: tuple[tuple[float, float], ...]  # (ours, torch's) of the first updates


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def measure(cfg: Config, repeats: int, threads: int = 0) -> StepTimes:
    """Times of one training step at the config's shapes (`cfg` from `with_weights`).

    threads: of PyTorch; 0 leaves it its default. XLA's are fixed when the process starts.
    Raises BenchError for a config with LoRA, or where the two steps do not compute the same loss.
    """
    if cfg.memory.lora.rank:
        raise BenchError(
            f"--only=step compares full training: memory.lora.rank is {cfg.memory.lora.rank}; "
            "set it to 0"
        )
    fix = fixture(cfg)
    with use_mesh(fix.mesh):
        ours = _Ours(fix)
        runs: dict[str, Callable[[], Any]] = {"ours": ours.step}
        theirs, losses = None, ()
        if has_torch():
            theirs = _torch(fix, ours.arrays(), threads)
            losses = tuple((ours.step(), theirs.step()) for _ in range(CHECKED))
            if max(abs(a - b) for a, b in losses) > SAME:
                raise BenchError(f"PyTorch's step is not ours: losses (ours, theirs) {losses}")
            runs["torch"] = theirs.step
        whole = interleaved(runs, repeats)
        parts = interleaved(ours.parts(), repeats)
        torch_parts = interleaved(theirs.parts(), repeats) if theirs else {}
    return StepTimes(
        ours.tokens,
        step_flops(cfg, fix.model.compressor.llm.cfg, fix.model.decoder.cfg),
        {"step": whole["ours"], **parts},
        {"step": whole["torch"], **torch_parts} if theirs else {},
        losses,
    )


def _torch(fix: Fixture, arrays: dict[str, np.ndarray], threads: int):
    import torch  # pyright: ignore[reportMissingImports]  # optional: the extra `bench`

    from tests.benchmarks.torch_step import Step

    cfg, batch = fix.cfg, fix.batch
    if batch.ctx_BGT.shape[1] > 1 or batch.tok_BOL.shape[1] > 1:
        raise BenchError("bench compares one segment and one target: data.segments=1, not sum")
    if cfg.memory.positions != "spread":
        raise BenchError("bench compares memory.positions=spread only")
    if threads:
        torch.set_num_threads(threads)
    comp, dec = fix.model.compressor.llm.cfg, fix.model.decoder.cfg
    return Step(cfg, comp, dec, arrays, jax.device_get(batch))


class _Ours:
    """The real `train_step`, and its parts compiled one by one."""

    def __init__(self, fix: Fixture):
        train = fix.cfg.train
        self.fix = fix
        self.layout, trained, self.frozen = split_model(
            fix.model, trainable_filter(train, fix.cfg.memory)
        )
        self.adam, self.schedule = split_optim(train.optim)
        self.objective = objective_of(train, fix.cfg.memory.ratio)
        # A step consumes its state; the parts need one as well.
        self.trained = jax.tree.map(jnp.copy, trained)
        self.state = init_state(trained, self.adam)
        self.tokens = int(self.objective.tokens(fix.batch))

    def step(self) -> float:
        spec = StepSpec(self.layout, self.objective, self.adam)
        self.state, metrics = train_step(
            spec, self.state, self.frozen, self.fix.batch, self.schedule, None
        )
        return float(metrics["loss"])

    def arrays(self) -> dict[str, np.ndarray]:
        return {k: np.asarray(x) for k, x in (self.trained | self.frozen).items()}

    def parts(self) -> dict[str, Callable[[], Any]]:
        """name -> one part of the step alone, gradients included."""
        spec = (self.layout, self.fix.cfg.memory.ratio)
        params, batch = (self.trained, self.frozen), self.fix.batch
        memory = _memory(spec, params, batch)
        hidden = _states(spec, params, batch, memory)
        head_VD = self.fix.model.decoder.head_VD()
        grads = self.trained

        def call(f: Callable[..., Any], *args: Any) -> Callable[[], Any]:
            return lambda: jax.block_until_ready(f(*args))

        return {
            "compressor forward": call(_memory, spec, params, batch),
            "compressor": call(_memory_grad, spec, params, batch),
            "decoder forward": call(_states, spec, params, batch, memory),
            "decoder": call(_states_grad, spec, params, batch, memory),
            "loss": call(_loss_grad, hidden, head_VD, batch),
            "optimiser": call(_update, self.adam, self.schedule, self.state, grads),
        }


Spec = tuple[Layout, int]  # and the ratio
Both = tuple[Params, Params]  # trained, frozen


@partial(jax.jit, static_argnums=0)
def _memory(spec: Spec, params: Both, batch: Any) -> Memory:
    model = spec[0].merge(*params)
    return model.memory(batch.ctx_BGT, batch.ctx_len_BG, ratio=spec[1])


@partial(jax.jit, static_argnums=0)
def _memory_grad(spec: Spec, params: Both, batch: Any) -> Params:
    def scalar(trained: Params) -> jax.Array:
        vec_BMD = _memory(spec, (trained, params[1]), batch).vec_BMD
        return 0.5 * jnp.sum(vec_BMD * vec_BMD)  # its gradient is the vectors themselves

    return jax.grad(scalar)(params[0])


@partial(jax.jit, static_argnums=0)
def _states(spec: Spec, params: Both, batch: Any, memory: Memory) -> jax.Array:
    model = _Given(spec[0].merge(*params), memory)
    return model.targets(batch, spec[1])


@partial(jax.jit, static_argnums=0)
def _states_grad(spec: Spec, params: Both, batch: Any, memory: Memory) -> jax.Array:
    def scalar(vec_BMD: jax.Array) -> jax.Array:
        hidden = _states(spec, params, batch, memory._replace(vec_BMD=vec_BMD))
        return 0.5 * jnp.sum(hidden * hidden)

    return jax.grad(scalar)(memory.vec_BMD)


class _Given(NamedTuple):
    """The pair with its memory given, so that only the decoder is computed."""

    model: Any
    given: Memory

    def targets(self, batch: Any, ratio: int) -> jax.Array:
        self.model.memory = lambda *_, **__: self.given
        fields = (batch.ctx_BGT, batch.ctx_len_BG, batch.tok_BOL, batch.tok_len_BO, batch.mode_BO)
        return self.model.targets(*fields, ratio=ratio).hidden_RLD


@jax.jit
def _loss_grad(hidden_RLD: jax.Array, head_VD: jax.Array, batch: Any) -> jax.Array:
    R, L = hidden_RLD.shape[:2]
    valid_RL = (jnp.arange(L) < batch.tok_len_BO.reshape(R, 1)).astype(jnp.float32)

    def scalar(hidden_RLD: jax.Array) -> jax.Array:
        nll_RL, _ = token_nll(hidden_RLD, head_VD, batch.tok_BOL.reshape(R, L))
        return jnp.sum(nll_RL * valid_RL) / jnp.sum(valid_RL)

    return jax.grad(scalar)(hidden_RLD)


@partial(jax.jit, static_argnums=0)
def _update(adam: Any, schedule: Any, state: Any, grads: Params) -> tuple[Any, Params, jax.Array]:
    updates, opt = transform(adam).update(grads, state.opt, state.params)
    lr = rate(schedule, state.step)
    params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
    return opt, params, optax.tree.norm(grads)


def forward_flops(cfg: ModelConfig, tokens: int, keys: float) -> float:
    """Floating point operations of the layers (not the output matrix) for `tokens` tokens that
    see `keys` keys each on average: 2 a weight and token, and 4 N H a key and token and layer."""
    D = cfg.hidden_size
    tables = 1 if cfg.tie_word_embeddings else 2
    weights = count_params(cfg) - tables * cfg.vocab_size * D
    attention = 4 * cfg.num_hidden_layers * cfg.num_attention_heads * cfg.head_dim * keys
    return tokens * (2 * weights + attention)


def step_flops(cfg: Config, comp: ModelConfig, dec: ModelConfig) -> float:
    """Of one step: 6 a weight and token in the trained tower, 4 in the frozen one, padding
    included, causal attention halved; without connector and optimiser."""
    M = cfg.data.segment // cfg.memory.ratio
    S = cfg.data.segment + M
    P = cfg.data.segments * M + 3
    examples, L = cfg.train.optim.batch, cfg.data.target
    targets = examples * (2 if cfg.train.objective == "sum" else 1)
    trained = 3 * forward_flops(comp, examples * cfg.data.segments * S, S / 2)
    frozen = 2 * forward_flops(dec, targets * (P + L - 1), (P + L - 1) / 2)
    return trained + frozen + 2 * 2 * targets * L * dec.vocab_size * dec.hidden_size
