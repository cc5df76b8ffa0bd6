"""Hugging Face folders: exact round trips and sharded reading. Broken ones: test_llm_faults.py."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from golden_cases import GEMMA3, LLAMA, LLAMA31, OLMO2, QWEN2, QWEN3
from safetensors.numpy import load_file, save_file
from test_models_parity import random_tensors, write_folder

from jaxcomp.config import ConfigError, LoraConfig
from jaxcomp.models import hf
from jaxcomp.models.lora import LoraParam
from jaxcomp.runtime.sharding import use_mesh

WIDE = QWEN3 | {"num_attention_heads": 8, "num_key_value_heads": 4}  # divides over tp = 4


def folder_of(path, config=QWEN3, dtype=np.float32):
    tensors = {name: x.astype(dtype) for name, x in random_tensors(config).items()}
    write_folder(path, config, tensors)
    return tensors


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


def test_bfloat16_is_the_default_and_can_be_held(tmp_path, mesh):
    folder_of(tmp_path / "a")
    hf.save(hf.load(tmp_path / "a"), tmp_path / "b")
    model = hf.load(tmp_path / "b", dtype=jnp.bfloat16)
    assert {x.dtype.name for x in jax.tree.leaves(model)} == {"bfloat16"}
    hf.save(model, tmp_path / "c")
    first, second = (tmp_path / f / "model.safetensors" for f in "bc")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads((tmp_path / "c" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 2, 4), (2, 2, 2)])
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
    tensors = folder_of(tmp_path)
    whole = hf.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names, parts = sorted(tensors), {}
    for i, file in enumerate(("model-1.safetensors", "model-2.safetensors")):
        save_file({n: tensors[n] for n in names[i::2]}, tmp_path / file)
        parts |= dict.fromkeys(names[i::2], file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    states_equal(hf.load(tmp_path), whole)


def test_a_tied_model_may_carry_its_head_twice(tmp_path, mesh):
    tensors = folder_of(tmp_path)
    spare = {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    write_folder(tmp_path, QWEN3, tensors | spare)
    assert hf.load(tmp_path).head is None


SPELLINGS = {
    "published": ("language_model.model.", "language_model.lm_head.weight", ""),
    "transformers 4": ("model.language_model.", "lm_head.weight", "model."),
    "transformers 5": ("language_model.", "lm_head.weight", ""),
}


def vision(path, spelling="published"):
    """A vision model in the folder `path`, and its text tower, a Llama, alone in `path`/plain."""
    prefix, head, other = SPELLINGS[spelling]
    llama = LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    plain = folder_of(path / "plain", llama)
    # Layers 0, 2, 4 of five are the Llama's, as 1 and 3 look at the image.
    tensors = {
        name.replace("model.", prefix, 1).replace(f"layers.{y}.", f"layers.{2 * y}."): x
        for name, x in plain.items()
        for y in [int(name.split(".")[2]) if ".layers." in name else 0]
    }
    tensors[head] = tensors.pop("lm_head.weight")
    emb = f"{prefix}embed_tokens.weight"
    tensors[emb] = np.concatenate([tensors[emb], np.full((8, 24), 9, np.float32)])
    for y in (1, 3):
        tensors[f"{prefix}layers.{y}.cross_attn.q_proj.weight"] = np.ones((2, 2), np.float32)
        tensors[f"{prefix}layers.{y}.cross_attn_attn_gate"] = np.ones(1, np.float32)
    tensors[f"{other}vision_model.patch_embedding.weight"] = np.ones((2, 2), np.float32)
    tensors[f"{other}multi_modal_projector.bias"] = np.ones(2, np.float32)
    text = llama | {"model_type": "mllama_text_model", "num_hidden_layers": 5}
    config = {"model_type": "mllama", "text_config": text | {"cross_attention_layers": [1, 3]}}
    write_folder(path, config, tensors)


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


def test_a_mesh_that_does_not_divide_the_heads_is_named(tmp_path):
    folder_of(tmp_path)
    with (
        use_mesh(mesh_of((1, 2, 4))),
        pytest.raises(ConfigError, match=r"num_key_value_heads is 2.*mesh\.tp = 4"),
    ):
        hf.load(tmp_path)


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
