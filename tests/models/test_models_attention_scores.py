"""The attention of chosen places against softmax by hand; the states against the model's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from scipy.special import softmax

from jaxcomp.config import ModelConfig
from jaxcomp.models.attention import attention, rope
from jaxcomp.models.attention_scores import attended
from jaxcomp.models.mask import Mask
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh

CFG = ModelConfig(
    model_type="qwen3",
    vocab_size=32,
    hidden_size=16,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=6,
    intermediate_size=24,
    num_hidden_layers=3,
)
L = 9
LENGTHS = np.array([9, 6, 4, 0, 9, 6, 4, 0])
AT_BQ = np.array([[7, 8, -1], [2, 4, 5], [3, -1, -1], [-1, -1, -1]] * 2, np.int32)


def rows(B=4, noise=0):
    tok_BL = np.random.default_rng(0).integers(0, 32, (B, L)).astype(np.int32)
    seg_BL = (np.arange(L) < LENGTHS[:B, None]).astype(np.int32)
    tok_BL = np.where(seg_BL > 0, tok_BL, noise).astype(np.int32)
    return tok_BL, np.tile(np.arange(L, dtype=np.int32), (B, 1)), seg_BL


def run(model, batch, at_BQ):
    mesh = jax.sharding.get_mesh()
    tok_BL, pos_BL, seg_BL, at_BQ = put_batch((*batch, at_BQ), mesh)
    x_BLD = jax.jit(lambda m, tok: m.embed(tok))(model, tok_BL)
    return jax.device_get(attended(model, x_BLD, pos_BL, seg_BL, at_BQ))


@pytest.fixture
def model(mesh):
    return Transformer(CFG, rngs=nnx.Rngs(0))


@jax.jit
def heads(model, tok_BL, pos_BL):
    """Queries and keys of each layer, one layer after the other."""
    x_BLD, ones, found = model.embed(tok_BL), jnp.ones_like(pos_BL), []
    for y in range(CFG.num_hidden_layers):
        layer = jax.tree.map(lambda leaf, y=y: leaf[y], model.layers)
        q, k, v = layer.qkv(x_BLD, rope(CFG, pos_BL), None)
        x_BLD = layer.mix(x_BLD, attention(q, k, v, Mask(True, ones, ones)), None)
        found.append((q[0], k[0]))
    return found


def by_hand(model, tok_L, at):
    """Mean attention of the places `at` of one row without padding."""
    row = tok_L[None], np.arange(len(tok_L), dtype=np.int32)[None]
    later_LL, found = np.triu(np.ones((len(tok_L),) * 2, bool), 1), []
    for q, k in heads(model, *put_batch(row, jax.sharding.get_mesh())):
        k = np.repeat(np.asarray(k, np.float64), q.shape[1] // k.shape[1], axis=1)
        scores = np.einsum("lnh,snh->nls", np.asarray(q, np.float64), k) / np.sqrt(CFG.head_dim)
        share = softmax(np.where(later_LL, -np.inf, scores), axis=-1)
        found.append(share[:, at].mean((0, 1)))
    return np.mean(found, axis=0)


def test_shares_are_the_mean_softmax_of_layers_heads_and_queries(model):
    batch = rows()
    share_BL = run(model, batch, AT_BQ[:4]).share_BL
    for b, n in enumerate(LENGTHS[:4]):
        at = [i for i in AT_BQ[b] if i >= 0]
        wanted_L = np.zeros(L)
        if n:
            wanted_L[:n] = by_hand(model, batch[0][b, :n], at)
        np.testing.assert_allclose(share_BL[b], wanted_L, atol=1e-6)
    np.testing.assert_allclose(share_BL.sum(1), [1, 1, 1, 0], rtol=1e-5)


def test_nothing_beyond_the_window_is_attended_to(mesh):
    near = dataclasses.replace(
        CFG, model_type="gemma3_text", sliding_window=3, sliding_window_pattern=9
    )
    found = run(Transformer(near, rngs=nnx.Rngs(0)), rows(), AT_BQ[:4])
    wanted = np.zeros((4, L), bool)  # each query's own place and the two before it
    wanted[0, 5:9] = wanted[1, [0, 1, 2, 3, 4, 5]] = wanted[2, 1:4] = True
    np.testing.assert_array_equal(found.share_BL > 0, wanted)
    np.testing.assert_allclose(found.share_BL.sum(1), [1, 1, 1, 0], rtol=1e-5)


def test_states_are_the_models_own_and_rows_stand_alone(model, mesh):
    batch = rows()
    found = run(model, batch, AT_BQ[:4])
    put = put_batch(batch, mesh)
    hidden_BLD = jax.jit(lambda m, tok, pos, seg: m(m.embed(tok), pos, seg))(model, *put)
    valid_BL = batch[2] > 0
    np.testing.assert_allclose(
        found.hidden_BLD[valid_BL], np.asarray(hidden_BLD)[valid_BL], atol=2e-6
    )
    alone = run(model, tuple(x[1:2] for x in batch), AT_BQ[1:2])
    np.testing.assert_allclose(alone.share_BL[0], found.share_BL[1], atol=1e-6)
    noisy = run(model, rows(noise=7), AT_BQ[:4])
    np.testing.assert_array_equal(noisy.share_BL, found.share_BL)


def test_the_mesh_changes_nothing():
    found = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        with use_mesh(mesh_of(shape)):
            model = Transformer(dataclasses.replace(CFG, hidden_size=16), rngs=nnx.Rngs(0))
            found.append(run(model, rows(8), AT_BQ).share_BL)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
