"""Kind `kv`: the decoder reads keys and values as by hand, in every way it is asked to."""

import dataclasses
import functools
from pathlib import Path

import compress_models as tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.cli.validate import validate
from jaxcomp.compress import recipes
from jaxcomp.config import Config, ConfigError, ModelConfig
from jaxcomp.inference import decode
from jaxcomp.runtime.fields import from_dict
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import grid, jobs
from jaxcomp.sweep.plan.main import setups_of
from jaxcomp.training import pretrained
from jaxcomp.training.compressor import planned

T, RATIO, L = tiny.T, 4, tiny.T + 1
NOWHERE = Path("nowhere")
D = 2 * 2 * 4 * 4  # keys and values of 2 layers of 4 heads of 4
LENGTHS = np.array([T, 5, 1, 0, 7, 3, 8, 2], np.int32)


@functools.cache
def made(shape=(1, 1, 1)):
    """Under a mesh of that shape; memory tokens are each their own."""
    model = tiny.pair(tiny.memory_of("500x"))
    rows_ME = np.random.default_rng(3).normal(size=model.compressor.mem_ME.shape)
    model.compressor.mem_ME[...] = jnp.asarray(rows_ME, jnp.float32)
    return model


@functools.cache
def batch():
    ctx, tok = tiny.tokens(8, 1, T), tiny.tokens(8, L, seed=1)
    return ctx, LENGTHS[:, None], tok, np.maximum(LENGTHS, 1), np.arange(8, dtype=np.int32) % 2


def read(model, rows=slice(None)):
    """What evaluation finds: memory, and the decoder's expectations along given tokens."""
    ctx, lengths, tok, count, mode = tiny.put(tuple(x[rows] for x in batch()))
    graphdef, state = nnx.split(model)
    memory = decode.read(graphdef, state, ctx, lengths, RATIO)
    return memory, decode.forced(graphdef, state, memory, mode, tok, count)


