"""Hugging Face folders: exact round trips, sharded reading. Broken ones: test_models_faults.py."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from golden_cases import GEMMA3, LLAMA, LLAMA31, OLMO2, QWEN2, QWEN3
from jax.sharding import NamedSharding, PartitionSpec
from model_folders import SPELLINGS, WIDE, folder_of, sharded, vision, write_folder
from safetensors import safe_open
from safetensors.numpy import load_file

from jaxcomp.config import ConfigError, LoraConfig
from jaxcomp.models import hf, safetensors
from jaxcomp.models.lora import LoraParam
from jaxcomp.runtime.sharding import spec_of, use_mesh


def states_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a), nnx.state(b))


@pytest.mark.parametrize(
    "config",
    [LLAMA, LLAMA31, QWEN2, QWEN3, OLMO2, GEMMA3],
    ids=["untied", "tied", "qwen2", "qwen3", "olmo2", "gemma3"],
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_load_then_save_gives_the_same_file(tmp_path, mesh, config, dtype):
    tensors = folder_of(tmp_path / "a", config, dtype)
    model = hf.load(tmp_path / "a")
    assert model.emb[...].dtype == jnp.float32  # which holds either of the short types exactly
    hf.save(model, tmp_path / "b", dtype=dtype)
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, x in tensors.items():
        assert written[name].dtype == x.dtype
        np.testing.assert_array_equal(written[name], x)
    assert hf.read_config(tmp_path / "b") == model.cfg
    states_equal(hf.load(tmp_path / "b"), model)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_each_device_gets_its_own_shard(tmp_path, shape):
    folder_of(tmp_path, WIDE)
    with use_mesh(mesh_of((1, 1, 1))):
        expected = jax.tree.map(np.asarray, nnx.state(hf.load(tmp_path)))
    with use_mesh(mesh_of(shape)):
        model = hf.load(tmp_path)
        jax.tree.map(np.testing.assert_array_equal, expected, nnx.state(model))
        q = model.layers.q.w[...]
        assert q.addressable_shards[0].data.size == q.size // (shape[1] * shape[2])


def test_a_checkpoint_in_several_files(tmp_path, mesh):
    folder_of(tmp_path / "whole")
    sharded()(tmp_path / "parts")
    states_equal(hf.load(tmp_path / "parts"), hf.load(tmp_path / "whole"))
    index = tmp_path / "parts" / hf.INDEX
    index.write_text(index.read_text().replace('"model-', '"./model-'))
    hf.check(tmp_path / "parts")


def test_a_tied_model_may_carry_its_head_twice(tmp_path, mesh):
    tensors = folder_of(tmp_path)
    spare = {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    write_folder(tmp_path, QWEN3, tensors | spare)
    assert hf.load(tmp_path).head is None


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 4)])
def test_the_text_tower_of_a_vision_model(tmp_path, spelling, shape):
    vision(tmp_path, spelling)
    with use_mesh(mesh_of(shape)):
        model = hf.load(tmp_path)
        states_equal(model, hf.load(tmp_path / "plain"))
        assert model.cfg == hf.read_config(tmp_path / "plain")


def test_adapters_are_drawn_at_loading_and_refused_at_saving(tmp_path, mesh):
    folder_of(tmp_path)
    model = hf.load(tmp_path, lora=LoraConfig(rank=2), rngs=nnx.Rngs(0))
    assert jax.tree.leaves(nnx.state(model, LoraParam))
    with pytest.raises(ValueError, match=r"lora\.merge"):
        hf.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="rngs is None"):
        hf.load(tmp_path, lora=LoraConfig(rank=2))


def test_a_save_that_fails_leaves_the_old_files(tmp_path, mesh, monkeypatch):
    folder_of(tmp_path)
    model, before = hf.load(tmp_path), (tmp_path / hf.WEIGHTS).read_bytes()

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxcomp.models.safetensors.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        hf.save(model, tmp_path)
    assert (tmp_path / hf.WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", hf.WEIGHTS]


def test_a_device_reads_only_its_shard(tmp_path, monkeypatch):
    tensors, sizes = folder_of(tmp_path, WIDE), []

    class Counted:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def get_slice(self, name):
            part = self.file.get_slice(name)
            return type("Part", (), {"__getitem__": lambda _, where: counted(part[where])})()

    def counted(x):
        sizes.append(x.size)
        return x

    table, files = hf._checked(tmp_path)[1:]
    monkeypatch.setattr(safetensors, "safe_open", Counted)
    with use_mesh(mesh := mesh_of((1, 2, 4))):
        placed = {
            name: NamedSharding(mesh, spec_of(w.spec, len(w.shape) + w.stacked))
            for name, w in table.items()
        }
        safetensors.read_all(table, files, placed, np.dtype(np.float32))
    assert sum(sizes) == sum(x.size for x in tensors.values())


def test_a_file_that_becomes_shorter_is_an_error(tmp_path, mesh, monkeypatch):
    folder_of(tmp_path)

    def cut_after(*args, **kwargs):
        file = safe_open(*args, **kwargs)
        (tmp_path / hf.WEIGHTS).write_bytes((tmp_path / hf.WEIGHTS).read_bytes()[:2000])
        return file

    hf.check(tmp_path)
    table, files = hf._checked(tmp_path)[1:]
    monkeypatch.setattr(safetensors, "safe_open", cut_after)
    placed = dict.fromkeys(table, NamedSharding(jax.sharding.get_mesh(), PartitionSpec()))
    with pytest.raises(hf.HfError, match=r"model\.safetensors: .* cannot be read"):
        safetensors.read_all(table, files, placed, np.dtype(np.float32))
