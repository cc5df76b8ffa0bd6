"""Reading shards: only their bytes, asked for ahead, each once, whatever the mesh."""

import math

import jax
import numpy as np
import pytest
from conftest import mesh_of
from jax.sharding import NamedSharding
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


@pytest.fixture(scope="module")
def files(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "model.safetensors"
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
    for name, x in tensors.items():
        first, size = found[name].span((slice(0, x.shape[0]),))
        assert path.read_bytes()[first : first + size] == x.tobytes()
    return found


def read_all(table, files, shape):
    with use_mesh(mesh := mesh_of(shape)):
        placed = {
            name: NamedSharding(mesh, spec_of(w.spec, len(w.shape) + w.stacked))
            for name, w in table.items()
        }
        return safetensors.read_all(table, files, placed, np.dtype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1), (1, 2, 4), (2, 2, 2)])
def test_what_is_read_is_asked_for_before_and_not_too_early(table, files, shape, monkeypatch):
    whole = read_all(table, files, (1, 1, 1))
    asked, count = [], safetensors._Ahead.__call__
    ahead, rows = 4000, 2 * max(math.prod(s.shape) for s in files.values())

    def counted(self, size):
        count(self, size)
        lead.append(self.asked - self.read)

    lead: list[int] = []
    monkeypatch.setattr(safetensors, "_AHEAD", ahead)
    monkeypatch.setattr(safetensors.os, "POSIX_FADV_WILLNEED", 3, False)
    monkeypatch.setattr(
        safetensors.os, "posix_fadvise", lambda *span: asked.append(span[1:3]), False
    )
    monkeypatch.setattr(safetensors._Ahead, "__call__", counted)
    jax.tree.map(np.testing.assert_array_equal, read_all(table, files, shape), whole)
    assert min(lead) >= 0
    assert lead[-1] == 0  # nothing more was asked for than read
    assert ahead <= max(lead) < ahead + rows
    touched = np.zeros(max(start + size for start, size in asked), bool)
    for start, size in asked:
        touched[start : start + size] = True
    assert touched.sum() == 2 * sum(math.prod(s.shape) for s in files.values())


def test_a_part_of_the_columns_is_read_as_such(files):
    stored = files["model.layers.1.mlp.gate_proj.weight"]
    whole = np.empty(stored.shape, np.float32)
    stored.read((slice(0, 64), slice(0, 32)), whole)
    part = np.empty((8, 4), np.float32)
    stored.read((slice(8, 16), slice(4, 8)), part)
    np.testing.assert_array_equal(part, whole[8:16, 4:8])
    assert np.abs(whole).max() > 1


def test_a_file_that_becomes_shorter_is_an_error(files, tmp_path):
    stored = files["model.embed_tokens.weight"]
    short = tmp_path / "short"
    start, size = stored.span((slice(0, 64),))
    short.write_bytes(stored.path.read_bytes()[: start + size - 3])
    with pytest.raises(HfError, match=r"short ends within a tensor"):
        stored._replace(path=short).read((slice(0, 64), slice(0, 32)), np.empty((64, 32)))


def test_reading_works_where_the_kernel_cannot_be_told(table, files, monkeypatch):
    whole = read_all(table, files, (1, 1, 1))
    monkeypatch.delattr(safetensors.os, "posix_fadvise", raising=False)
    jax.tree.map(np.testing.assert_array_equal, read_all(table, files, (1, 2, 4)), whole)
