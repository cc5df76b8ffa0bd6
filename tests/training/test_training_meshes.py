"""Loss and gradients of a step are the same wherever its arrays lie."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from training_models import batch, lm_batch

from jaxcomp.compress.autoencoder import build, trainable_filter
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import LoraConfig, MemoryConfig, ModelConfig, OptimConfig, TrainConfig
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh
from jaxcomp.training import optim
from jaxcomp.training.loss import LmObjective, SumObjective
from jaxcomp.training.replay import Replayed, ReplayObjective

pytestmark = pytest.mark.slow

MESHES = [(1, 8, 1), (1, 2, 4), (2, 2, 2)]
# Every axis divides by 8 or, where tp cuts it, by 4.
COMP = ModelConfig("qwen3", 32, 16, 2, 8, 4, 4, 32, tie_word_embeddings=False)
DEC = ModelConfig("llama", 32, 24, 2, 4, 4, 4, 32)


def recipe_of(name, **fields):
    return MemoryConfig(ratio=2, **recipe(name)["memory"], **fields)


CASES = {
    "lora": (MemoryConfig(ratio=2, lora=LoraConfig(2, 4.0, 0.0)), "none", 0, 1),
    "replay, chunks, micro-batches": (MemoryConfig(ratio=2), "none", 3, 2),
    "connector": (recipe_of("mean_pool", trained="connector"), "none", 0, 2),
    "everything, remat, chunks, micro-batches": (MemoryConfig(ratio=2), "full", 3, 2),
}


def gradients(case, shape):
    """(sums of the loss, gradient of every trained array) on a mesh of `shape`, on the host."""
    memory, remat, chunk, accumulate = CASES[case]
    train = TrainConfig(train_decoder=case.startswith("everything"))
    mesh = mesh_of(shape)
    with use_mesh(mesh):
        rngs = nnx.Rngs(params=0)
        llm = Transformer(COMP, rngs=rngs, lora=memory.lora)
        model = build(llm, Transformer(DEC, rngs=rngs), memory, train, segment=8, seed=0)
        layout, trained, frozen = optim.split_model(model, trainable_filter(train, memory))
        # New adapters are zero, and so would be half of their gradients.
        trained = {k: x + 0.1 if k.endswith("lora/b") else x for k, x in trained.items()}
        adam, _ = optim.split_optim(OptimConfig(accumulate=accumulate))
        objective: Any = SumObjective(2, 0.5, remat, chunk)
        drawn: Any = batch(rows=16, targets=2)
        if case.startswith("replay"):
            objective = ReplayObjective(objective, 0.5, LmObjective(remat, chunk))
            drawn = Replayed(drawn, lm_batch(rows=16))
        spec = optim.StepSpec(layout, objective, adam)
        state = optim.init_state(trained, adam)
        rows = put_batch(drawn, mesh)
        step = jax.jit(partial(optim._gradients, spec, dropout_key=None))
        grads, sums_K = step(state, frozen, rows)
        placed = {k: jax.typeof(g).sharding.spec for k, g in grads.items()}
        assert placed == {k: jax.typeof(x).sharding.spec for k, x in trained.items()}
        return jax.device_get(sums_K), jax.device_get(grads)


@pytest.fixture(scope="module")
def alone():
    return {case: gradients(case, (1, 1, 1)) for case in CASES}


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_do_not_depend_on_the_mesh(alone, case, shape):
    sums_K, grads = gradients(case, shape)
    expected_K, expected = alone[case]
    np.testing.assert_allclose(sums_K, expected_K, rtol=1e-5)
    assert grads.keys() == expected.keys()
    for name, x in expected.items():
        scale = np.abs(x).max()
        assert scale > 0, name
        np.testing.assert_allclose(grads[name], x, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def stepped(shape):
    """The compressor's layers before and after a step that trains the last."""
    memory, train, mesh = MemoryConfig(ratio=2, trained="last_layer"), TrainConfig(), mesh_of(shape)
    with use_mesh(mesh):
        rngs = nnx.Rngs(params=0)
        towers = Transformer(COMP, rngs=rngs), Transformer(DEC, rngs=rngs)
        model = build(*towers, memory, train, segment=8, seed=0)
        layout, trained, frozen = optim.split_model(model, trainable_filter(train, memory))
        before = jax.device_get(trained)
        rates = OptimConfig(lr=1e-2, warmup=0, weight_decay=0.1)
        adam, schedule = optim.split_optim(rates, last_layer=True)
        spec = optim.StepSpec(layout, SumObjective(2, 0.5), adam)
        rows = put_batch(batch(rows=16, targets=2), mesh)
        state = optim.init_state(trained, adam)
        state, metrics = optim.train_step(spec, state, frozen, rows, optim.on_mesh(schedule), None)
        return before, jax.device_get(state.params), float(metrics["grad_norm"])


@pytest.mark.parametrize("shape", MESHES)
def test_only_the_last_layer_moves_however_it_is_cut(shape):
    (before, one, norm), (_, eight, norm_too) = stepped((1, 1, 1)), stepped(shape)
    assert norm_too == pytest.approx(norm, rel=1e-4)
    layers = {name for name in one if name.startswith(optim.LAYERS)}
    assert {name for name in one if name.startswith("compressor/llm")} == layers
    for name in layers:
        for after in (one, eight):
            np.testing.assert_array_equal(after[name][0], before[name][0], err_msg=name)
        moved = np.abs(one[name][1] - before[name][1])
        assert moved.max() > 1e-3, name
        # Where a gradient is all but zero, Adam's first step is its sign.
        close = np.isclose(eight[name][1], one[name][1], atol=1e-5)
        assert close.mean() > 0.99, name


def test_bfloat16_towers_keep_what_is_trained_in_float32(mesh):
    from jaxcomp.compress.autoencoder import dtypes

    lora, full = MemoryConfig(lora=LoraConfig(4)), MemoryConfig()
    half = TrainConfig(dtype="bfloat16")
    assert dtypes(half, lora) == ("bfloat16", "bfloat16", "bfloat16")
    assert dtypes(half, full) == ("float32", "bfloat16", "bfloat16")
    assert dtypes(half, MemoryConfig(trained="connector")).compressor == "bfloat16"
    assert set(dtypes(TrainConfig(), full)) == {"float32"}
    of = dtypes(half, lora)
    rngs = nnx.Rngs(params=0)
    llm = Transformer(
        COMP, rngs=rngs, lora=LoraConfig(4), dtype=of.compressor, compute_dtype=of.compute
    )
    decoder = Transformer(DEC, rngs=rngs, dtype=of.decoder, compute_dtype=of.compute)
    model = build(llm, decoder, lora, half, segment=8, seed=0)
    _, trained, frozen = optim.split_model(model, trainable_filter(half, lora))
    assert {x.dtype for x in trained.values()} == {jnp.dtype("float32")}
    assert {x.dtype for x in frozen.values()} == {jnp.dtype("bfloat16")}
