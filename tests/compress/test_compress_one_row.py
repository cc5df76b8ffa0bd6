"""A batch of one row, with every other axis as short as it can be, says what the row says among
others: JAX forgets on which axes of the mesh a dimension of size one lies, and then refuses."""

import functools

import compress_models as tiny
import jax
import numpy as np
import pytest
from flax import nnx

from jaxcomp.compress import cramming
from jaxcomp.compress.autoencoder import build
from jaxcomp.compress.baselines import Baseline
from jaxcomp.config import ModelConfig, TrainConfig
from jaxcomp.inference import decode
from jaxcomp.models.attention_scores import attended

T, ROWS, NEVER = tiny.T, 3, 999  # an end token outside the vocabulary
# One key/value head, for one query head and for two.
ONE_HEAD = ModelConfig("llama", tiny.V, 16, 1, 1, 1, 8, 32)
TWO_HEADS = ModelConfig("llama", tiny.V, 16, 1, 2, 1, 8, 32)


@functools.cache
def made(name, positions="spread"):
    if name != "one head":
        return tiny.pair(tiny.memory_of(name, positions=positions))
    towers = tiny.tower(ONE_HEAD, 1), tiny.tower(TWO_HEADS, 2)
    memory = tiny.memory_of("pcc", positions=positions)
    return build(*towers, memory, TrainConfig(), segment=T, seed=0)


@functools.partial(jax.jit, static_argnames="ratio")
def remember(model, ctx_BGT, len_BG, ratio):
    return model.memory(ctx_BGT, len_BG, ratio=ratio)


def texts(G):
    """Contexts ctx_BGT and their lengths; the first row is whole."""
    len_BG = np.full((ROWS, G), T, np.int32)
    len_BG[1:, -1] = 3
    return tiny.tokens(ROWS, G, T), len_BG


def everything(model, memory, L):
    """What the decoder says and expects after each memory, of L tokens; whatever has a row each."""
    B = memory.seg_BM.shape[0]
    graphdef, state = nnx.split(model)
    tok_BL = np.tile(tiny.tokens(1, L), (B, 1))
    mode_B, tok_BL, len_B = tiny.put((np.zeros(B, np.int32), tok_BL, np.full(B, L, np.int32)))
    forced = decode.forced(graphdef, state, memory, mode_B, tok_BL, len_B)
    key = jax.random.key(0)
    greedy = decode.free(graphdef, state, memory, mode_B, key, max_new=L, eos_id=NEVER)
    prefix = decode.with_text(graphdef, state, memory, mode_B, tok_BL, len_B)
    last_B1 = np.full((B, 1), prefix.seg_BP.shape[1] - 1, np.int32)
    found = attended(model.decoder, prefix.x_BPD, prefix.pos_BP, prefix.seg_BP, tiny.put(last_B1))
    crammed = cramming.cram(graphdef, state, memory, tok_BL, len_B, steps=1)
    said = (memory, forced, greedy, found.share_BL, crammed.memory, crammed.nll_NB.T)
    return jax.tree.map(np.array, said)


@pytest.mark.parametrize(
    ("name", "positions", "G", "ratio", "L"),
    [
        ("one head", "spread", 1, T, 1),
        ("500x", "spread", 1, T, 1),
        pytest.param("pcc", "consecutive", 2, 4, 3, marks=pytest.mark.slow),
    ],
)
def test_a_row_alone_is_the_row_among_others(mesh, name, positions, G, ratio, L):
    model = made(name, positions)
    ctx_BGT, len_BG = texts(G)
    together = everything(model, remember(model, *tiny.put((ctx_BGT, len_BG)), ratio), L)
    for b in range(ROWS):
        one = tiny.put((ctx_BGT[b : b + 1], len_BG[b : b + 1]))
        alone = everything(model, remember(model, *one, ratio), L)
        for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(x[0], y[b], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["strided", "full"])
def test_a_baseline_of_one_row_is_that_of_the_row_among_others(mesh, name):
    model = Baseline(name, made("one head"))
    ctx_BGT, len_BG = texts(1)
    together = remember(model, *tiny.put((ctx_BGT, len_BG)), T)
    alone = remember(model, *tiny.put((ctx_BGT[1:2], len_BG[1:2])), T)
    for x, y in zip(alone, together, strict=True):
        np.testing.assert_allclose(x[0], y[1], rtol=1e-4, atol=1e-5)
