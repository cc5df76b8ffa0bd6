"""Reading shards: only their bytes, whatever the mesh."""

import math

import jax
import numpy as np
import pytest
from conftest import mesh_of
from jax.sharding import NamedSharding
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxcomp.config import ModelConfig
from jaxcomp.models import safetensors
from jaxcomp.models.safetensors import HfError, stored_in
from jaxcomp.models.weight_map import Tower, weights
from jaxcomp.runtime.sharding import spec_of, use_mesh

SHAPE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=4,
    intermediate_size=64,
)


@pytest.fixture(scope="module")
def table():
    return weights(SHAPE, Tower())


def write(table, path):
    """Random tensors of `table` in the file `path`, and where they are."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(weight.stored).astype(np.float16)
        for weight in table.values()
        for name in weight.names
    }
    save_file(tensors, path)
    found = stored_in(path)
    assert {name: (s.shape, s.dtype) for name, s in found.items()} == {
        name: (x.shape, "F16") for name, x in tensors.items()
    }
    return found


@pytest.fixture(scope="module")
def files(table, tmp_path_factory):
    return write(table, tmp_path_factory.mktemp("stored") / "model.safetensors")


def read_all(table, files, shape):
    with use_mesh(mesh := mesh_of(shape)):
        placed = {
            name: NamedSharding(mesh, spec_of(w.spec, len(w.shape) + w.stacked))
            for name, w in table.items()
        }
        return safetensors.read_all(table, files, placed, np.dtype(np.float32))


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 2, 4), (2, 2, 2)])
def test_every_mesh_reads_the_same_values(table, files, shape):
    whole = read_all(table, files, (1, 1, 1))
    jax.tree.map(np.testing.assert_array_equal, read_all(table, files, shape), whole)
    assert all(np.abs(x).max() > 1 for x in whole.values())


def test_a_device_reads_only_its_shard(table, files, monkeypatch):
    read = []

    class Counted:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def get_slice(self, name):
            part = self.file.get_slice(name)
            return type("Part", (), {"__getitem__": lambda _, where: counted(part[where])})()

    def counted(x):
        read.append(x.size)
        return x

    monkeypatch.setattr(safetensors, "safe_open", Counted)
    read_all(table, files, (1, 2, 4))
    assert sum(read) == sum(math.prod(s.shape) for s in files.values())


def test_a_file_that_becomes_shorter_is_an_error(table, tmp_path):
    path = tmp_path / "short.safetensors"
    stored = write(table, path)
    whole = path.read_bytes()
    opened = safetensors.safe_open

    def cut_after(*args, **kwargs):
        file = opened(*args, **kwargs)
        path.write_bytes(whole[: len(whole) // 2])
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "safe_open", cut_after)
        with pytest.raises(HfError, match=r"short\.safetensors: .* cannot be read"):
            read_all(table, stored, (1, 1, 1))
