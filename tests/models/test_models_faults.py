"""A model folder that cannot be read is one error: the file, what was found, what was expected."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import mesh_of
from golden_cases import LLAMA, QWEN3
from model_folders import SHARDS, WIDE, folder_of, random_tensors, sharded, vision, write_folder

from jaxcomp.config import ConfigError
from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

NORM, EMB = "model.norm.weight", "model.embed_tokens.weight"
Q_BIAS = "model.layers.0.self_attn.q_proj.bias"
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 4976698672\n"
)
SAME = "take config.json and the weights from the same model"


def changed(change):
    """A folder whose tensors are `change(tensors)`."""
    return lambda path: write_folder(path, QWEN3, change(random_tensors(QWEN3)))


def without(name):
    return changed(lambda tensors: {n: x for n, x in tensors.items() if n != name})


def configured(**fields):
    def write(path):
        write_folder(path, QWEN3 | fields, random_tensors(QWEN3))

    return write


def written(file, content):
    """A whole folder, then `content` (bytes, or None for no such file) in place of one file."""

    def write(path):
        folder_of(path)
        (path / file).unlink(missing_ok=True)
        if content is not None:
            (path / file).write_bytes(content)

    return write


def vision_of_a_billion(path):
    vision(path)
    config = json.loads((path / hf.CONFIG).read_text())
    config["text_config"]["num_hidden_layers"] = 10**9
    (path / hf.CONFIG).write_text(json.dumps(config))


INT8 = changed(lambda tensors: tensors | {NORM: tensors[NORM].astype(np.int8)})
SHORT = changed(lambda tensors: tensors | {NORM: np.ones(7, np.float32)})
BIASED = changed(lambda tensors: tensors | {Q_BIAS: np.ones(3, np.float32)})
MANY = r"json: num_hidden_layers is 1000000000, but the weights have only \d+ tensors"
NO_TEXT = configured(text_config={"num_hidden_layers": "many"}, model_type="mllama")
FAULTS = {
    "no folder": (lambda path: None, r"model/config\.json does not exist; expected a Hugging Face"),
    "no config": (written(hf.CONFIG, None), r"model/config\.json does not exist; expected a Hugg"),
    "config is no JSON": (written(hf.CONFIG, b"{"), r"model/config\.json: not JSON .*download"),
    "no weights": (written(hf.WEIGHTS, None), r"neither .*json \(found: config\.json\)"),
    "shard missing": (sharded(lost=SHARDS[1]), r"model-2\.safetensors does not exist, though .*i"),
    "shard cut": (sharded(spoil=SHARDS[0]), r"model-1\.safetensors \(\d+ bytes\) is not a whole"),
    "index is wrong": (sharded(embed_tokens=SHARDS[1]), rf"json says {EMB} is in {SHARDS[1]}, whi"),
    "index of numbers": (sharded(norm=5), r"index\.json has no object `weight_map` .*file name"),
    "tensor in two shards": (sharded(twice=NORM), rf"2\.safetensors both hold {NORM}; expected"),
    "empty file": (written(hf.WEIGHTS, b""), r"model\.safetensors \(0 bytes\) is not a whole"),
    "LFS pointer": (written(hf.WEIGHTS, LFS), r"\(135 bytes\) is a pointer of Git LFS.*lfs pull"),
    "missing tensor": (without(NORM), rf"lacks the tensor {NORM} \(24,\) that config.*{SAME}"),
    "missing head": (configured(tie_word_embeddings=False), r"lm_head.* \(48, 24\) .*tie_word_emb"),
    "a billion layers": (configured(num_hidden_layers=10**9), f"{MANY}; {SAME}"),
    "a billion layers of text": (vision_of_a_billion, MANY),
    "a vision model's name": (NO_TEXT, r"no text_config with a list `cross_attention_layers`"),
    "too many layers": (configured(num_hidden_layers=2), rf"11 tensor\(s\) .*layers\.2\..*{SAME}"),
    "wrong shape": (SHORT, rf"{NORM} has shape \(7,\), expected \(24,\) by config\.json; {SAME}"),
    "unknown tensor": (BIASED, rf"a qwen3 of this .* does not have, such as {Q_BIAS}; {SAME}"),
    "int8": (INT8, rf"{NORM} is stored as I8; supported are F32, F16, BF16: .*quantised"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(fault, tmp_path, mesh):
    write, message = FAULTS[fault]
    write(tmp_path / "model")
    with pytest.raises((hf.HfError, ConfigError), match=message) as loading:
        hf.load(tmp_path / "model")
    with pytest.raises(type(loading.value)) as checking:
        hf.check(tmp_path / "model")
    assert str(checking.value) == str(loading.value)
    assert str(tmp_path / "model") in str(loading.value)


def test_a_file_cut_anywhere_is_refused(tmp_path, mesh):
    folder_of(tmp_path)
    whole = (tmp_path / hf.WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) - 1):
        (tmp_path / hf.WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(hf.HfError, match=rf"safetensors \({length} bytes\) is not a whole saf"):
            hf.load(tmp_path)
    (tmp_path / hf.WEIGHTS).write_bytes(whole)
    hf.check(tmp_path)


DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("held", [jnp.float32, jnp.bfloat16])
def test_a_checkpoint_of_mixed_types_is_read_exactly(tmp_path, mesh, held):
    tensors = {
        name: x.astype(DTYPES[i % 3]) for i, (name, x) in enumerate(random_tensors(LLAMA).items())
    }
    # Each type's own extremes: largest, smallest normal, smallest subnormal, one unit above 1.
    for i, name in enumerate((EMB, NORM, "lm_head.weight")):
        info = ml_dtypes.finfo(DTYPES[i])
        x = tensors[name].astype(DTYPES[i])
        x.flat[:5] = [info.max, info.tiny, info.smallest_subnormal, 1 + float(info.eps), -0.0]
        tensors[name] = x
    assert {x.dtype.name for x in tensors.values()} == {"float32", "float16", "bfloat16"}
    write_folder(tmp_path, LLAMA, tensors)
    model = hf.load(tmp_path, dtype=held)
    pairs = [(model.emb[...], EMB), (model.norm[...], NORM), (model.head_VD(), "lm_head.weight")]
    layer = "model.layers.1.input_layernorm.weight"
    for ours, name in [*pairs, (model.layers.attn_norm[...][1], layer)]:
        assert ours.dtype == held
        # numpy and ml_dtypes round to nearest even; to float32 nothing is rounded.
        expected = tensors[name].astype(np.dtype(held))
        found = np.asarray(ours)
        np.testing.assert_array_equal(
            found.view(f"u{found.itemsize}"), expected.view(f"u{found.itemsize}")
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_is_no_number_is_refused_by_its_tensor(tmp_path, value, dtype):
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = folder_of(tmp_path, WIDE, dtype)
    tensors[name][-1, -1] = value
    write_folder(tmp_path, WIDE, tensors)
    with (
        use_mesh(mesh_of((1, 2, 4))),
        pytest.raises(hf.HfError, match=rf"{name} holds NaN or infinity; the weights are damaged"),
    ):
        hf.load(tmp_path)
