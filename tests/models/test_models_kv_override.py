"""Keys and values in the place of a tower's own: reading them is reading what they came from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.config import ModelConfig
from jaxcomp.models.block import KeyValues, KVOverride
from jaxcomp.models.generate import generate
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch

SHAPES = {
    kind: ModelConfig(kind, 32, 16, 3, 8, 4, 6, 24)  # every axis divides by 8, or by 4 for tp
    for kind in ("qwen3", "qwen2", "olmo2")
}
SHAPES["gemma3"] = dataclasses.replace(
    SHAPES["qwen3"], model_type="gemma3_text", sliding_window=3, sliding_window_pattern=2
)
B, L, FIRST, M, NEW = 8, 10, 3, 4, 5
HELD = slice(FIRST, FIRST + M)


@functools.cache
def made(kind):
    model = Transformer(SHAPES[kind], rngs=nnx.Rngs(0))
    if kind == "qwen2":  # biases start at zero, which would hide that one is forgotten
        for bias in (getattr(model.layers, f"{name}_bias") for name in "qkv"):
            bias.set_value(bias[...] + 0.3)
    return model


def rows():
    """Holes in front of, among and behind the places that are given; positions with gaps."""
    rng = np.random.default_rng(0)
    tok_BL, seg_BL = rng.integers(0, 32, (B, L)).astype(np.int32), np.ones((B, L), np.int32)
    seg_BL[1, 0] = seg_BL[2, FIRST + 1] = seg_BL[3, L - 2 :] = 0
    pos_BL = np.cumsum(rng.integers(1, 4, (B, L)), axis=1).astype(np.int32)
    return put_batch((tok_BL, pos_BL, seg_BL), jax.sharding.get_mesh())


@functools.partial(jax.jit, static_argnames=("remat",))
def read(model, tok, pos, seg, remat="none"):
    """States of the whole text; of the text whose middle is given; and of its prefill."""
    whole_BLD, kv = model.keep(model.embed(tok), pos, seg, last=L, remat=remat)
    kv_override = KVOverride(KeyValues(*(x[:, :, HELD] for x in kv)), jnp.int32(FIRST))
    poison_BLD = model.embed(tok).at[:, HELD].set(9.0)
    again_BLD = model(poison_BLD, pos, seg, remat=remat, kv_override=kv_override)
    ahead_BLD, _ = model.prefill(poison_BLD, pos, seg, L, kv_override)
    return whole_BLD, again_BLD, ahead_BLD, kv


@pytest.mark.parametrize("kind", SHAPES)
def test_given_what_it_would_have_made_itself_it_says_the_same(mesh, kind):
    """And nothing reads the inputs or the residual stream of the places that are given."""
    whole_BLD, *others = map(np.asarray, read(made(kind), *rows())[:3])
    assert len(others) == 2
    rest = [i for i in range(L) if not FIRST <= i < FIRST + M]
    for other_BLD in others:
        np.testing.assert_array_equal(other_BLD[:, rest], whole_BLD[:, rest])
        assert (other_BLD[:, HELD] != whole_BLD[:, HELD]).any()


def test_the_cache_holds_what_was_given(mesh):
    """Greedy decoding after given keys and values says what it says after the text itself."""
    model, (tok, pos, seg) = made("qwen3"), rows()
    kv = read(model, tok, pos, seg)[3]
    kv_override = KVOverride(KeyValues(*(x[:, :, HELD] for x in kv)), jnp.int32(FIRST))
    x_BLD, start_B = model.embed(tok), pos[:, -1] + 1
    blank_BLD = x_BLD.at[:, HELD].set(0.0)
    said, again = (
        generate(model, x, pos, seg, start_B, g, max_new=NEW, eos_id=99)
        for x, g in ((x_BLD, None), (blank_BLD, kv_override))
    )
    jax.tree.map(np.testing.assert_array_equal, said, again)
    other = generate(model, blank_BLD, pos, seg, start_B, max_new=NEW, eos_id=99)
    assert (np.asarray(other.entropy_BL) != np.asarray(said.entropy_BL)).any()
