"""The pair: who sees what, how many vectors, where they stand, what they weigh."""

import functools
from functools import partial

import compress_models as tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder, build, trainable_filter
from jaxcomp.compress.memory import Compressor, scale_of
from jaxcomp.config import (
    ConfigError,
    LoraConfig,
    MemoryConfig,
    Positions,
    TrainConfig,
)
from jaxcomp.models.lora import LoraParam
from jaxcomp.models.model import Transformer

T, tokens = tiny.T, tiny.tokens


@functools.cache
def make(positions: Positions = "spread") -> AutoEncoder:
    """A pair that can be asked for any ratio; made once, never changed by a test."""
    return tiny.pair(tiny.memory_of("pcc", positions=positions))


def put(x):
    return tiny.put(np.asarray(x, np.int32))


@functools.partial(jax.jit, static_argnames="ratio")
def _remember(model, ctx, lengths, ratio):
    memory = model.memory(ctx, lengths, ratio=ratio)
    return memory, model.prefix(memory, jnp.zeros_like(lengths[:, 0]))


def remember(model, ctx, lengths, ratio=4):
    return _remember(model, put(ctx), put(lengths), ratio)


def test_padding_never_reaches_the_memory(mesh):
    lengths = np.array([[5, 0], [8, 3]])
    ctx = tokens(2, 2, T)
    other = ctx.copy()
    for b, g in np.ndindex(2, 2):
        other[b, g, lengths[b][g] :] = 7
    assert not np.array_equal(ctx, other)
    one, _ = remember(make(), ctx, lengths)
    two, _ = remember(make(), other, lengths)
    np.testing.assert_array_equal(one.vec_BMD, two.vec_BMD)
    ctx[1, 1, 2] += 1  # a token that does count
    assert not np.array_equal(one.vec_BMD, remember(make(), ctx, lengths)[0].vec_BMD)


