"""Distillation: the teacher is the decoder that reads the whole text, row by row."""

import dataclasses
import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny

from jaxcomp.config import TrainConfig
from jaxcomp.runtime.sharding import constrain
from jaxcomp.training import loop
from jaxcomp.training.distill import DistilObjective, teacher, token_kl
from jaxcomp.training.loss import MemoryObjective, SumObjective, objective_of
from jaxcomp.training.optim import eval_step, split_model


@functools.cache
def parts():
    return split_model(tiny.pair(), lambda *_: True)


def model():
    layout, params, frozen = parts()
    return layout.merge(params, frozen)


def sums(batch, objective):
    layout, params, _ = parts()
    return np.array(eval_step(layout, objective, params, tiny.put(batch)))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def told(decoder, text, follow):
    """Independently: one row, no padding; log-probabilities before each token of `follow`."""
    ids = np.array([[*text, *follow[:-1]]], np.int32)
    pos = np.arange(ids.shape[1], dtype=np.int32)[None]
    hidden = decoder(decoder.embed(tiny.put(ids)), tiny.put(pos), tiny.put(np.ones_like(ids)))
    return log_softmax(decoder.unembed(hidden)[0])[len(text) - 1 :]


def student(pair, batch, b):
    """Log-probabilities of the memory's reader before each token of the continuation of row b."""
    context = batch.ctx_BGT[b : b + 1], batch.ctx_len_BG[b : b + 1]
    follow = (x[b : b + 1, 1:] for x in (batch.tok_BOL, batch.tok_len_BO, batch.mode_BO))
    targets = pair.targets(*tiny.put((*context, *follow)), ratio=2)
    count = int(batch.tok_len_BO[b, 1])
    return log_softmax(pair.decoder.unembed(targets.hidden_RLD)[0, :count])


@pytest.mark.slow
def test_it_is_the_kl_to_the_reader_of_the_whole_text(mesh):
    batch, pair = tiny.batch(rows=3, targets=2, seed=4), model()
    expected, labels = 0.0, 0
    for b in range(3):
        read, count = int(batch.tok_len_BO[b, 0]) - 1, int(batch.tok_len_BO[b, 1])
        t = told(pair.decoder, batch.tok_BOL[b, 0, :read], batch.tok_BOL[b, 1, :count])
        s = student(pair, batch, b)
        expected += float((np.exp(t) * (t - s)).sum())
        labels += count
    found = sums(batch, DistilObjective(2, p_reconstruct=0.25))
    np.testing.assert_allclose(found[7], expected, rtol=1e-4)
    assert found[8] == labels
    loss = 0.25 * found[1] / found[3] + 0.75 * found[7] / labels
    np.testing.assert_allclose(found[0], loss, rtol=1e-5)


def test_the_sums_by_labels_are_those_of_both_targets(mesh):
    batch = tiny.batch(rows=4, targets=2)
    both, distil = sums(batch, SumObjective(2)), sums(batch, DistilObjective(2))
    np.testing.assert_allclose(distil[1:7], both[1:7], rtol=1e-6)
    labels = DistilObjective(2, p_reconstruct=0.25).by_labels()
    assert labels == SumObjective(2, 0.25)


def test_padding_and_other_rows_do_not_matter(mesh):
    batch = tiny.batch(rows=4, targets=2)
    tok = batch.tok_BOL.copy()
    for b, o in np.ndindex(*batch.tok_len_BO.shape):
        tok[b, o, batch.tok_len_BO[b, o] :] = 9
    objective = DistilObjective(2)
    whole = sums(batch, objective)
    np.testing.assert_allclose(sums(batch._replace(tok_BOL=tok), objective), whole, rtol=1e-6)
    rows = [sums(jax.tree.map(lambda x, b=b: x[b : b + 1], batch), objective) for b in range(4)]
    np.testing.assert_allclose(np.sum(rows, 0)[1:], whole[1:], rtol=1e-4)
    np.testing.assert_allclose(sums(batch, DistilObjective(2, chunk=3)), whole, rtol=1e-5)


