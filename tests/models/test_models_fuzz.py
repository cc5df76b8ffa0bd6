"""Hundreds of broken model folders: each is read, or refused by one sentence. Seeded."""

import json
import random

import pytest
from data import fuzzing
from golden_cases import LLAMA31, QWEN2, QWEN3
from test_models_faults import sharded
from test_models_hf import folder_of, vision

from jaxcomp.config import ConfigError
from jaxcomp.models import hf

CASES = 150  # of each kind of file, for each kind of model
VALUES = [
    *fuzzing.VALUES, 1, -1, 2, 3, 7, 64, -(2**63), 10**15, -0.5, 1.0, 5e-324, float("-inf"), "8",
    "true", "false", "null", "llama", "llama3", "default", "F64", "BF16", "I8", "../x", "a\0b",
    [0, 0], [0, 4], [-1, 4], {"a": 1}, {"rope_theta": 1e4}, {"rope_type": "llama3"},
    {"full_attention": {"rope_theta": 1.0}},
]  # fmt: skip
NAMES = [
    "rope_parameters", "rope_scaling", "rope_theta", "layer_types", "quantization_config", "",
    "text_config", "head_dim", "model_type", "num_key_value_heads", "tie_word_embeddings",
    "architectures", "attention_bias", "partial_rotary_factor", "__metadata__", "dtype", "shape",
    "data_offsets", "weight_map", "é", "model.embed_tokens.weight", "cross_attention_layers",
]  # fmt: skip


def damaged(rng, value):
    """JSON of `value` with other parts; now and then cut, or with other bytes."""
    data = fuzzing.written(fuzzing.tree(rng, value, VALUES, NAMES))
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))]
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        return data[:at] + rng.randbytes(rng.randint(1, 3)) + data[at + 1 :]
    return data


def model(path, kind):
    if kind == "vision":
        vision(path)
    elif kind == "shards":
        sharded()(path)
    else:
        folder_of(path, {"llama": LLAMA31, "qwen2": QWEN2, "qwen3": QWEN3}[kind])


def read_or_refused(folder, what):
    """Was it read? Any error is one of jaxcomp's, in a sentence that can be printed."""
    try:
        hf.read_config(folder)
        hf.check(folder)
        hf.load(folder)
    except (hf.HfError, ConfigError) as error:
        message = str(error)
        message.encode()
        assert len(message) < 1500, what
        return False
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} of {what!r}"[:2000]) from error
    return True


def read_of_damaged(file, seed):
    """How many of CASES folders with a damaged JSON `file` are read."""
    rng, whole = random.Random(seed), json.loads(file.read_text())
    found = []
    for _ in range(CASES):
        data = damaged(rng, whole)
        file.write_bytes(data)
        found.append(read_or_refused(file.parent, data))
    return sum(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "vision"])
def test_config_json(kind, tmp_path, mesh):
    model(tmp_path, kind)
    assert 0 < read_of_damaged(tmp_path / hf.CONFIG, kind) < CASES / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "vision"])
def test_the_header_of_safetensors(kind, tmp_path, mesh):
    model(tmp_path, kind)
    file, rng = tmp_path / hf.WEIGHTS, random.Random(kind)
    data = file.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    whole, tensors = json.loads(data[8:size]), data[size:]
    found = []
    for _ in range(CASES):
        header = damaged(rng, whole)
        header += b" " * (-len(header) % 8)
        length = len(header) + rng.choice([0] * 8 + [1, 1 << 20, 1 << 60])
        file.write_bytes(length.to_bytes(8, "little") + header + tensors)
        found.append(read_or_refused(tmp_path, header))
    assert sum(found) < CASES / 2


@pytest.mark.slow
def test_the_index_of_shards(tmp_path, mesh):
    model(tmp_path, "shards")
    assert read_of_damaged(tmp_path / hf.INDEX, 0) < CASES / 2
