"""Untrained memories against lists of tokens; cramming against the memory it starts from."""

import functools

import compress_models as tiny
import jax
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.compress.baselines import BASELINES, Baseline
from jaxcomp.compress.cramming import CrammedPair, cram, mean_start
from jaxcomp.config import ConfigError
from jaxcomp.inference import decode
from jaxcomp.runtime.sharding import use_mesh

T, RATIO, EOS = tiny.T, 4, 2
NONE = np.zeros(4, np.int32)  # mode: rebuild
# Two segments; a short last one, a short first one, one token, nothing.
LENGTHS = np.array([[8, 5], [3, 8], [1, 0], [0, 0]], np.int32)


@functools.cache
def pair(positions="spread"):
    return tiny.pair(tiny.memory_of("pcc", positions=positions))


@functools.partial(jax.jit, static_argnames="ratio")
def read(model, ctx, lengths, ratio):
    return model.memory(ctx, lengths, ratio=ratio)


def memory_of(model, ctx, lengths=LENGTHS):
    return read(model, *tiny.put((ctx, lengths)), RATIO)


def wanted(name, ctx_GT, len_G, emb_VD):
    """[(slot in the text, vector)] of one row, by hand."""
    text = [(g * T + i, int(ctx_GT[g, i])) for g, t in enumerate(len_G) for i in range(t)]
    n, K = len(text), sum(-(-int(t) // RATIO) for t in len_G)
    if name == "mean":
        out = []
        for g, t in enumerate(len_G):
            for i in range(0, int(t), RATIO):
                ids = ctx_GT[g, i : min(i + RATIO, t)]
                out.append((g * T + min(i + RATIO, int(t)) - 1, emb_VD[ids].mean(0)))
        return out
    taken = {
        "nothing": [],
        "lead": text[:K],
        "strided": [text[(2 * m + 1) * n // (2 * K)] for m in range(K)],
        "full": text,
    }[name]
    return [(slot, emb_VD[token]) for slot, token in taken]


SPREAD = [(name, "spread") for name in BASELINES if name != "random"]


@pytest.mark.parametrize(("name", "positions"), [*SPREAD, ("mean", "consecutive")])
def test_baselines_hold_the_embeddings_they_say(mesh, name, positions):
    ctx, model = tiny.tokens(4, 2, T), Baseline(name, pair(positions))
    emb_VD = np.array(model.decoder.emb[...])
    found = memory_of(model, ctx)
    for b, len_G in enumerate(LENGTHS):
        rows = wanted(name, ctx[b], len_G, emb_VD)
        valid_M = np.array(found.seg_BM[b]) == 1
        assert valid_M.sum() == len(rows)
        assert (np.array(found.vec_BMD[b])[~valid_M] == 0).all()
        places = [1 + slot for slot, _ in rows]
        end = 1 + 2 * T
        if positions == "consecutive":
            places, end = list(range(1, len(rows) + 1)), 1 + len(rows)
        assert np.array(found.pos_BM[b])[valid_M].tolist() == places
        assert int(found.end_B[b]) == end
        for vec_D, (_, wanted_D) in zip(np.array(found.vec_BMD[b])[valid_M], rows, strict=True):
            np.testing.assert_allclose(vec_D, wanted_D, rtol=1e-5, atol=1e-6)


def test_random_takes_different_tokens_in_their_order_and_alike_in_every_row(mesh):
    ctx = np.tile(np.arange(2 * T, dtype=np.int32).reshape(1, 2, T) + 3, (3, 1, 1))
    lengths = np.array([[8, 5], [8, 5], [3, 8]], np.int32)
    taken = []
    for seed in (0, 1):
        model = Baseline("random", pair(), seed=seed)
        found = memory_of(model, ctx, lengths)
        emb_VD = np.array(model.decoder.emb[...])
        for b, (n, K) in enumerate(((13, 4), (13, 4), (11, 3))):
            valid_M = np.array(found.seg_BM[b]) == 1
            slots = np.array(found.pos_BM[b])[valid_M] - 1
            assert len(slots) == K
            assert (np.diff(slots) > 0).all()
            real = [g * T + i for g, t in enumerate(lengths[b]) for i in range(t)]
            assert len(real) == n
            assert set(slots) <= set(real)
            vec_MD = np.array(found.vec_BMD[b])[valid_M]
            np.testing.assert_allclose(vec_MD, emb_VD[slots + 3], rtol=1e-6)
            taken.append(slots.tolist())
    assert taken[0] == taken[1]
    assert taken[0] != taken[3]


@pytest.mark.parametrize("name", ["random", "mean"])
def test_padding_and_other_rows_change_nothing(mesh, name):
    ctx, model = tiny.tokens(4, 2, T), Baseline(name, pair())
    real = np.arange(T) < LENGTHS[:, :, None]
    one, two = (memory_of(model, c) for c in (ctx, np.where(real, ctx, 9)))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    alone = memory_of(model, ctx[1:2], LENGTHS[1:2])
    np.testing.assert_array_equal(alone.vec_BMD[0], one.vec_BMD[1])


def test_an_unknown_baseline_is_refused(mesh):
    with pytest.raises(ConfigError, match="'first' is unknown; expected one of: nothing, lead"):
        Baseline("first", pair())


# --- cramming ----------------------------------------------------------------------------------

STEPS = 40


def rebuilding(ctx, lengths):
    """Each text in a row with its end token: tok_BL, len_B, by hand."""
    tok_BL, len_B = np.zeros((len(ctx), 2 * T + 1), np.int32), np.zeros(len(ctx), np.int32)
    for b, len_G in enumerate(lengths):
        ids = [*(int(x) for g, t in enumerate(len_G) for x in ctx[b, g, :t]), EOS]
        tok_BL[b, : len(ids)], len_B[b] = ids, len(ids)
    return tok_BL, len_B


@functools.cache
def crammed(rows=(0, 1, 2, 3), shape=(1, 1, 1), noise=False):
    with use_mesh(mesh_of(shape)):
        model = tiny.pair(tiny.memory_of("pcc")) if shape != (1, 1, 1) else pair()
        ctx, lengths = tiny.tokens(4, 2, T)[list(rows)], LENGTHS[list(rows)]
        tok_BL, len_B = rebuilding(ctx, lengths)
        if noise:
            ctx = np.where(np.arange(T) < lengths[:, :, None], ctx, 9)
            tok_BL = np.where(np.arange(2 * T + 1) < len_B[:, None], tok_BL, 9)
        start = memory_of(model, ctx, lengths)
        graphdef, state = nnx.split(model)
        before = jax.device_get(state)
        found = cram(graphdef, state, start, *tiny.put((tok_BL, len_B)), steps=STEPS)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
        return jax.device_get((start, found))


def test_crammed_vectors_rebuild_better_than_the_compressor_they_start_from(mesh):
    start, found = crammed()
    assert found.nll_NB.shape == (STEPS + 1, 4)
    with_memory = LENGTHS.sum(1) > 0
    falls_B = found.nll_NB[-1] < 0.8 * found.nll_NB[0]
    assert falls_B[with_memory].all()
    # Without a vector there is nothing to optimise.
    assert np.ptp(found.nll_NB[:, ~with_memory], axis=0).max() < 1e-5
    np.testing.assert_array_equal(found.memory.pos_BM, start.pos_BM)
    assert (found.memory.vec_BMD[found.memory.seg_BM == 0] == 0).all()
    # The curve's ends are what the evaluation measures of the two memories.
    graphdef, state = nnx.split(pair())
    tok_BL, len_B = rebuilding(tiny.tokens(4, 2, T), LENGTHS)
    for memory, curve_B in ((start, found.nll_NB[0]), (found.memory, found.nll_NB[-1])):
        put = tiny.put((memory, NONE, tok_BL, len_B))
        nll_BL = decode.forced(graphdef, state, *put).nll_BL
        np.testing.assert_allclose(np.array(nll_BL).sum(1) / len_B, curve_B, rtol=1e-4)


def test_a_text_is_crammed_alike_alone_and_whatever_its_padding_holds():
    whole, alone, noisy = (crammed(*a)[1] for a in ((), ((1,),), ((0, 1, 2, 3), (1, 1, 1), True)))
    np.testing.assert_allclose(alone.nll_NB[:, 0], whole.nll_NB[:, 1], rtol=1e-3)
    np.testing.assert_array_equal(noisy.memory.vec_BMD, whole.memory.vec_BMD)


def test_the_pair_that_crams_reads_its_target_from_its_context(mesh):
    model = CrammedPair(pair(), eos_id=EOS, steps=5)
    ctx = tiny.tokens(4, 2, T)
    found = memory_of(model, ctx)
    graphdef, state = nnx.split(pair())
    start = mean_start(pair(), memory_of(pair(), ctx))
    wanted = cram(graphdef, state, start, *tiny.put(rebuilding(ctx, LENGTHS)), steps=5)
    valid_BM = np.array(start.seg_BM) == 1
    np.testing.assert_array_equal(found.seg_BM, start.seg_BM)
    np.testing.assert_array_equal(
        np.array(found.pos_BM)[valid_BM], np.array(wanted.memory.pos_BM)[valid_BM]
    )
    np.testing.assert_allclose(found.vec_BMD, wanted.memory.vec_BMD, rtol=1e-3, atol=1e-4)
    mean_D = np.array(pair().decoder.emb[...]).mean(0)
    np.testing.assert_allclose(
        np.array(start.vec_BMD)[valid_BM], mean_D[None].repeat(valid_BM.sum(), 0), atol=1e-5
    )


@pytest.mark.slow
def test_cramming_does_not_depend_on_the_mesh():
    rows = (0, 1, 2, 3)
    alone, spread = crammed(rows)[1], crammed(rows, (2, 2, 2))[1]
    np.testing.assert_allclose(spread.nll_NB[:5], alone.nll_NB[:5], rtol=1e-3)
