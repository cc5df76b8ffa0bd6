"""The transformer's properties: scan, batch, padding, packing, remat, sharding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.config import ConfigError, LoraConfig, ModelConfig
from jaxcomp.models.attention import attention, windows
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh

QWEN = ModelConfig(
    model_type="qwen3",
    vocab_size=32,
    hidden_size=16,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=6,
    intermediate_size=24,
    num_hidden_layers=3,
)
# Padding in the middle of a row is inside the window.
GEMMA = dataclasses.replace(
    QWEN,
    model_type="gemma3_text",
    sliding_window=3,
    sliding_window_pattern=2,
    rope_theta=1000.0,
    rope_local_base_freq=10.0,
)
OLMO = dataclasses.replace(QWEN, model_type="olmo2", num_hidden_layers=2)
LLAMA = ModelConfig(
    vocab_size=32,
    hidden_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    intermediate_size=24,
    tie_word_embeddings=False,
)


def rows(B, L, seed=0):
    rng = np.random.default_rng(seed)
    tok_BL = rng.integers(0, 32, (B, L)).astype(np.int32)
    pos_BL = np.tile(np.arange(L, dtype=np.int32), (B, 1))
    return tok_BL, pos_BL, np.ones((B, L), np.int32)


@jax.jit
def hidden(model, tok, pos, seg):
    return model(model.embed(tok), pos, seg)


def run(model, batch):
    mesh = jax.sharding.get_mesh()
    return np.asarray(hidden(model, *put_batch(batch, mesh)))


@pytest.fixture(params=[QWEN, GEMMA], ids=["qwen3", "gemma3"])
def model(request, mesh):
    return Transformer(request.param, rngs=nnx.Rngs(0))


@jax.jit
def looped(model, tok, pos, seg):
    x_BLD, seen = model._start(model.embed(tok), pos, seg)
    windows_Y = windows(model.cfg)
    for y in range(QWEN.num_hidden_layers):
        layer = jax.tree.map(lambda leaf, y=y: leaf[y], model.layers)
        angle, mask = seen.of(None if windows_Y is None else windows_Y[y])
        q, k, v = layer.qkv(x_BLD, angle, None)
        x_BLD = layer.mix(x_BLD, attention(q, k, v, mask), None)
    return model.last_norm(x_BLD)


def test_scan_equals_a_python_loop(model, mesh):
    batch = put_batch(rows(2, 8), mesh)
    scanned = jax.jit(lambda model, tok, pos, seg: model(model.embed(tok), pos, seg, unroll=1))
    np.testing.assert_allclose(scanned(model, *batch), looped(model, *batch), atol=2e-6)


def test_rows_do_not_see_each_other(model):
    batch = rows(2, 8)
    together = run(model, batch)
    for b in range(2):
        alone = run(model, tuple(x[b : b + 1] for x in batch))
        np.testing.assert_allclose(alone[0], together[b], atol=2e-6)


def test_attention_is_causal(model):
    tok, pos, seg = rows(1, 8)
    base = run(model, (tok, pos, seg))
    tok[0, 5] = (tok[0, 5] + 1) % 32
    changed = run(model, (tok, pos, seg))
    np.testing.assert_array_equal(changed[0, :5], base[0, :5])
    assert np.abs(changed[0, 5:] - base[0, 5:]).max(-1).min() > 1e-4


@pytest.mark.parametrize("where", ["left", "middle", "right"])
def test_padding_never_leaks(model, where):
    tok, pos, seg = rows(2, 8)
    pad = {"left": slice(0, 3), "middle": slice(2, 5), "right": slice(5, 8)}[where]
    seg[:, pad] = 0
    base = run(model, (tok, pos, seg))
    noisy, elsewhere = tok.copy(), pos.copy()
    noisy[:, pad] = (noisy[:, pad] + 7) % 32
    elsewhere[:, pad] += 40
    real = seg[0] > 0
    np.testing.assert_array_equal(run(model, (noisy, elsewhere, seg))[:, real], base[:, real])
    without = tuple(x[:, real] for x in (tok, pos, seg))
    np.testing.assert_allclose(run(model, without), base[:, real], atol=2e-6)
    # The test can fail: as ordinary tokens the same places do change what follows them.
    seg[:] = 1
    if where != "right":
        assert np.abs(run(model, (tok, pos, seg))[:, -1] - base[:, -1]).max() > 1e-3


def test_packed_equals_unpacked(model):
    tok, _, _ = rows(1, 8)
    seg = np.array([[1] * 3 + [2] * 4 + [0]], np.int32)
    pos = np.array([[0, 1, 2, 0, 1, 2, 3, 0]], np.int32)
    packed = run(model, (tok, pos, seg))
    for start, n in ((0, 3), (3, 4)):
        alone = tuple(np.roll(x, -start, axis=1) for x in (tok, pos, np.ones_like(seg)))
        alone[2][:, n:] = 0
        np.testing.assert_allclose(
            packed[:, start : start + n], run(model, alone)[:, :n], atol=2e-6
        )


def test_only_distances_between_positions_matter(model):
    tok, pos, seg = rows(1, 8)
    base = run(model, (tok, pos, seg))
    np.testing.assert_allclose(run(model, (tok, pos + 100, seg)), base, atol=1e-4)
    assert np.abs(run(model, (tok, pos * 3, seg)) - base).max() > 1e-2


def loss(trainable, frozen, graphdef, batch, remat="none", unroll=1, key=None):
    model = nnx.merge(graphdef, trainable, frozen)
    tok, pos, seg = batch
    h = model(model.embed(tok), pos, seg, remat=remat, unroll=unroll, dropout_key=key)
    logits = model.unembed(h)[:, :-1]
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == tok[:, 1:, None]
    return -jnp.sum(jnp.where(hit, jax.nn.log_softmax(logits), 0)) / tok[:, 1:].size


grads = jax.jit(jax.value_and_grad(loss), static_argnums=(2, 4, 5))


@pytest.mark.parametrize(("remat", "unroll"), [("full", 1), ("offload", 1), ("none", 3)])
def test_remat_and_unrolling_change_nothing(mesh, remat, unroll):
    graphdef, params, rest = nnx.split(Transformer(QWEN, rngs=nnx.Rngs(0)), nnx.Param, ...)
    batch = put_batch(rows(2, 8), mesh)
    plain = grads(params, rest, graphdef, batch)
    other = grads(params, rest, graphdef, batch, remat, unroll)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, other)


def test_remat_full_stores_fewer_residuals(mesh):
    graphdef, params, rest = nnx.split(Transformer(QWEN, rngs=nnx.Rngs(0)), nnx.Param, ...)
    batch = put_batch(rows(2, 8), mesh)

    def saved(remat):
        def pullback(p):
            return jax.vjp(lambda p: loss(p, rest, graphdef, batch, remat), p)[1]

        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(pullback, params)))

    assert saved("full") < saved("none")


SHALLOW = dataclasses.replace(QWEN, num_hidden_layers=2)


@pytest.mark.parametrize(
    ("cfg", "shapes"),
    [
        pytest.param(SHALLOW, [(1, 2, 4)], id="qwen3"),
        pytest.param(GEMMA, [(2, 2, 2)], id="gemma3"),
        pytest.param(LLAMA, [(1, 8, 1), (2, 2, 2)], id="llama-untied", marks=pytest.mark.slow),
        pytest.param(OLMO, [(2, 2, 2)], id="olmo2", marks=pytest.mark.slow),
    ],
)
def test_sharded_equals_unsharded(cfg, shapes):
    """Same loss and gradients on every mesh; the weights are drawn anew on each from one seed."""

    def on(shape):
        with use_mesh(mesh_of(shape)) as _, jax.default_matmul_precision("highest"):
            here = jax.sharding.get_mesh()
            model = Transformer(cfg, rngs=nnx.Rngs(0), lora=LoraConfig(rank=4))
            assert model.layers.q.lora is not None
            low = model.layers.q.lora.b
            low.set_value(low[...] + 0.1)
            graphdef, params, rest = nnx.split(model, (nnx.Param, nnx.Variable), ...)
            value, grad = grads(params, rest, graphdef, put_batch(rows(8, 9), here))
            jax.tree.map(lambda g, p: check_layout(g, p), grad, params)
            return jax.tree.map(np.asarray, (value, grad))

    def check_layout(grad, param):
        assert jax.typeof(grad).sharding == jax.typeof(param).sharding

    expected = on((1, 1, 1))
    assert max(np.abs(g).max() for g in jax.tree.leaves(expected[1])) > 1e-2
    for shape in shapes:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, on(shape))


def test_the_table_holds_what_embed_gives(model, mesh):
    """Memory vectors start at its scale, so it includes Gemma's factor sqrt(D)."""
    tok_BL = put_batch(np.arange(32, dtype=np.int32)[None], mesh)
    embedded_BLD = jax.jit(lambda m, tok: m.embed(tok))(model, tok_BL)
    np.testing.assert_array_equal(embedded_BLD[0], model.table_VD())
    ratio = np.asarray(model.table_VD()) / np.asarray(model.emb[...])
    scale = 4 if model.cfg.model_type == "gemma3_text" else 1
    np.testing.assert_allclose(ratio, scale, rtol=1e-6)


def test_heads_that_do_not_divide_over_tp_are_an_error():
    with use_mesh(mesh_of((1, 2, 4))), pytest.raises(ConfigError, match="num_key_value_heads is 2"):
        Transformer(LLAMA, rngs=nnx.Rngs(0))


def test_unknown_remat_is_an_error(mesh):
    tok, pos, seg = put_batch(rows(1, 4), mesh)
    model = Transformer(QWEN, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="none, full, offload"):
        model(model.embed(tok), pos, seg, remat="some")
