"""The update step: the same gradient however a batch is cut; what moves, and what must not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny

from jaxcomp.compress.autoencoder import trainable_filter
from jaxcomp.config import LoraConfig, MemoryConfig, OptimConfig, TrainConfig
from jaxcomp.training.loss import MemoryObjective, SumObjective
from jaxcomp.training.optim import (
    Adam,
    StepSpec,
    _decayed,
    _gradients,
    init_state,
    rate,
    split_model,
    split_optim,
    train_step,
)


def parts(memory=tiny.FULL, seed=0):
    return split_model(tiny.pair(memory, seed), trainable_filter(TrainConfig(), memory))


@functools.partial(jax.jit, static_argnames="spec")
def gradients(spec, state, frozen, batch):
    return _gradients(spec, state, frozen, batch, None)


def loss_and_gradients(accumulate, memory):
    layout, trained, frozen = parts(memory)
    adam = Adam(0.9, 0.95, 0.0, 1.0, accumulate)
    spec = StepSpec(layout, SumObjective(2, 0.3), adam)
    batch = tiny.put(tiny.batch(rows=8, targets=2))
    grads, sums_K = gradients(spec, init_state(trained, adam), frozen, batch)
    return jax.tree.map(np.array, grads), np.array(sums_K)


@pytest.mark.parametrize("memory", [tiny.FULL, *tiny.TRAINED.values()], ids=["all", *tiny.TRAINED])
def test_gradients_do_not_depend_on_accumulation(mesh, memory):
    """Of 8 rows at a time, and of each alone."""
    (wanted, sums), (found, found_sums) = (loss_and_gradients(n, memory) for n in (1, 8))
    np.testing.assert_allclose(found_sums, sums, rtol=1e-5)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        np.testing.assert_allclose(grad, wanted[name], atol=1e-5, rtol=1e-4, err_msg=name)
        assert np.abs(grad).max() > 0, name


def test_rate_warms_up_and_falls_to_its_floor():
    _, schedule = split_optim(OptimConfig(lr=2.0, warmup=4, steps=12, final_lr=0.1))
    rates = np.array(rate(schedule, jnp.arange(13)))
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    assert (np.diff(rates[4:]) < 0).all()
    np.testing.assert_allclose(rates[8], 0.2 + 1.8 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(rates[12], 0.2, rtol=1e-5)


def test_runs_that_differ_in_rate_length_and_seed_share_one_compilation(mesh):
    traced = []

    class Counted(MemoryObjective):
        def terms(self, *args):
            traced.append(args)
            return super().terms(*args)

    def step(optim, seed):
        layout, trained, frozen = parts(seed=seed)
        adam, schedule = split_optim(optim, marker_steps=seed)
        spec = StepSpec(layout, Counted(2), adam)
        state, before = init_state(trained, adam), np.array(trained["compressor/mem_ME"])
        state, _ = train_step(spec, state, frozen, tiny.put(tiny.batch(seed=seed)), schedule, None)
        return np.abs(np.array(state.params["compressor/mem_ME"]) - before).max()

    slow = step(OptimConfig(lr=1e-4, steps=5, warmup=0), 1)
    compiled = len(traced)
    fast = step(OptimConfig(lr=1e-2, steps=9, warmup=0), 2)
    assert len(traced) == compiled == 1
    assert fast > 10 * slow  # though compiled once, the rate is the run's own


def test_embeddings_and_memory_tokens_move_at_their_own_rate(mesh):
    def moved(embed_lr):
        layout, trained, frozen = parts()
        before = {name: np.array(x) for name, x in trained.items()}
        adam, schedule = split_optim(OptimConfig(lr=1e-3, embed_lr=embed_lr, warmup=0))
        spec = StepSpec(layout, MemoryObjective(2), adam)
        state, _ = train_step(
            spec, init_state(trained, adam), frozen, tiny.put(tiny.batch()), schedule, None
        )
        return {name: np.array(state.params[name]) - x for name, x in before.items()}

    one, ten = moved(1.0), moved(10.0)
    inputs = {"compressor/llm/emb", "compressor/mem_ME"}
    assert inputs < set(one)
    for name in one:
        factor = 10 if name in inputs else 1
        np.testing.assert_allclose(ten[name], factor * one[name], rtol=1e-2, atol=1e-6)
        assert np.abs(one[name]).max() > 0


def test_lora_trains_only_its_leaves(mesh):
    memory = MemoryConfig(ratio=2, lora=LoraConfig(rank=2, dropout=0.5))
    layout, trained, frozen = parts(memory)
    base = {k: np.array(x) for k, x in frozen.items()}
    inside = [k for k in trained if k.startswith("compressor/llm")]
    assert inside
    assert all("/lora/" in k for k in inside)
    assert any(k.startswith("compressor/llm") for k in frozen)
    before = {k: np.array(x) for k, x in trained.items()}
    adam, schedule = split_optim(OptimConfig(lr=1e-2, warmup=0))
    state = init_state(trained, adam)
    spec = StepSpec(layout, MemoryObjective(2), adam)
    for seed in range(2):  # B starts at zero, so A has a gradient only from the second step
        batch = tiny.put(tiny.batch(seed=seed))
        state, _ = train_step(spec, state, frozen, batch, schedule, jax.random.key(0))
    for name, value in base.items():
        np.testing.assert_array_equal(frozen[name], value)
    still = [k for k, x in state.params.items() if np.array_equal(x, before[k])]
    assert still == []


def test_weight_decay_is_for_matrices_alone(mesh):
    _, trained, _ = parts()
    decayed = {name for name, yes in _decayed(trained).items() if yes}
    assert "compressor/llm/layers/q/w" in decayed
    assert "compressor/connector/up_EF" in decayed
    spared = {"llm/emb", "llm/norm", "mem_ME", "connector/bias_D"}
    assert {"markers_4D", *(f"compressor/{name}" for name in spared)} <= trained.keys() - decayed
