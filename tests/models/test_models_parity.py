"""Logits against an independent float64 numpy transformer that reads Hugging Face's own tensors,
and, where torch is installed, against transformers itself.

The reference below follows transformers' modeling_llama.py, modeling_qwen3.py, modeling_olmo2.py,
modeling_gemma3.py and modeling_rope_utils.py, one head and one layer at a time, and shares no code
with the package.
"""

import json
import math

import numpy as np
import pytest
from golden_cases import (
    CASES,
    EXACT,
    GEMMA3,
    LLAMA,
    LLAMA31,
    NEW,
    OLMO2,
    QWEN2,
    QWEN3,
    SIDES,
    difference,
    logits,
    our_greedy,
)
from safetensors.numpy import save_file

from jaxcomp.models import hf
from jaxcomp.runtime.sharding import put_batch

UNTIED = QWEN3 | {"tie_word_embeddings": False, "num_key_value_heads": 4}
CONFIGS = {
    "llama": LLAMA,
    "llama31": LLAMA31,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3-untied": UNTIED,
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
}


LOCAL = {"head_dim": GEMMA3["head_dim"], "rope_theta": GEMMA3["rope_local_base_freq"]}


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def random_tensors(config, seed=0):
    """Weights by Hugging Face's names and shapes; norms away from one, so that they matter."""
    rng = np.random.default_rng(seed)
    V, D, F, H = config["vocab_size"], config["hidden_size"], config["intermediate_size"], 0
    H, N, K = head_dim(config), config["num_attention_heads"], config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    gemma = config["model_type"] == "gemma3_text"
    if not config.get("tie_word_embeddings", gemma):
        shapes["lm_head.weight"] = (V, D)
    for y in range(config["num_hidden_layers"]):
        layer = {
            "post_attention_layernorm": (D,),
            "self_attn.q_proj": (N * H, D),
            "self_attn.k_proj": (K * H, D),
            "self_attn.v_proj": (K * H, D),
            "self_attn.o_proj": (D, N * H),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
        }
        if config["model_type"] != "olmo2":
            layer["input_layernorm"] = (D,)
        if config["model_type"] in ("qwen3", "gemma3_text"):
            layer |= {"self_attn.q_norm": (H,), "self_attn.k_norm": (H,)}
        if config["model_type"] == "olmo2":
            layer |= {"self_attn.q_norm": (N * H,), "self_attn.k_norm": (K * H,)}
        if config["model_type"] in ("olmo2", "gemma3_text"):
            layer["post_feedforward_layernorm"] = (D,)
        if gemma:
            layer["pre_feedforward_layernorm"] = (D,)
        shapes |= {f"model.layers.{y}.{name}.weight": s for name, s in layer.items()}
        if config["model_type"] == "qwen2":
            for name, heads in (("q", N), ("k", K), ("v", K)):
                shapes[f"model.layers.{y}.self_attn.{name}_proj.bias"] = (heads * H,)
    draw = {
        name: rng.normal(size=s) * 0.3 + (1.0 if len(s) == 1 and not gemma else 0.0)
        for name, s in shapes.items()
    }
    return {name: x.astype(np.float32) for name, x in draw.items()}


