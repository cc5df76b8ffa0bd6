"""Adapters: identity at the start, apart from the base, mergeable, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.config import LoraConfig, ModelConfig
from jaxcomp.models.block import PROJECTIONS
from jaxcomp.models.lora import LoraParam, merge
from jaxcomp.models.model import Transformer

CFG = ModelConfig(vocab_size=32, hidden_size=16, head_dim=4, intermediate_size=24)
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.25)
TOK = np.random.default_rng(0).integers(0, 32, (2, 8)).astype(np.int32)
POS = np.tile(np.arange(8, dtype=np.int32), (2, 1))


@jax.jit
def hidden(model, key=None):
    return model(model.embed(TOK), POS, np.ones_like(POS), dropout_key=key)


@pytest.fixture
def model(mesh):
    return Transformer(CFG, rngs=nnx.Rngs(0), lora=LORA)


def disturb(model, seed=0, scale=0.3):
    """Random B matrices, as after training."""
    rng = np.random.default_rng(seed)
    for name in PROJECTIONS:
        b = getattr(model.layers, name).lora.b
        b.set_value(b[...] + rng.normal(size=b.shape).astype(np.float32) * scale)


def test_a_new_adapter_changes_nothing(model):
    assert np.abs(np.asarray(model.layers.q.lora.a[...])).max() > 0.1
    np.testing.assert_array_equal(hidden(model), hidden(merge(model)))


def test_every_projection_has_an_adapter_that_matters(model):
    base = hidden(model)
    for name in PROJECTIONS:
        b = getattr(model.layers, name).lora.b
        old = b[...]
        b.set_value(old + 0.3)
        assert np.abs(hidden(model) - base).max() > 1e-4, name
        b.set_value(old)
    np.testing.assert_array_equal(hidden(model), base)


def test_merged_equals_unmerged_and_leaves_the_model_alone(model):
    base = hidden(model)
    disturb(model)
    before = jax.tree.map(np.asarray, nnx.state(model))
    merged = merge(model)
    assert np.abs(hidden(model) - base).max() > 0.1
    np.testing.assert_allclose(hidden(merged), hidden(model), atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
    assert not jax.tree.leaves(nnx.state(merged, LoraParam))


def test_dropout_acts_only_with_a_key_and_keeps_the_mean(model):
    disturb(model, scale=0.02)  # small: the network is then nearly linear in the adapters
    plain = hidden(model)
    keys = jax.random.split(jax.random.key(0), 100)
    drawn = np.stack([hidden(model, key) for key in keys])
    np.testing.assert_array_equal(drawn[0], hidden(model, keys[0]))
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-4
    spread = drawn.std(0) / np.sqrt(len(keys))
    assert np.mean(np.abs(drawn.mean(0) - plain) < 4 * spread + 1e-4) > 0.98


def test_adapters_stay_float32_over_a_bfloat16_base(mesh):
    model = Transformer(CFG, rngs=nnx.Rngs(0), lora=LORA, dtype=jnp.bfloat16)
    assert {x.dtype.name for x in jax.tree.leaves(nnx.state(model, LoraParam))} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(nnx.state(model, nnx.Param))} == {"bfloat16"}
    disturb(model)
    assert hidden(model).dtype == jnp.bfloat16
    assert merge(model).layers.q.w[...].dtype == jnp.bfloat16
