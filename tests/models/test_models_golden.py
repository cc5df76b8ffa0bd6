"""Logits and greedy tokens against those that transformers computed in float32 (make_golden.py),
and, where torch is installed, against the transformers of today."""

import json

import numpy as np
import pytest
from conftest import mesh_of
from golden_cases import (
    CASES,
    EXACT,
    GOLDEN,
    NEW,
    SIDES,
    difference,
    our_greedy,
    read,
    respelled,
)
from model_folders import write_folder
from safetensors.numpy import load_file

from jaxcomp.models import hf
from jaxcomp.models.config import from_hf
from jaxcomp.runtime.sharding import use_mesh


@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_tokens_are_those_of_transformers(name, mesh):
    golden, model = read(GOLDEN / name), hf.load(GOLDEN / name)
    for side in SIDES:
        assert difference(model, golden, side) <= EXACT, side
    # Padding on the left takes a cached step to other places than those of the tokens.
    found_BL = our_greedy(model, golden.rows, "left", NEW)
    np.testing.assert_array_equal(found_BL, golden.greedy_BL)


@pytest.mark.parametrize("name", ["llama3.1", "qwen2.5", "qwen3", "olmo2", "gemma3"])
def test_logits_on_eight_devices_too(name):
    with use_mesh(mesh_of((2, 2, 2))):
        model = hf.load(GOLDEN / name)
        assert not model.layers.q.w[...].sharding.is_fully_replicated
        assert difference(model, read(GOLDEN / name), "left") <= EXACT


@pytest.mark.parametrize("name", CASES)
def test_rope_may_be_spelled_either_way(name):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    old, new = (respelled(config, spelling) for spelling in ("old", "new"))
    assert old != new
    assert from_hf(old) == from_hf(new) == from_hf(config)


@pytest.mark.parametrize("name", ["qwen2.5", "olmo2", "gemma3"])
def test_a_little_noise_in_any_tensor_is_found(name, tmp_path, mesh):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    tensors, golden = load_file(GOLDEN / name / "model.safetensors"), read(GOLDEN / name)
    rng = np.random.default_rng(0)
    for changed, x in tensors.items():
        noise = rng.normal(size=x.shape) * 0.05
        write_folder(tmp_path, config, tensors | {changed: (x + noise).astype(x.dtype)})
        assert difference(hf.load(tmp_path), golden, "left") > 10 * EXACT, changed


@pytest.fixture(scope="module")
def maker():
    pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    import make_golden

    return make_golden


@pytest.mark.parametrize("name", CASES)
def test_the_installed_transformers_agrees_and_reads_what_is_exported(name, tmp_path, mesh, maker):
    """With other weights and tokens; the other way, our own file gives our logits."""
    golden, _ = maker.make(name, tmp_path / "theirs", seed=100)
    model = hf.load(tmp_path / "theirs")
    hf.save(model, tmp_path / "ours", dtype=np.float32)
    found = maker.logits_of(tmp_path / "ours", golden.rows)
    for side in SIDES:
        assert difference(model, golden, side) <= EXACT
        np.testing.assert_array_equal(our_greedy(model, golden.rows, side, NEW), golden.greedy_BL)
        assert difference(model, golden._replace(logits=found), side) <= EXACT
