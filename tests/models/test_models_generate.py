"""Generation: the cache changes nothing, padding neither, and no call compiles twice."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

import jaxcomp.models.generate as room
from jaxcomp.config import ModelConfig
from jaxcomp.models.generate import generate
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh

CFG = ModelConfig(
    model_type="qwen3", vocab_size=32, hidden_size=16, head_dim=4, intermediate_size=24
)
GEMMA = dataclasses.replace(
    CFG, model_type="gemma3_text", num_hidden_layers=3, sliding_window=3, sliding_window_pattern=2
)
B, P, NEW = 8, 7, 6
NEVER = 999  # an end token outside the vocabulary
LIMITS = np.array([0, 4, 1, 3, 2, 0, 3, 1], np.int32)  # tokens of each row, below NEW


@pytest.fixture
def model(mesh):
    return fresh(0)


@pytest.fixture(params=[CFG, GEMMA], ids=["qwen3", "gemma3"])
def either(request, mesh):
    return fresh(0, request.param)


def fresh(seed, cfg=CFG):
    model = Transformer(cfg, rngs=nnx.Rngs(seed))
    # Strong branches, so that what is generated depends on more than the last token.
    for name in ("o", "down"):
        w = getattr(model.layers, name).w
        w.set_value(w[...] * 8)
    return model


def prefix(model, mesh):
    """Rows with holes: padding at the end, in the middle, at the left; gaps in positions."""
    rng = np.random.default_rng(0)
    tok_BP = rng.integers(0, 32, (B, P)).astype(np.int32)
    seg_BP = np.ones((B, P), np.int32)
    seg_BP[1, 5:] = seg_BP[2, 2:4] = seg_BP[3, :3] = 0
    pos_BP = np.cumsum(rng.integers(1, 4, (B, P)), axis=1).astype(np.int32)
    start_B = pos_BP.max(1) + 2
    tok, pos, seg, start = put_batch((tok_BP, pos_BP, seg_BP, start_B), mesh)
    return model.embed(tok), pos, seg, start


@jax.jit
def all_logits(model, x, pos, seg):
    return model.unembed(model(x, pos, seg))


def next_logits(model, x, pos, seg, last_B):
    return np.asarray(all_logits(model, x, pos, seg))[np.arange(B), last_B]


def uncached(model, inputs, steps):
    """Greedy loop without cache or holes: valid places are moved to the left, then extended."""
    x, pos, seg, start = (np.asarray(a) for a in inputs)
    table = np.asarray(model.table_VD())
    X, Q = np.zeros((B, P + NEW, x.shape[-1]), np.float32), np.zeros((B, P + NEW), np.int32)
    length = (seg > 0).sum(1)
    for b in range(B):
        X[b, : length[b]], Q[b, : length[b]] = x[b, seg[b] > 0], pos[b, seg[b] > 0]
    toks, logits = [], []
    for step in range(steps):
        S = (np.arange(P + NEW) < length[:, None]).astype(np.int32)
        row = np.asarray(next_logits(model, X, Q, S, length - 1), np.float64)
        tok = row.argmax(-1)
        X[np.arange(B), length], Q[np.arange(B), length] = table[tok], start + step
        length = length + 1
        toks.append(tok)
        logits.append(row)
    return np.stack(toks, 1), np.stack(logits, 1)


def compiled():
    """How many programs the two jitted functions hold; jax's stubs do not declare the method."""
    functions: list[Any] = [room._prefill, room._decode]
    return [f._cache_size() for f in functions]


def test_cached_equals_uncached_argmax_loop(either, mesh):
    model = either
    inputs = prefix(model, mesh)
    out = generate(model, *inputs, max_new=NEW, eos_id=NEVER)
    tok_BL, logits_BLV = uncached(model, inputs, NEW)
    np.testing.assert_array_equal(out.tok_BL, tok_BL)
    np.testing.assert_array_equal(out.len_B, NEW)
    prob = np.exp(logits_BLV - logits_BLV.max(-1, keepdims=True))
    prob /= prob.sum(-1, keepdims=True)
    np.testing.assert_allclose(out.entropy_BL, -(prob * np.log(prob)).sum(-1), atol=1e-4)
    np.testing.assert_allclose(out.top1_BL, prob.max(-1), atol=1e-4)
    assert len({tuple(row) for row in tok_BL}) > 4  # rows differ: the prefix is heard


def test_padding_in_the_prefix_never_leaks(either, mesh):
    model = either
    x, pos, seg, start = prefix(model, mesh)
    noisy = jnp.where((seg > 0)[:, :, None], x, 5.0)
    base, other = (
        generate(model, y, pos, seg, start, max_new=NEW, eos_id=NEVER) for y in (x, noisy)
    )
    jax.tree.map(np.testing.assert_array_equal, base, other)


