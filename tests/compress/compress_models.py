"""The tiniest pairs of every kind, and their forward pass by hand: numpy, one token at a time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import softmax

from jaxcomp.compress.autoencoder import AutoEncoder, build
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import MemoryConfig, ModelConfig, TrainConfig
from jaxcomp.data.batches import Batch
from jaxcomp.models.model import Transformer, layer_leaves, top_leaves
from jaxcomp.runtime.sharding import constrain, put_batch

T, V = 8, 32
# Every axis divides by 8 or, where tp cuts it, by 4.
COMP = ModelConfig("qwen3", V, 16, 1, 8, 4, 4, 32)
WIDER = ModelConfig("llama", V, 24, 1, 4, 4, 4, 32)
AS_WIDE = ModelConfig("llama", V, 16, 1, 4, 4, 4, 32)
# For keys and values: a tower of 2 layers, and one as deep with other queries, width and MLP.
DEEP = ModelConfig("qwen3", V, 16, 2, 8, 4, 4, 32)
DEEP_TOO = ModelConfig("llama", V, 24, 2, 4, 4, 4, 40)


def tower(shape: ModelConfig, seed: int) -> Transformer:
    """Weights drawn by numpy: compiling the model's own initialiser would take longer."""
    rng = np.random.default_rng(seed)

    def draw(leaf, lead=()):
        size = (*lead, *leaf.shape)
        x = rng.normal(size=size) * leaf.std if leaf.std else rng.uniform(0.5, 1.5, size)
        return constrain(jnp.asarray(x, jnp.float32), leaf.spec)

    params = {name: draw(leaf) for name, leaf in top_leaves(shape).items()}
    for name, leaf in layer_leaves(shape).items():
        params[f"layers.{name}"] = draw(leaf, (shape.num_hidden_layers,))
    return Transformer(shape, rngs=nnx.Rngs(0), params=params)


def memory_of(name: str, *, ratio: int = 1, positions: Any = "spread") -> MemoryConfig:
    return MemoryConfig(ratio=ratio, positions=positions, **recipe(name)["memory"])


def pair(memory: MemoryConfig, train: TrainConfig | None = None, seed: int = 0) -> AutoEncoder:
    """Can be asked for any ratio of at least `memory.ratio`."""
    comp, dec = COMP, AS_WIDE if memory.connector == "none" else WIDER
    if memory.kind == "kv":
        comp, dec = DEEP, DEEP_TOO
    return build(
        tower(comp, 1), tower(dec, 2), memory, train or TrainConfig(), segment=T, seed=seed
    )


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(3, V, shape).astype(np.int32)


def put(tree):
    return put_batch(tree, jax.sharding.get_mesh())


def batch(rows=8, seed=0) -> Batch:
    """Texts of several lengths, each to be rebuilt."""
    ctx = tokens(rows, 1, T, seed=seed)
    length = np.random.default_rng(seed).integers(1, T + 1, (rows, 1)).astype(np.int32)
    tok = np.zeros((rows, 1, T + 1), np.int32)
    tok[:, :, :T] = ctx
    np.put_along_axis(tok, length[:, :, None], 2, axis=2)  # the end token
    return Batch(ctx, length, tok, length + 1, np.zeros((rows, 1), np.int32))


# --- by hand -----------------------------------------------------------------------------------


def layer_weights(llm: Transformer, y: int) -> dict[str, np.ndarray]:
    found = {}
    for name in layer_leaves(llm.cfg):
        leaf = getattr(llm.layers, name)
        found[name] = np.array((leaf.w if hasattr(leaf, "w") else leaf)[...][y], np.float64)
    return found