def write_folder(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def inverse_frequencies(config):
    H = head_dim(config)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config["rope_theta"]
    out = []
    for i in range(H // 2):
        f = 1.0 / theta ** (2 * i / H)
        if rope.get("rope_type") == "linear":
            f = f / rope["factor"]
        if rope.get("rope_type") == "llama3":
            old = rope["original_max_position_embeddings"]
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            wavelen = 2 * math.pi / f
            if wavelen > old / low:
                f = f / rope["factor"]
            elif wavelen >= old / high:
                smooth = (old / wavelen - low) / (high - low)
                f = (1 - smooth) * f / rope["factor"] + smooth * f
        out.append(f)
    return np.array(out)


def turn(x_LH, positions, freqs):
    """x cos + rotate_half(x) sin, as transformers writes it."""
    angle = np.outer(positions, np.concatenate([freqs, freqs]))
    half = x_LH.shape[1] // 2
    rotated = np.concatenate([-x_LH[:, half:], x_LH[:, :half]], axis=1)
    return x_LH * np.cos(angle) + rotated * np.sin(angle)


def reference_logits(config, tensors, tokens, positions):
    """logits[L, V] of one row without padding, in float64."""
    w = {name: x.astype(np.float64) for name, x in tensors.items()}
    H, N, K = head_dim(config), config["num_attention_heads"], config["num_key_value_heads"]
    eps, freqs, L = config.get("rms_norm_eps", 1e-6), inverse_frequencies(config), len(tokens)
    kind, scalar, far = config["model_type"], config.get("query_pre_attn_scalar", H), freqs
    x = w["model.embed_tokens.weight"][tokens]
    if kind == "gemma3_text":  # norms store w - 1
        w |= {name: value + 1 for name, value in w.items() if name.endswith("norm.weight")}
        x = x * math.sqrt(config["hidden_size"])
    for y in range(config["num_hidden_layers"]):
        p = f"model.layers.{y}."
        local = kind == "gemma3_text" and (y + 1) % config["sliding_window_pattern"] > 0
        freqs = inverse_frequencies(LOCAL) if local else far
        h = x if kind == "olmo2" else norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (
            h @ w[p + f"self_attn.{n}_proj.weight"].T + w.get(p + f"self_attn.{n}_proj.bias", 0.0)
            for n in "qkv"
        )
        if kind == "olmo2":
            q = norm(q, w[p + "self_attn.q_norm.weight"], eps)
            k = norm(k, w[p + "self_attn.k_norm.weight"], eps)
        heads = []
        for n in range(N):
            g = n // (N // K)
            qn, kn, vn = q[:, n * H : n * H + H], k[:, g * H : g * H + H], v[:, g * H : g * H + H]
            if kind in ("qwen3", "gemma3_text"):
                qn = norm(qn, w[p + "self_attn.q_norm.weight"], eps)
                kn = norm(kn, w[p + "self_attn.k_norm.weight"], eps)
            scores = turn(qn, positions, freqs) @ turn(kn, positions, freqs).T / math.sqrt(scalar)
            scores[np.triu_indices(L, 1)] = -np.inf
            if local:
                scores[np.tril_indices(L, -config["sliding_window"])] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ vn)
        out = np.concatenate(heads, axis=1) @ w[p + "self_attn.o_proj.weight"].T
        if kind in ("olmo2", "gemma3_text"):
            x = x + norm(out, w[p + "post_attention_layernorm.weight"], eps)
            name = p + "pre_feedforward_layernorm.weight"
            h = norm(x, w[name], eps) if name in w else x
        else:
            x = x + out
            h = norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        if kind == "gemma3_text":
            cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            gate = gate * 0.5 * (1 + np.tanh(cubic))
        else:
            gate = gate / (1 + np.exp(-gate))
        out = (gate * up) @ w[p + "mlp.down_proj.weight"].T
        name = p + "post_feedforward_layernorm.weight"
        x = x + (norm(out, w[name], eps) if name in w else out)
    x = norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree_with_the_reference(name, tmp_path, mesh):
    config, tensors = CONFIGS[name], random_tensors(CONFIGS[name])
    write_folder(tmp_path, config, tensors)
    model = hf.load(tmp_path)
    rng = np.random.default_rng(1)
    tok_BL = rng.integers(0, config["vocab_size"], (2, 20)).astype(np.int32)
    # Gaps between positions, as between memory vectors that stand "spread".
    pos_BL = np.cumsum(rng.integers(1, 6, (2, 20)), axis=1).astype(np.int32)
    batch = put_batch((tok_BL, pos_BL, np.ones_like(tok_BL)), mesh)
    ours = np.asarray(logits(model, *batch))
    for b in range(2):
        expected = reference_logits(config, tensors, tok_BL[b], pos_BL[b])
        np.testing.assert_allclose(ours[b], expected, rtol=2e-4, atol=2e-4)
        assert np.abs(expected).max() > 1  # far above the tolerance


def test_the_reference_feels_every_tensor():
    """A parity test proves a tensor is used rightly only if the reference depends on it."""
    for config in (LLAMA31, QWEN2, QWEN3, OLMO2, GEMMA3):
        tensors = random_tensors(config)
        tokens, positions = np.arange(8), np.arange(8) * 3
        base, rng = reference_logits(config, tensors, tokens, positions), np.random.default_rng(2)
        for name in tensors:
            # Noise, not a factor: QK-norm undoes any scaling of the projections before it.
            noise = rng.normal(size=tensors[name].shape) * 0.1
            changed = tensors | {name: tensors[name] + noise}
            assert np.abs(reference_logits(config, changed, tokens, positions) - base).max() > 1e-2
        plain = config | {"rope_scaling": None, "rope_theta": 3e4, "rope_parameters": None}
        assert np.abs(reference_logits(plain, tensors, tokens, positions) - base).max() > 1e-2


@pytest.fixture(scope="module")
def maker():
    pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    import make_golden

    return make_golden


@pytest.mark.parametrize("name", CASES)
def test_the_installed_transformers_agrees(name, tmp_path, mesh, maker):
    """As test_llm_golden.py, with other weights and tokens, and the transformers of today."""
    golden, _ = maker.make(name, tmp_path / name, seed=100)
    model = hf.load(tmp_path / name)
    for side in SIDES:
        assert difference(model, golden, side) <= EXACT
        np.testing.assert_array_equal(our_greedy(model, golden.rows, side, NEW), golden.greedy_BL)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_what_is_exported(name, tmp_path, mesh, maker):
    """The other way: our own file of a model, through transformers, gives our logits."""
    golden, _ = maker.make(name, tmp_path / "theirs", seed=200)
    model = hf.load(tmp_path / "theirs")
    hf.save(model, tmp_path / "ours", dtype=np.float32)
    found = maker.logits_of(tmp_path / "ours", golden.rows)
    for side in SIDES:
        largest = np.abs(golden.logits[side]).max()
        assert np.abs(found[side] - golden.logits[side]).max() <= EXACT * largest
        assert difference(model, golden._replace(logits=found), side) <= EXACT