def test_a_text_that_is_not_there_teaches_nothing(mesh):
    batch = tiny.batch(rows=2, targets=2)
    lengths = batch.tok_len_BO.copy()
    lengths[0, 0] = 1  # only the end token
    lengths[1, 1] = 0  # nothing follows
    found = sums(batch._replace(tok_len_BO=lengths), DistilObjective(2))
    assert found[7] == found[8] == 0


@pytest.mark.parametrize("absent", ["text", "memory", "continuation"])
def test_an_example_that_cannot_be_taught_is_not_in_the_mean(mesh, absent):
    """Continuing costs what it costs without the example; rebuilding is as it was."""
    batch = tiny.batch(rows=4, targets=2, seed=4)
    lengths, contexts = batch.tok_len_BO.copy(), batch.ctx_len_BG.copy()
    if absent == "memory":
        contexts[0] = 0
    elif absent == "text":
        lengths[0, 0] = 1
    else:
        lengths[0, 1] = 0
    batch = batch._replace(tok_len_BO=lengths, ctx_len_BG=contexts)
    found = sums(batch, DistilObjective(2, p_reconstruct=0.25))
    rest = sums(jax.tree.map(lambda x: x[1:], batch), DistilObjective(2, p_reconstruct=0.25))
    np.testing.assert_allclose(found[7:], rest[7:], rtol=1e-5)
    assert found[8] == lengths[1:, 1].sum()
    rebuilding = found[1] / found[3]
    np.testing.assert_allclose(found[0], 0.25 * rebuilding + 0.75 * rest[7] / rest[8], rtol=1e-5)
    assert found[3] == lengths[:, 0].sum()


def test_equal_states_have_no_divergence_and_others_a_positive_one(mesh):
    rng = np.random.default_rng(0)
    hidden, other = (
        constrain(jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32), "act_BLD") for _ in "ab"
    )
    head = jnp.asarray(rng.normal(size=(11, 4)), jnp.float32)
    kl = jax.jit(functools.partial(token_kl, chunk=2))
    np.testing.assert_allclose(kl(hidden, hidden, head), 0, atol=1e-6)
    assert (np.asarray(kl(hidden, other, head)) > 0).all()


def test_no_gradient_goes_through_the_teacher(mesh):
    layout, params, frozen = parts()
    batch = tiny.put(tiny.batch(rows=2, targets=2))

    def through(params):
        return jnp.sum(teacher(layout.merge(params, frozen), batch))

    grads = jax.jit(jax.grad(through))(params)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_a_run_learns_to_continue_as_its_teacher_does(mesh, tmp_path):
    run = tiny.run(
        optim=dataclasses.replace(tiny.OPTIM, steps=60),
        make_batches=both_targets,
        objective=lambda step: DistilObjective(2, p_reconstruct=0.1),
        log_every=60,
        checkpoint_every=60,
    )
    before = sums(tiny.batch(rows=8, targets=2, seed=99), DistilObjective(2))
    fitted = loop.fit(run, tmp_path, jax.sharding.get_mesh())
    layout, params, _ = split_model(fitted.model(), lambda *_: True)
    after = np.array(
        eval_step(
            layout, DistilObjective(2), params, tiny.put(tiny.batch(rows=8, targets=2, seed=99))
        )
    )
    assert after[7] < 0.9 * before[7]


def both_targets(seed=0, count=64):
    numbers = grain.MapDataset.range(count).seed(seed).shuffle()
    made = numbers.map(lambda i: tiny.batch(targets=2, seed=int(i)))
    return iter(made.repeat().to_iter_dataset())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("coin", MemoryObjective), ("sum", SumObjective), ("distil", DistilObjective)],
)
def test_a_config_names_its_objective(name, kind):
    train = TrainConfig(objective=name, p_reconstruct=0.3, loss_chunk=7, remat="full")
    found = objective_of(train, 4)
    assert type(found) is kind
    assert (found.ratio, found.p_reconstruct, found.chunk, found.remat) == (4, 0.3, 7, "full")
