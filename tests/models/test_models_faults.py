"""A model folder that cannot be read is one error: the file, what was found, what was expected."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import mesh_of
from golden_cases import LLAMA, QWEN3
from safetensors.numpy import save_file
from test_models_hf import WIDE, folder_of, vision
from test_models_parity import random_tensors, write_folder

from jaxcomp.config import ConfigError
from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

NORM, EMB = "model.norm.weight", "model.embed_tokens.weight"
Q_BIAS = "model.layers.0.self_attn.q_proj.bias"
SHARDS = ("model-1.safetensors", "model-2.safetensors")
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


def stored(dtype):
    """The final norm's vector in another type."""
    return changed(lambda tensors: tensors | {NORM: tensors[NORM].astype(dtype)})


def configured(**fields):
    def write(path):
        write_folder(path, QWEN3 | fields, random_tensors(QWEN3))

    return write


def sharded(twice=None, lost=None, spoil=None, **names):
    """Two shards with an index. `twice` stands in both; `lost` is removed; of `spoil` all but 10
    bytes stay; `names` overrides the index's files."""

    def write(path):
        tensors = folder_of(path)
        (path / hf.WEIGHTS).unlink()
        order, parts = sorted(tensors), {}
        for i, file in enumerate(SHARDS):
            own = order[i::2]
            parts |= dict.fromkeys(own, file)
            save_file({n: tensors[n] for n in {*own, twice} - {None}}, path / file)
        parts |= {{"norm": NORM, "emb": EMB}[n]: file for n, file in names.items()}
        (path / hf.INDEX).write_text(json.dumps({"weight_map": parts}))
        if lost:
            (path / lost).unlink()
        if spoil:
            (path / spoil).write_bytes((path / spoil).read_bytes()[:-10])

    return write


def written(file, content):
    """A whole folder, then `content` (bytes, or None for no such file) in place of one file."""

    def write(path):
        folder_of(path)
        (path / file).unlink(missing_ok=True)
        if content is not None:
            (path / file).write_bytes(content)

    return write


def torch_only(path):
    folder_of(path)
    (path / hf.WEIGHTS).rename(path / "pytorch_model.bin")


def vision_of_a_billion(path):
    vision(path)
    config = json.loads((path / hf.CONFIG).read_text())
    config["text_config"]["num_hidden_layers"] = 10**9
    (path / hf.CONFIG).write_text(json.dumps(config))


FAULTS = {
    "no folder": (lambda path: None, r"model/config\.json does not exist; expected a Hugging Face"),
    "no config": (written(hf.CONFIG, None), r"model/config\.json does not exist; expected a Hugg"),
    "config is no JSON": (written(hf.CONFIG, b"{"), r"model/config\.json: not JSON .*download"),
    "config is a list": (
        written(hf.CONFIG, b"[]"),
        r"config\.json: holds a list \[...\], expected an object",
    ),
    "no weights": (
        written(hf.WEIGHTS, None),
        r"neither model\.safetensors nor .*index\.json \(found: config\.json\)",
    ),
    "weights of torch": (torch_only, r"\(found: config\.json, pytorch_model\.bin\).*download"),
    "shard missing": (
        sharded(lost=SHARDS[1]),
        r"model-2\.safetensors does not exist, though .*ind",
    ),
    "shard never there": (
        sharded(norm="model-3.safetensors"),
        r"model-3\.safetensors does not exist, though model\.safetensors\.index\.json names it",
    ),
    "shard cut": (sharded(spoil=SHARDS[0]), r"model-1\.safetensors \(\d+ bytes\) is not a whole"),
    "index is wrong": (
        sharded(emb=SHARDS[1]),
        rf"index\.json says {EMB} is in {SHARDS[1]}, which does not hold it",
    ),
    "index of numbers": (sharded(norm=5), r"index\.json has no object `weight_map` .*file name"),
    "tensor in two shards": (
        sharded(twice=NORM),
        rf"model-1\.safetensors and .*model-2\.safetensors both hold {NORM}; expected each tensor",
    ),
    "empty file": (written(hf.WEIGHTS, b""), r"model\.safetensors \(0 bytes\) is not a whole"),
    "LFS pointer": (
        written(hf.WEIGHTS, LFS),
        r"model\.safetensors \(135 bytes\) is a pointer of Git LFS, expected the weig.*lfs pull",
    ),
    "missing tensor": (without(NORM), rf"lacks the tensor {NORM} \(24,\) that config.*{SAME}"),
    "missing head": (
        configured(tie_word_embeddings=False),
        r"lacks the tensor lm_head\.weight \(48, 24\) .*tie_word_embeddings",
    ),
    "a billion layers": (
        configured(num_hidden_layers=10**9),
        rf"config\.json: num_hidden_layers is 1000000000, but the weights have only \d+ te.*{SAME}",
    ),
    "a billion layers of text": (
        vision_of_a_billion,
        r"config\.json: num_hidden_layers is 1000000000, but the weights have only \d+ tensors",
    ),
    "a huge vocabulary": (
        configured(vocab_size=2**31 - 1),
        rf"{EMB} has shape \(48, 24\), expected \(2147483647, 24\)",
    ),
    "a vision model's name": (
        configured(text_config={"num_hidden_layers": "many"}, model_type="mllama"),
        r"there is no text_config with a list `cross_attention_layers`",
    ),
    "too few layers": (configured(num_hidden_layers=4), r"lacks the tensor model\.layers\.3\."),
    "too many layers": (configured(num_hidden_layers=2), rf"11 tensor\(s\) .*layers\.2\..*{SAME}"),
    "wrong shape": (
        changed(lambda tensors: tensors | {NORM: np.ones(7, np.float32)}),
        rf"model\.safetensors: {NORM} has shape \(7,\), expected \(24,\) by config\.json; {SAME}",
    ),
    "another vocabulary": (
        configured(vocab_size=47),
        rf"{EMB} has shape \(48, 24\), expected \(47, 24\) by config\.json",
    ),
    "unknown tensor": (
        changed(lambda tensors: tensors | {Q_BIAS: np.ones(3, np.float32)}),
        rf"1 tensor\(s\) that a qwen3 of this config\.json does not have, such as {Q_BIAS}; {SAME}",
    ),
    "int8": (
        stored(np.int8),
        rf"{NORM} is stored as I8; supported are F32, F16, BF16: .*quantised",
    ),
    "float8": (stored(ml_dtypes.float8_e4m3fn), rf"{NORM} is stored as F8_E4M3; supported are F32"),
    "float64": (stored(np.float64), rf"{NORM} is stored as F64; supported are F32, F16, BF16"),
    "architecture": (
        configured(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        r"config\.json: .*GPT2LMHeadModel.*; supported architectures are llama, qwen2, qwen3",
    ),
    "quantised": (
        configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"config\.json: quantization_config says 'gptq'; quantised weights are not supported",
    ),
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


def test_an_index_may_name_a_file_by_another_spelling(tmp_path, mesh):
    sharded()(tmp_path)
    index = tmp_path / hf.INDEX
    index.write_text(index.read_text().replace('"model-', '"./model-'))
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
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 4)])
def test_a_weight_that_is_no_number_is_refused_by_its_tensor(tmp_path, value, dtype, shape):
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = folder_of(tmp_path, WIDE, dtype)
    tensors[name][-1, -1] = value
    write_folder(tmp_path, WIDE, tensors)
    with (
        use_mesh(mesh_of(shape)),
        pytest.raises(hf.HfError, match=rf"{name} holds NaN or infinity; the weights are damaged"),
    ):
        hf.load(tmp_path)
