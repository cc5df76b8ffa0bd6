"""Logits and greedy tokens against those that transformers computed in float32 (make_golden.py).

test_llm_parity.py compares the same cases live, where torch is installed.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import mesh_of
from golden_cases import (
    CASES,
    EXACT,
    GOLDEN,
    NEW,
    SIDES,
    SPELLINGS,
    difference,
    our_greedy,
    read,
    respelled,
)
from safetensors.numpy import load_file, save_file

from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

MOST_BYTES = 55_000  # of a case


def rewritten(name, to, change):
    """A copy of a case's folder whose config and tensors went through `change`."""
    shutil.copytree(GOLDEN / name, to)
    config = json.loads((to / "config.json").read_text())
    tensors = load_file(to / "model.safetensors")
    config = change(config, tensors) or config
    (to / "config.json").write_text(json.dumps(config))
    save_file(tensors, to / "model.safetensors")
    return to


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, mesh):
    golden, model = read(GOLDEN / name), hf.load(GOLDEN / name)
    for side in SIDES:
        assert difference(model, golden, side) <= EXACT, side


@pytest.mark.parametrize("name", CASES)
def test_cached_generation_gives_the_tokens_of_transformers(name, mesh):
    golden, model = read(GOLDEN / name), hf.load(GOLDEN / name)
    for side in SIDES:
        found_BL = our_greedy(model, golden.rows, side, NEW)
        np.testing.assert_array_equal(found_BL, golden.greedy_BL, err_msg=side)


@pytest.mark.parametrize("name", CASES)
def test_logits_on_eight_devices_too(name):
    with use_mesh(mesh_of((2, 2, 2))):
        model = hf.load(GOLDEN / name)
        assert not model.layers.q.w[...].sharding.is_fully_replicated
        assert difference(model, read(GOLDEN / name), "left") <= EXACT


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", CASES)
def test_rope_may_be_spelled_either_way(name, spelling, tmp_path, mesh):
    folder = rewritten(name, tmp_path / "it", lambda config, _: respelled(config, spelling))
    text = json.loads((folder / "config.json").read_text())
    text = text.get("text_config", text)
    assert ("rope_parameters" in text, "rope_theta" in text) == (
        spelling == "new",
        spelling == "old",
    )
    assert difference(hf.load(folder), read(GOLDEN / name), "left") <= EXACT


def zero(tensors, name):
    tensors[name] = np.zeros_like(tensors[name])


def exchange(tensors, one, other):
    tensors[one], tensors[other] = tensors[other], tensors[one]


def scaled(config, field, name, value):
    return config | {field: config[field] | {name: value}}


# For each family, its own part read a little wrongly.
WRONG = {
    "llama3": lambda config, _: config | {"rms_norm_eps": 1e-6},
    "llama3.1": lambda config, _: scaled(config, "rope_parameters", "high_freq_factor", 5.0),
    "llama3.2": lambda config, _: scaled(config, "rope_scaling", "factor", 8.0),
    "smollm2": lambda config, _: scaled(config, "rope_parameters", "rope_theta", 10_000.0),
    "qwen2.5": lambda _, tensors: zero(tensors, "model.layers.1.self_attn.k_proj.bias"),
    "qwen3": lambda _, tensors: exchange(
        tensors,
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.1.self_attn.q_norm.weight",
    ),
    "llama3.2-vision": lambda _, tensors: exchange(
        tensors,
        "language_model.model.layers.0.mlp.up_proj.weight",
        "language_model.model.layers.2.mlp.up_proj.weight",
    ),
    "olmo2": lambda _, tensors: exchange(
        tensors,
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.post_feedforward_layernorm.weight",
    ),
    "gemma3": lambda config, _: config | {"sliding_window": 6},
    "gemma3-vision": lambda config, _: scaled(
        config, "text_config", "layer_types", ["full_attention"] * 3
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_read_a_little_wrongly_is_found(name, tmp_path, mesh):
    folder = rewritten(name, tmp_path / "it", WRONG[name])
    assert difference(hf.load(folder), read(GOLDEN / name), "left") > 10 * EXACT


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 4},
        {"sliding_window_pattern": 2},
        {"rope_theta": 2000.0},
        {"rope_local_base_freq": 50.0},
        {"rope_scaling": None},
        {"query_pre_attn_scalar": 8},
    ],
)
def test_every_field_of_gemma3_matters(change, tmp_path, mesh):
    folder = rewritten("gemma3", tmp_path / "it", lambda config, _: config | change)
    assert difference(hf.load(folder), read(GOLDEN / "gemma3"), "left") > 10 * EXACT


def test_the_record_is_small_and_says_what_made_it():
    assert sum(
        path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()
    ) <= MOST_BYTES * len(CASES)
    for name in CASES:
        note = json.loads((GOLDEN / name / "golden.json").read_text())["note"]
        assert note.keys() == {"made_by", "transformers", "torch", "seed"}