def test_positions_spread(mesh):
    memory, prefix = remember(make(), tokens(2, 2, T), [[8, 6], [4, 0]])
    # blocks end at tokens 3 and 7 of the first segment, at 3 and 5 of the second; <begin> is 0
    assert memory.pos_BM[0].tolist() == [1 + 3, 1 + 7, 1 + 8 + 3, 1 + 8 + 5]
    C = 2 * T
    assert prefix.pos_BP[0].tolist() == [0, 4, 8, 12, 14, 1 + C, 2 + C]
    assert prefix.start_pos_B.tolist() == [3 + C, 3 + C]
    # From token i to its block's vector: the same in every block and for every length.
    for b, t in ((0, 8), (1, 4)):
        for i in range(t):
            distance = 3 + C + i - int(memory.pos_BM[b, i // 4])
            assert distance == 2 + C - (3 - i % 4)


def test_positions_consecutive(mesh):
    memory, prefix = remember(make("consecutive"), tokens(2, 2, T), [[3, 8], [8, 0]])
    assert memory.seg_BM.tolist() == [[1, 0, 1, 1], [1, 1, 0, 0]]
    for b, start in ((0, 6), (1, 5)):
        valid = np.array(prefix.seg_BP[b]) == 1
        assert np.array(prefix.pos_BP[b])[valid].tolist() == list(range(start))
        assert int(prefix.start_pos_B[b]) == start


def connector(scale, learns=False):
    """Of a compressor beside a decoder whose embeddings are `scale` times some noise."""
    noise_VD = jax.random.normal(jax.random.key(1), (36, 24))
    made = Compressor(
        make().compressor.llm,
        MemoryConfig(),
        segment=T,
        slots=T,
        scale=scale_of(scale * noise_VD),
        decoder_learns=learns,
        rngs=nnx.Rngs(params=0),
    )
    return made.connector


@pytest.mark.parametrize("scale", [0.1, 50.0])
def test_connector_learns_in_units_of_frozen_embeddings(mesh, scale):
    """One learning rate suits embeddings of any scale: parameters do not depend on it."""
    one, scaled = connector(1.0), connector(scale)
    parameters = (nnx.state(c, nnx.Param) for c in (one, scaled))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *parameters)
    x_BME = jax.random.normal(jax.random.key(0), (2, 3, 16))
    np.testing.assert_allclose(scale * one(x_BME), scaled(x_BME), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("positions", ["spread", "consecutive"])
def test_memory_tokens_start_alike_only_where_their_places_differ(mesh, positions):
    compressor = make(positions).compressor
    mem_ME = np.array(compressor.mem_ME[...])
    assert (len(np.unique(mem_ME, axis=0)) == 1) == (positions == "spread")
    memory, _ = remember(make(positions), tokens(2, 2, T), [[T, T]] * 2)
    assert len(np.unique(np.array(memory.vec_BMD[0]), axis=0)) == 2 * T // 4


def test_words_are_hidden_from_the_decoder_only_where_it_has_a_memory(mesh):
    ctx = put(tokens(2, 1, T))
    batch = ctx, put([[T], [0]]), ctx, put([[T]] * 2), put([[0]] * 2)

    @functools.partial(jax.jit, static_argnames="share")
    def states(model, key, share):
        return model.targets(*batch, ratio=2, word_dropout=share, dropout_key=key).hidden_RLD

    clean = np.array(states(make(), None, 0.5))
    hidden = np.array(states(make(), jax.random.key(0), 0.5))
    np.testing.assert_array_equal(clean[1], hidden[1])
    # The marker, which predicts the first word, has read no word yet.
    np.testing.assert_array_equal(clean[0, 0], hidden[0, 0])
    assert np.abs(clean[0] - hidden[0]).max() > 1e-3
    all_gone = (states(make(), jax.random.key(seed), 1.0) for seed in (1, 2))
    np.testing.assert_array_equal(*all_gone)  # nothing is left to draw


def test_gradient_reaches_each_valid_memory_token_and_no_other(mesh):
    graphdef, mem, rest = nnx.split(make(), lambda path, _: path[-1] == "mem_ME", ...)
    ctx, lengths = put(tokens(2, 1, T)), put([[5], [3]])

    @jax.jit
    def gradient(mem):
        def total(mem):
            model = nnx.merge(graphdef, mem, rest)
            memory = model.memory(ctx, lengths, ratio=1)
            return jnp.sum(jnp.sin(memory.vec_BMD * jnp.arange(1, 25)))

        return jax.grad(total)(mem)

    (grad_ME,) = jax.tree.leaves(gradient(mem))
    norms = np.abs(np.array(grad_ME)).sum(axis=1)
    assert (norms[:5] > 1e-6).all()
    assert (norms[5:] == 0).all()


def test_targets_see_the_tokens_before_them_and_the_marker_of_their_mode(mesh):
    """The oracle of the label shift: state i knows tok_1 .. tok_i and nothing later."""
    tok_BOL = tokens(2, 2, 6, seed=1)
    ctx, lengths, len_BO = put(tokens(2, 1, T)), put([[8], [5]]), put([[6, 4], [6, 2]])

    @jax.jit
    def targets(model, tok_BOL, mode_BO):
        return model.targets(ctx, lengths, tok_BOL, len_BO, mode_BO, ratio=4)

    one = targets(make(), put(tok_BOL), put([[0, 1], [0, 0]]))
    assert one.hidden_RLD.shape == (4, 6, 24)
    np.testing.assert_array_equal(one.label_RL, tok_BOL.reshape(4, 6))
    np.testing.assert_array_equal(np.array(one.valid_RL).sum(1), [6, 4, 6, 2])
    changed = tok_BOL.copy()
    changed[:, :, 1] = (changed[:, :, 1] + 1) % tiny.V
    two = targets(make(), put(changed), put([[0, 1], [0, 0]]))
    moved_RL = np.abs(np.array(one.hidden_RLD - two.hidden_RLD)).max(-1) > 1e-6
    # Slot 1 predicts the changed token and has not seen it; labels after it have. In the last row
    # it is the last token, only ever a label.
    moved_RL &= np.array(one.valid_RL)
    assert moved_RL.sum(1).tolist() == [4, 2, 4, 0]
    assert not moved_RL[:, :2].any()
    three = targets(make(), put(tok_BOL), put([[1, 1], [0, 0]]))
    moved_R = np.abs(np.array(one.hidden_RLD - three.hidden_RLD)).max((1, 2)) > 1e-6
    assert moved_R.tolist() == [True, False, False, False]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_filter_takes_what_it_says(mesh, rank):
    memory, train = MemoryConfig(ratio=1, lora=LoraConfig(rank=rank)), TrainConfig()
    llm = Transformer(tiny.COMP, rngs=nnx.Rngs(0), lora=memory.lora)
    model = build(llm, make().decoder, memory, train, segment=T, seed=0)
    flat = dict(nnx.to_flat_state(nnx.state(model, trainable_filter(train, memory))))
    names = {"/".join(map(str, k)) for k in flat}
    assert {"markers_4D", "compressor/mem_ME", "compressor/connector/up_EF"} <= names
    assert not any(n.startswith("decoder") for n in names)
    llm = {n: v for n, v in flat.items() if n[:2] == ("compressor", "llm")}
    assert llm
    assert all(isinstance(v, LoraParam) == (rank > 0) for v in llm.values())
    both = nnx.state(model, trainable_filter(TrainConfig(train_decoder=True), memory))
    assert any(k[0] == "decoder" for k in dict(nnx.to_flat_state(both)))


def test_rows_of_memory_tokens_keep_their_place_at_coarser_ratios(mesh):
    fresh = make.__wrapped__
    model, consecutive = fresh(), fresh("consecutive")
    mem_ME = np.random.default_rng(0).normal(size=model.compressor.mem_ME.shape)
    for each in (model, consecutive):
        each.compressor.mem_ME[...] = jnp.asarray(mem_ME, jnp.float32)
    mem_ME = np.array(model.compressor.mem_ME[...])
    np.testing.assert_array_equal(model.compressor._tokens(4), mem_ME[[1, 3, 5, 7]])
    np.testing.assert_array_equal(consecutive.compressor._tokens(4), mem_ME[:4])
    with pytest.raises(ConfigError, match=r"16 tokens at ratio 1 need 16 .* built with 8"):
        model.compressor.count(16, 1)
    with pytest.raises(ConfigError, match="ratio 3 does not divide the segment length 8"):
        model.compressor.count(8, 3)


def test_given_markers_are_taken_and_checked(mesh):
    args = (make().compressor.llm, make().decoder, MemoryConfig(), TrainConfig(ratios=(2, 4)))
    given = jnp.arange(4 * 24, dtype=jnp.float32).reshape(4, 24)
    model = build(*args, segment=T, seed=0, markers_4D=given)
    np.testing.assert_array_equal(model.markers_4D[...], given)
    assert model.compressor.slots == 4  # enough for ratio 2
    with pytest.raises(ConfigError, match=r"\(4, 16\).*\(4, 24\)"):
        build(*args, segment=T, seed=0, markers_4D=given[:, :16])
