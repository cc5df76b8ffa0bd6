"""The mesh, the table of specs, and that they refuse what cannot work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from jax.sharding import PartitionSpec as P

from jaxcomp.config import ConfigError, MeshConfig, ModelConfig
from jaxcomp.runtime.sharding import (
    AXES,
    SPECS,
    check_model,
    constrain,
    make_mesh,
    put_batch,
    spec_of,
)


def test_fsdp_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(2, -1, 2)).shape) == {"replica": 2, "fsdp": 2, "tp": 2}
    assert make_mesh(MeshConfig()).shape["fsdp"] == len(jax.devices())


@pytest.mark.parametrize("bad", [(3, -1, 1), (1, 4, 1), (1, 8, 2), (16, -1, 1)])
def test_mesh_that_does_not_fit_is_refused(bad):
    with pytest.raises(ConfigError, match="mesh"):
        make_mesh(MeshConfig(*bad))


def test_a_mesh_that_the_slice_cannot_carry_is_refused(monkeypatch):
    def cannot(*args, **kw):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2")

    monkeypatch.setattr(jax, "make_mesh", cannot)
    with pytest.raises(ConfigError, match=r"\(1, 4, 2\) cannot be laid on this slice.*index 2"):
        make_mesh(MeshConfig(1, 4, 2))


def test_table_uses_known_axes_once_each():
    for name, spec in SPECS.items():
        used = [a for entry in spec for a in ((entry,) if isinstance(entry, str) else entry or ())]
        assert set(used) <= set(AXES), name
        assert len(used) == len(set(used)), name


def test_layer_axis_is_never_cut():
    assert spec_of("up_DF", 3) == P(None, "fsdp", "tp")
    assert spec_of("up_DF", 2) == P("fsdp", "tp")


def test_put_batch_spreads_rows(mesh8):
    rows = np.arange(32, dtype=np.int32).reshape(16, 2)
    batch = put_batch({"a": rows, "b": rows[:, 0]}, mesh8)
    np.testing.assert_array_equal(np.asarray(batch["a"]), rows)
    ways = mesh8.shape["replica"] * mesh8.shape["fsdp"]
    assert {s.data.shape[0] for s in batch["b"].addressable_shards} == {16 // ways}


def test_put_batch_refuses_rows_that_do_not_divide():
    with pytest.raises(ConfigError, match="multiple of 8"):
        put_batch(np.zeros((6, 2)), mesh_of((1, 8, 1)))


def test_constrain_moves_an_array_to_the_named_layout(mesh8):
    x = constrain(jnp.ones((2, 8, 8)), "up_DF")
    assert jax.typeof(x).sharding.spec == P(None, "fsdp", "tp")


@pytest.mark.parametrize(
    ("field", "shape"),
    [("num_key_value_heads", (1, 2, 4)), ("vocab_size", (1, 1, 4)), ("hidden_size", (1, 8, 1))],
)
def test_model_that_does_not_divide_is_named(field, shape):
    fits = ModelConfig(vocab_size=64, hidden_size=64, num_attention_heads=8, num_key_value_heads=4)
    check_model(fits, mesh_of(shape))
    odd = {"num_key_value_heads": 2, "vocab_size": 66, "hidden_size": 60}[field]
    bad = ModelConfig(**{**vars(fits), field: odd})
    with pytest.raises(ConfigError, match=rf"{field} is {odd}.*mesh\."):
        check_model(bad, mesh_of(shape))


def test_no_mesh_is_an_error():
    with pytest.raises(ConfigError, match="no mesh is active"):
        check_model(ModelConfig(vocab_size=8), jax.sharding.get_abstract_mesh())
