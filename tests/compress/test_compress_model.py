"""The pair: who sees what, how many vectors, where they stand, what they weigh."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.compress.autoencoder import AutoEncoder, build, trainable_filter
from jaxcomp.compress.kinds import kind_of
from jaxcomp.compress.memory import Compressor, scale_of
from jaxcomp.config import (
    ConfigError,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    Positions,
    TrainConfig,
)
from jaxcomp.models.lora import LoraParam
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import constrain

TINY = ModelConfig(vocab_size=40, hidden_size=16, head_dim=8, intermediate_size=32)
WIDER = dataclasses.replace(TINY, hidden_size=24, model_type="qwen3", vocab_size=36)
T = 8


@functools.cache
def make(positions: Positions = "spread", rank: int = 0) -> AutoEncoder:
    """A pair that can be asked for any ratio; made once, never changed by a test."""
    memory = MemoryConfig(ratio=1, positions=positions, lora=LoraConfig(rank=rank))
    llm = Transformer(TINY, rngs=nnx.Rngs(params=1), lora=memory.lora)
    decoder = Transformer(WIDER, rngs=nnx.Rngs(params=2))
    return build(llm, decoder, memory, TrainConfig(), segment=T, seed=0)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(3, 36, shape).astype(np.int32)


def put(x):
    return constrain(jnp.asarray(x, jnp.int32), "batch")


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


def test_a_row_is_the_same_alone_and_in_a_batch(mesh):
    ctx, lengths = tokens(2, 2, T), np.array([[8, 6], [3, 0]])
    every, _ = remember(make(), ctx, lengths)
    for b in range(2):
        alone, _ = remember(make(), ctx[b : b + 1], lengths[b : b + 1])
        np.testing.assert_allclose(alone.vec_BMD[0], every.vec_BMD[b], atol=1e-5)
        np.testing.assert_array_equal(alone.pos_BM[0], every.pos_BM[b])


@pytest.mark.parametrize("ratio", [1, 4])
def test_valid_vectors_are_ceil_of_length_over_ratio(mesh, ratio):
    lengths = np.arange(T + 1)
    memory, _ = remember(make(), tokens(T + 1, 1, T), lengths[:, None], ratio)
    seg_BM = np.array(memory.seg_BM)
    assert seg_BM.shape == (T + 1, T // ratio)
    assert seg_BM.sum(1).tolist() == [-(-t // ratio) for t in lengths]
    assert (np.diff(seg_BM, axis=1) <= 0).all()  # the valid ones come first
    assert (np.array(memory.vec_BMD)[seg_BM == 0] == 0).all()
    assert (np.abs(np.array(memory.vec_BMD)[seg_BM == 1]).sum(-1) > 0).all()


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


def test_memory_starts_at_the_scale_of_embeddings(mesh):
    model = make()
    emb_VE = np.array(model.compressor.llm.emb[...])
    mem_ME = np.array(model.compressor.mem_ME[...])
    assert 0.5 < mem_ME.std() / emb_VE.std() < 2
    # What the decoder sees first is of the size of its own tokens.
    memory, _ = remember(model, tokens(2, 2, T), [[T, T]] * 2)
    dec_VD, vec_BMD = np.array(model.decoder.emb[...]), np.array(memory.vec_BMD)
    assert 0.5 < np.sqrt((vec_BMD**2).mean()) / np.sqrt((dec_VD**2).mean()) < 2
    markers = np.array(model.markers_4D[...])
    assert np.sqrt((markers**2).mean()) < 2 * np.sqrt((dec_VD**2).mean())


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


def test_beside_a_decoder_that_learns_the_unit_is_at_least_one(mesh):
    assert connector(0.1, learns=True).unit == 1.0
    assert connector(50.0, learns=True).unit == connector(50.0).unit > 1.0


@pytest.mark.parametrize("positions", ["spread", "consecutive"])
def test_memory_tokens_start_alike_only_where_their_places_differ(mesh, positions):
    compressor = make(positions).compressor
    mem_ME = np.array(compressor.mem_ME[...])
    assert (len(np.unique(mem_ME, axis=0)) == 1) == (positions == "spread")
    memory = compressor(put(tokens(2, T)), put([T, T]), ratio=2)
    assert len(np.unique(np.array(memory.vec_BMD[0]), axis=0)) == T // 2


def test_words_are_hidden_from_the_decoder_only_where_it_has_a_memory(mesh):
    model, key = make(), jax.random.key(0)
    row = put(tokens(2, 1, T))

    def states(share, key, lengths):
        got = model.targets(
            put(tokens(2, 1, T)),
            put([[n] for n in lengths]),
            row,
            put([[T]] * 2),
            put([[0]] * 2),
            ratio=2,
            word_dropout=share,
            dropout_key=key,
        )
        return np.array(got.hidden_RLD)

    clean, hidden = states(0.0, None, [T, 0]), states(0.5, key, [T, 0])
    np.testing.assert_array_equal(clean[1], hidden[1])
    # The marker, which predicts the first word, has read no word yet.
    np.testing.assert_array_equal(clean[0, 0], hidden[0, 0])
    assert np.abs(clean[0] - hidden[0]).max() > 1e-3
    np.testing.assert_array_equal(clean, states(0.5, None, [T, 0]))
    one, two = (states(1.0, jax.random.key(seed), [T, 0]) for seed in (1, 2))
    np.testing.assert_array_equal(one, two)  # nothing is left to draw


def test_gradient_reaches_each_valid_memory_token_and_no_other(mesh):
    graphdef, mem, rest = nnx.split(make(), lambda path, _: path[-1] == "mem_ME", ...)

    @jax.jit
    def gradient(mem):
        def total(mem):
            model = nnx.merge(graphdef, mem, rest)
            memory = model.memory(put(tokens(2, 1, T)), put([[5], [3]]), ratio=1)
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
    changed[:, :, 1] = (changed[:, :, 1] + 1) % 36
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


def test_markers_stand_where_they_should(mesh):
    model = make()
    memory, _ = remember(model, tokens(2, 2, T), [[8, 8]] * 2)
    prefix = model.prefix(memory, put([0, 1]))
    markers_4D = np.array(model.markers_4D[...])
    for at, rows in ((0, [0, 0]), (-2, [1, 1]), (-1, [2, 3])):
        np.testing.assert_allclose(prefix.x_BPD[:, at], markers_4D[rows], rtol=1e-6)
    np.testing.assert_array_equal(prefix.x_BPD[:, 1:-2], memory.vec_BMD)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_filter_takes_what_it_says(mesh, rank):
    memory, model = MemoryConfig(lora=LoraConfig(rank=rank)), make(rank=rank)
    flat = dict(nnx.to_flat_state(nnx.state(model, trainable_filter(TrainConfig(), memory))))
    names = {"/".join(map(str, k)) for k in flat}
    assert {"markers_4D", "compressor/mem_ME", "compressor/connector/up_EF"} <= names
    assert not any(n.startswith("decoder") for n in names)
    llm = {n: v for n, v in flat.items() if n[:2] == ("compressor", "llm")}
    assert llm
    assert all(isinstance(v, LoraParam) == (rank > 0) for v in llm.values())
    both = nnx.state(model, trainable_filter(TrainConfig(train_decoder=True), memory))
    assert any(k[0] == "decoder" for k in dict(nnx.to_flat_state(both)))


def test_an_output_head_that_is_never_used_is_not_trained():
    keep = trainable_filter(TrainConfig(), MemoryConfig())
    param = nnx.Param(np.zeros(1))
    assert keep(("compressor", "llm", "emb"), param)
    assert not keep(("compressor", "llm", "head"), param)


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


def test_unknown_choices_are_refused_with_the_known_ones(mesh):
    with pytest.raises(ConfigError, match=r"memory.kind = 'pooled'.*append"):
        kind_of(MemoryConfig(kind="pooled"))
    towers = make().compressor.llm, make().decoder
    for memory, message in (
        (MemoryConfig(recipe="autocompressor"), r"memory.recipe = 'autocompressor'.*pcc"),
        (MemoryConfig(recipe="icae"), r"memory.connector = 'mlp': recipe 'icae' means 'none'"),
        (MemoryConfig(kind="pool"), r"memory.kind = 'pool': recipe 'pcc'.*arc or lclm or mean"),
        (MemoryConfig(recipe="custom", connector="x"), r"memory.connector = 'x'.*mlp, relu, none"),
        (
            MemoryConfig(recipe="icae", connector="none"),
            r"has hidden_size 16: .*none.*which has hidden_size 24",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            build(*towers, memory, TrainConfig(), segment=T, seed=0)


def test_given_markers_are_taken_and_checked(mesh):
    args = (make().compressor.llm, make().decoder, MemoryConfig(), TrainConfig(ratios=(2, 4)))
    given = jnp.arange(4 * 24, dtype=jnp.float32).reshape(4, 24)
    model = build(*args, segment=T, seed=0, markers_4D=given)
    np.testing.assert_array_equal(model.markers_4D[...], given)
    assert model.compressor.slots == 4  # enough for ratio 2
    with pytest.raises(ConfigError, match=r"\(4, 16\).*\(4, 24\)"):
        build(*args, segment=T, seed=0, markers_4D=given[:, :16])