def rms(x, weight, eps=1e-5):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def turned(x_SNH, pos_S, theta):
    half = x_SNH.shape[-1] // 2
    angle_S1H = (np.array(pos_S)[:, None] * theta ** (-np.arange(half) / half))[:, None]
    a, b, cos, sin = x_SNH[..., :half], x_SNH[..., half:], np.cos(angle_S1H), np.sin(angle_S1H)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def states_by_hand(llm: Transformer, x_SE, pos_S, given=None, kept=None) -> np.ndarray:
    """Final states of a row without padding: each place reads itself and those before it.

    `given` maps a place to its [Y, 2, K, H] keys (before rotation) and values in the place of its
    own; `kept`, a list, is given those of every place: [Y][S, 2, K, H].
    """
    cfg = llm.cfg
    x_SE = np.array(x_SE, np.float64)
    later_SS = np.triu(np.ones((len(x_SE),) * 2, bool), 1)
    for y in range(cfg.num_hidden_layers):
        w = layer_weights(llm, y)
        h = rms(x_SE, w["attn_norm"])
        q, k, v = (np.einsum("se,enh->snh", h, w[n]) for n in "qkv")
        if "q_norm" in w:
            q, k = rms(q, w["q_norm"]), rms(k, w["k_norm"])
        for s, own in (given or {}).items():
            k[s], v[s] = own[y]
        if kept is not None:
            kept.append(np.stack([k, v], axis=1))
        q, k = (turned(x, pos_S, cfg.rope_theta) for x in (q, k))
        k, v = (np.repeat(x, cfg.num_attention_heads // x.shape[1], axis=1) for x in (k, v))
        scores = np.einsum("snh,tnh->nst", q, k) / math.sqrt(cfg.head_dim)
        share = softmax(np.where(later_SS, -np.inf, scores), axis=-1)
        x_SE = x_SE + np.einsum("nst,tnh,nhe->se", share, v, w["o"])
        h = rms(x_SE, w["mlp_norm"])
        gate = h @ w["gate"]
        x_SE = x_SE + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    return rms(x_SE, np.array(llm.norm[...], np.float64))


def connected_by_hand(name: str, connector, x_E) -> np.ndarray:
    if name == "none":
        return x_E * connector.unit
    up, bias_F, down, bias_D = (
        np.array(getattr(connector, n)[...], np.float64)
        for n in ("up_EF", "bias_F", "down_FD", "bias_D")
    )
    if name == "mlp":
        x_E = rms(x_E, np.array(connector.norm_E[...], np.float64), 1e-6)
        z = x_E @ up + bias_F
        z = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in z])
    else:
        z = np.maximum(x_E @ up + bias_F, 0)
    return (z @ down + bias_D) * connector.unit


def memory_by_hand(model: AutoEncoder, memory: MemoryConfig, ids: list[int], ratio: int):
    """(vector, place in the compressor) of each memory vector of one segment of tokens."""
    comp, t = model.compressor, len(ids)
    emb_VE = np.array(comp.llm.emb[...], np.float64)
    blocks = [ids[i : i + ratio] for i in range(0, t, ratio)]
    ends = [min((m + 1) * ratio, t) - 1 for m in range(len(blocks))]
    together = memory.positions == "consecutive"
    x, pos, read = [], [], []  # what the tower reads; `read` are the places of memory tokens
    if memory.kind != "pool":
        held = np.array(comp.mem_ME[...], np.float64)
        stride = len(held) // (T // ratio)
        learned = held if together else held[stride - 1 :: stride]
    for m, block in enumerate(blocks):
        for i, token in enumerate(block):
            pos.append(len(x) if together else m * ratio + i)
            x.append(emb_VE[token])
        if memory.kind == "interleave":
            read.append(len(x))
            pos.append(len(x) if together else ends[m])
            x.append(learned[m])
    if memory.kind in ("append", "kv"):
        for m in range(len(blocks)):
            read.append(len(x))
            pos.append(len(x) if together else ends[m])
            x.append(learned[m])
    if not ids:
        return [], []
    kept = []
    state_SE = states_by_hand(comp.llm, x, pos, kept=kept)
    if memory.kind == "kv":
        return [np.stack([layer[s] for layer in kept]).ravel() for s in read], ends
    if memory.kind == "pool":
        picked = [state_SE[m * ratio : m * ratio + len(b)].mean(0) for m, b in enumerate(blocks)]
    else:
        picked = [state_SE[s] for s in read]
    return [connected_by_hand(memory.connector, comp.connector, p) for p in picked], ends