def assert_begins_like(out, free, b, n, rest):
    """Row b is that of `free` for n tokens, and `rest` after them."""
    assert out.len_B[b] == n
    np.testing.assert_array_equal(out.tok_BL[b, :n], free.tok_BL[b, :n])
    np.testing.assert_array_equal(out.entropy_BL[b, :n], free.entropy_BL[b, :n])
    assert (np.asarray(out.tok_BL[b, n:]) == rest).all()
    assert (np.asarray(out.entropy_BL[b, n + 1 :]) == 0).all()


def test_a_row_ends_alone_at_its_end_token_or_its_limit_without_compiling_again(model, mesh):
    inputs = prefix(model, mesh)
    free = jax.tree.map(np.asarray, generate(model, *inputs, max_new=NEW, eos_id=NEVER))
    eos = int(free.tok_BL[0, 2])
    before = compiled()
    out = generate(model, *inputs, max_new=NEW, eos_id=eos)
    assert compiled() == before
    limits = put_batch(LIMITS, mesh)
    limited = generate(model, *inputs, max_new=NEW, eos_id=NEVER, limit_B=limits)
    for b, limit in enumerate(LIMITS):
        ends = np.flatnonzero(free.tok_BL[b] == eos)
        assert_begins_like(out, free, b, ends[0] if len(ends) else NEW, eos)
        assert_begins_like(limited, free, b, limit, NEVER)
    assert out.len_B[0] < NEW


def test_loop_stops_when_all_rows_have_ended(model, mesh, monkeypatch):
    written = []
    whole = room._decode

    def spy(*args, **kwargs):
        out, cache = whole(*args, **kwargs)
        written.append(int(cache.length) - P)
        return out, cache

    monkeypatch.setattr(room, "_decode", spy)
    inputs = prefix(model, mesh)
    forced = put_batch(np.full(B, 5), mesh)
    generate(model, *inputs, max_new=NEW, eos_id=5, first_tok=forced)
    generate(model, *inputs, max_new=NEW, eos_id=NEVER)
    generate(model, *inputs, max_new=NEW, eos_id=NEVER, limit_B=put_batch(LIMITS, mesh))
    assert written == [1, NEW, max(LIMITS)]


def test_first_token_can_be_forced(model, mesh):
    forced = np.arange(B, dtype=np.int32)
    inputs = prefix(model, mesh)
    free = generate(model, *inputs, max_new=NEW, eos_id=NEVER)
    out = generate(model, *inputs, max_new=NEW, eos_id=NEVER, first_tok=put_batch(forced, mesh))
    np.testing.assert_array_equal(out.tok_BL[:, 0], forced)
    np.testing.assert_array_equal(out.entropy_BL[:, 0], free.entropy_BL[:, 0])
    assert (np.asarray(out.entropy_BL[:, 1:]) != np.asarray(free.entropy_BL[:, 1:])).any()


def test_sampling_is_seeded_and_follows_the_softmax(model, mesh):
    draws = 2048
    one = tuple(np.asarray(a)[:1] for a in prefix(model, mesh))
    many = put_batch(tuple(np.repeat(a, draws, axis=0) for a in one), mesh)
    first = generate(model, *many, max_new=1, eos_id=NEVER, temperature=0.7, key=jax.random.key(1))
    again = generate(model, *many, max_new=1, eos_id=NEVER, temperature=0.7, key=jax.random.key(1))
    other = generate(model, *many, max_new=1, eos_id=NEVER, temperature=0.7, key=jax.random.key(2))
    np.testing.assert_array_equal(first.tok_BL, again.tok_BL)
    assert (np.asarray(first.tok_BL) != np.asarray(other.tok_BL)).any()
    x, pos, seg, _ = put_batch(tuple(np.repeat(a, B, axis=0) for a in one), mesh)
    logits = next_logits(model, x, pos, seg, np.full(B, P - 1))[0]
    prob = np.asarray(jax.nn.softmax(logits / 0.7))
    counted = np.bincount(np.asarray(first.tok_BL)[:, 0], minlength=32) / draws
    assert np.abs(counted - prob).max() < 5 * np.sqrt(prob.max() / draws)
    assert np.abs(prob - np.asarray(jax.nn.softmax(logits))).max() > 0.01  # temperature matters


def wide_tokens(shape):
    """Of eight query heads over four keys, which tp = 4 divides."""
    wide = dataclasses.replace(CFG, num_attention_heads=8, num_key_value_heads=4)
    with use_mesh(mesh_of(shape)):
        model = fresh(0, wide)
        out = generate(model, *prefix(model, jax.sharding.get_mesh()), max_new=NEW, eos_id=NEVER)
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 8, 1), (1, 2, 4)))]
)
def test_sharded_generation_is_the_same(shape):
    generated, out = wide_tokens((1, 1, 1)), wide_tokens(shape)
    np.testing.assert_array_equal(out.tok_BL, generated.tok_BL)
    np.testing.assert_allclose(out.entropy_BL, generated.entropy_BL, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new": 0}, "max_new is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 1.0}, "sampling needs a key"),
    ],
)
def test_impossible_requests_are_refused(model, mesh, change, message):
    with pytest.raises(ValueError, match=message):
        generate(model, *prefix(model, mesh), **{"max_new": 2, "eos_id": 0, **change})