def test_the_decoder_reads_them_as_by_hand(mesh):
    model = made()
    memory, forced = read(model)
    _, _, tok, count, mode = batch()
    assert (model.width, memory.vec_BMD.shape) == (D, (8, T // RATIO, D))
    markers_4D = np.array(model.markers_4D[...], np.float64)
    emb_VD = np.array(model.decoder.emb[...], np.float64)
    for b, t in enumerate(LENGTHS):
        vectors = np.array(memory.vec_BMD[b, : -(-t // RATIO)], np.float64)
        ends = [min((m + 1) * RATIO, int(t)) - 1 for m in range(len(vectors))]
        given = {1 + m: v.reshape(2, 2, 4, 4) for m, v in enumerate(vectors)}
        x_SD = [markers_4D[0], *[0 * markers_4D[0]] * len(vectors), markers_4D[1]]
        x_SD += [markers_4D[2 + mode[b]], *emb_VD[tok[b, : count[b] - 1]]]
        pos_S = [0, *(1 + end for end in ends), *range(1 + T, 3 + T + count[b] - 1)]
        hidden_SD = tiny.states_by_hand(model.decoder, x_SD, pos_S, given)[2 + len(vectors) :]
        logits_LV = hidden_SD @ emb_VD.T
        logp_LV = logits_LV - np.log(np.exp(logits_LV).sum(1, keepdims=True))
        wanted_L = -logp_LV[np.arange(count[b]), tok[b, : count[b]]]
        np.testing.assert_allclose(forced.nll_BL[b, : count[b]], wanted_L, rtol=2e-4, atol=2e-4)


def test_training_scores_what_evaluation_scores(mesh):
    model, (ctx, lengths, tok, count, mode) = made(), batch()
    found = jax.jit(functools.partial(type(model).targets, ratio=RATIO))(
        model, *tiny.put((ctx, lengths, tok[:, None], count[:, None], mode[:, None]))
    )
    logp_BLV = jax.nn.log_softmax(model.decoder.unembed(found.hidden_RLD))
    nll_BL = -np.take_along_axis(np.array(logp_BLV), tok[:, :, None], axis=2)[..., 0]
    valid_BL = np.array(found.valid_RL)
    np.testing.assert_allclose(
        np.where(valid_BL, nll_BL, 0), read(model)[1].nll_BL, rtol=1e-4, atol=1e-4
    )


def test_what_it_says_freely_is_what_it_expects(mesh):
    """The prefill's cache holds what was given: each token is the likeliest after those before."""
    model, (_, _, _, _, mode) = made(), tiny.put(batch())
    graphdef, state = nnx.split(model)
    memory, _ = read(model)
    said = decode.free(graphdef, state, memory, mode, jax.random.key(0), max_new=L, eos_id=99)
    full = tiny.put(np.full(8, L, np.int32))
    for given, all_right in ((memory, True), (decode.no_memory(memory), False)):
        found = decode.forced(graphdef, state, given, mode, said.tok_BL, full)
        assert np.array(found.correct_BL).all() == all_right
        close = np.isclose(found.entropy_BL, said.entropy_BL, atol=1e-4)
        assert close.all() == all_right


def test_a_row_does_not_know_its_neighbours_nor_what_is_not_valid(mesh):
    model = made()
    memory, forced = read(model)
    alone, by_itself = read(model, slice(1, 2))
    np.testing.assert_allclose(alone.vec_BMD[0], memory.vec_BMD[1], atol=1e-5)
    np.testing.assert_allclose(by_itself.nll_BL[0], forced.nll_BL[1], atol=1e-4)
    graphdef, state = nnx.split(model)
    _, _, tok, count, mode = tiny.put(batch())
    spoiled = memory._replace(vec_BMD=jnp.where(memory.seg_BM[:, :, None] > 0, memory.vec_BMD, 7.0))
    again = decode.forced(graphdef, state, spoiled, mode, tok, count)
    np.testing.assert_array_equal(again.nll_BL, forced.nll_BL)


def test_meshes_change_nothing_but_rounding():
    found = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        with use_mesh(mesh_of(shape)):
            found.append(jax.device_get(read(made(shape))))
    (memory, forced), (memory_8, forced_8) = found
    np.testing.assert_allclose(memory_8.vec_BMD, memory.vec_BMD, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(forced_8.nll_BL, forced.nll_BL, rtol=1e-4, atol=1e-4)


# --- who can write them -------------------------------------------------------------------------


def config(comp=tiny.DEEP, dec=tiny.DEEP_TOO, name="500x"):
    tree = recipes.recipe(name) | {"data": {"segment": T, "target": L}}
    cfg = from_dict(tree | {"compressor": "llama/a", "sweep": {"ratios": [RATIO]}})
    families = {"llama": {"a": comp}}
    decoder = dataclasses.replace(cfg.decoder, model=dec, reference=dec)
    return dataclasses.replace(cfg, families=families, decoder=decoder)


@pytest.mark.parametrize(
    ("field", "name"),
    [("num_hidden_layers", "500x"), ("head_dim", "500x"), ("hidden_size", "icae")],
)
def test_another_shape_is_refused_before_anything_is_done(field, name):
    value = getattr(tiny.DEEP, field)
    comp = dataclasses.replace(tiny.DEEP, **{field: 2 * value})
    cfg, told = config(comp, tiny.DEEP, name), rf"{field} {2 * value}: .* has {field} {value}; "
    validate(cfg)  # which base is asked for is not known yet

    def sweep(cfg):
        jobs.SweepWork().check(grid.expand(cfg), NOWHERE)

    for refused in (pretrained.check_shapes, setups_of, sweep, lambda cfg: planned(cfg, NOWHERE)):
        with pytest.raises(ConfigError, match=rf"llama/a has {told}choose"):
            refused(cfg)
    decoder = dataclasses.replace(cfg.decoder, reference=comp)
    with pytest.raises(ConfigError, match=rf"decoder.reference has {told}choose"):
        validate(dataclasses.replace(cfg, decoder=decoder))


def test_one_layer_and_a_connector_are_refused_and_other_kinds_do_not_mind():
    for name in set(recipes.RECIPES) - {"500x", "icae"}:
        pretrained.check_shapes(config(ModelConfig(head_dim=64), name=name))
    one = dataclasses.replace(tiny.DEEP, num_hidden_layers=1)
    with pytest.raises(ConfigError, match=r"num_hidden_layers 1: .* takes 2 or more"):
        pretrained.check_shapes(config(one, one))
    custom = dataclasses.replace(config().memory, recipe="custom", connector="relu")
    with pytest.raises(ConfigError, match=r"memory.connector = 'relu'.*memory.connector=none"):
        validate(dataclasses.replace(Config(), memory=custom))
