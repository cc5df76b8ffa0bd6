"""Every kind and connector against the same done by hand, and what no kind may do."""

import functools
from typing import NamedTuple

import compress_models as tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of

from jaxcomp.compress.autoencoder import trainable_filter
from jaxcomp.compress.kinds import KINDS, kind_of
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import MemoryConfig, OptimConfig, TrainConfig
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import optim
from jaxcomp.training.loss import MemoryObjective

T = tiny.T
NEW = ("icae", "pisco", "arc", "500x")
LENGTHS = np.array([T, 5, 1, 0], np.int32)  # full, a short last block, shorter than one, absent


@functools.cache
def made(name, positions="spread"):
    memory = tiny.memory_of(name, positions=positions)
    model = tiny.pair(memory)
    if "mem_ME" in vars(model.compressor):  # each row its own, so that a wrong one shows
        rows_ME = np.random.default_rng(3).normal(size=model.compressor.mem_ME.shape)
        model.compressor.mem_ME[...] = jnp.asarray(rows_ME, jnp.float32)
    return model, memory


@functools.partial(jax.jit, static_argnames="ratio")
def written(model, ctx, lengths, ratio):
    return model.memory(ctx, lengths, ratio=ratio)


def write(model, ctx_BT, len_B, ratio):
    return written(model, *tiny.put((ctx_BT[:, None], len_B[:, None])), ratio)


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        *((name, "spread") for name in ("pcc", *NEW)),
        *((n, "consecutive") for n in ("pcc", "pisco")),
    ],
)
def test_memory_is_what_it_is_by_hand(mesh, name, positions):
    model, memory = made(name, positions)
    ctx, ratio = tiny.tokens(4, T), 4
    found = write(model, ctx, LENGTHS, ratio)
    for b, t in enumerate(LENGTHS):
        wanted, ends = tiny.memory_by_hand(model, memory, ctx[b, :t].tolist(), ratio)
        count = len(wanted)
        assert found.seg_BM[b].tolist() == [1] * count + [0] * (T // ratio - count)
        for m, vec_D in enumerate(wanted):
            np.testing.assert_allclose(found.vec_BMD[b, m], vec_D, rtol=2e-4, atol=2e-4)
        assert (np.array(found.vec_BMD[b, count:]) == 0).all()
        places = [1 + m if positions == "consecutive" else 1 + ends[m] for m in range(count)]
        assert found.pos_BM[b, :count].tolist() == places


@pytest.mark.parametrize("name", ["pisco", "arc", "500x"])
def test_padding_and_other_rows_change_no_bit_of_a_row(mesh, name):
    model, _ = made(name)
    ctx = tiny.tokens(4, T)
    other = np.where(np.arange(T) < LENGTHS[:, None], ctx, 7)
    assert (other != ctx).any()
    one, two = (write(model, c, LENGTHS, 4) for c in (ctx, other))
    np.testing.assert_array_equal(one.vec_BMD, two.vec_BMD)
    alone = write(model, ctx[1:2], LENGTHS[1:2], 4)
    np.testing.assert_allclose(alone.vec_BMD[0], one.vec_BMD[1], atol=1e-5)
    ctx[1, 4] += 1  # the last valid token of its row
    moved_BM = np.abs(np.array(write(model, ctx, LENGTHS, 4).vec_BMD - one.vec_BMD)).max(-1) > 1e-5
    first = name == "500x"  # after the segment: each memory token sees all of it
    assert moved_BM.tolist() == [[False, False], [first, True], [False, False], [False, False]]


# --- training ----------------------------------------------------------------------------------


class Trained(NamedTuple):
    losses: list[float]
    before: tuple[optim.Params, optim.Params]  # what is trained, what is frozen
    after: tuple[optim.Params, optim.Params]


def split(name):
    settings = TrainConfig(train_decoder=recipe(name)["train"]["train_decoder"])
    memory = tiny.memory_of(name, ratio=2)
    return optim.split_model(tiny.pair(memory, settings), trainable_filter(settings, memory))


@functools.cache
def train(name, shape, steps) -> Trained:
    with use_mesh(mesh_of(shape)):
        layout, trained, frozen = split(name)
        adam, schedule = optim.split_optim(OptimConfig(steps=60, warmup=1, lr=1e-2))
        spec = optim.StepSpec(layout, MemoryObjective(2), adam)
        before = jax.device_get((trained, frozen))
        state, rows, losses = optim.init_state(trained, adam), tiny.put(tiny.batch()), []
        for _ in range(steps):
            state, metrics = optim.train_step(spec, state, frozen, rows, schedule, None)
            losses.append(float(metrics["loss"]))
        return Trained(losses, before, jax.device_get((state.params, frozen)))


@pytest.mark.parametrize(
    "name", ["pisco", "500x", *(pytest.param(n, marks=pytest.mark.slow) for n in ("icae", "arc"))]
)
def test_steps_lower_the_loss_and_move_what_learns_and_nothing_else(name):
    run = train(name, (1, 1, 1), 60)
    assert run.losses[-1] < 0.7 * run.losses[0]
    (trained, frozen), (after, still) = run.before, run.after
    assert {n for n, x in after.items() if (x != trained[n]).any()} == set(trained)
    jax.tree.map(np.testing.assert_array_equal, still, frozen)
    learns = {"compressor/llm", "markers_4D"}
    learns |= {"compressor/connector"} if name in ("pisco", "arc") else set()
    learns |= {"compressor/mem_ME"} if name != "arc" else set()
    assert {"/".join(n.split("/")[:2]) for n in trained} == learns


@pytest.mark.slow
def test_training_does_not_depend_on_the_mesh():
    """Losses of later steps are those of the gradients of the earlier ones."""
    alone, spread = train("pisco", (1, 1, 1), 60), train("pisco", (2, 2, 2), 4)
    np.testing.assert_allclose(spread.losses, alone.losses[:4], rtol=1e-4)


@pytest.mark.parametrize("name", ["arc", pytest.param("icae", marks=pytest.mark.slow)])
def test_memory_does_not_depend_on_the_mesh(name):
    ctx, lengths = tiny.tokens(8, T), np.resize(LENGTHS, 8)
    found = []
    for shape in ((1, 1, 1), (1, 8, 1)):
        with use_mesh(mesh_of(shape)):
            memory = write(tiny.pair(tiny.memory_of(name)), ctx, lengths, 4)
            found.append(jax.device_get(memory))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *found)


TEXT, MEMORY = ["text"] * 5 + ["padding"] * 3, ["memory", "memory", "memory", "empty"]
BLOCK = ["text", "text", "memory"]
LAID = {
    "append": [*TEXT, *MEMORY],
    "kv": [*TEXT, *MEMORY],
    "pool": TEXT,
    "interleave": [*BLOCK, *BLOCK, "text", "padding", "memory", "padding", "padding", "empty"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_in_which_order_its_tower_reads(kind):
    assert kind_of(MemoryConfig(kind=kind)).reads(TEXT, MEMORY) == LAID[kind]
