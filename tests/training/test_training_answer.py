"""Answering: the loss is on the answer and its end alone, whatever stands around them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny
from conftest import mesh_of

from jaxcomp.config import OptimConfig, TrainConfig
from jaxcomp.data.qa_batches import AnswerBatch
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.answer import AnswerObjective
from jaxcomp.training.loss import MemoryObjective, objective_of
from jaxcomp.training.optim import eval_step, split_model

OBJECTIVE = AnswerObjective(2)


@functools.cache
def parts():
    return split_model(tiny.pair(), lambda *_: True)


def sums(batch, objective: MemoryObjective = OBJECTIVE):
    layout, params, _ = parts()
    return np.array(eval_step(layout, objective, params, tiny.put(batch)))


def asked(rows=8, seed=0):
    """Half questions, half texts to rebuild (`tiny.batch`); a question is 1 or 2 tokens."""
    batch = tiny.batch(rows=rows, seed=seed)
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 3, (rows, 1)).astype(np.int32) * (batch.mode_BO == 1)
    return AnswerBatch(*batch, asked_BO=count)


@functools.cache
def reader():
    layout = parts()[0]

    @jax.jit
    def logits(params, fields):
        model = layout.merge(params)
        return model.decoder.unembed(model.targets(*fields, ratio=2).hidden_RLD)

    return logits


def logits_of(batch):
    return np.asarray(reader()(parts()[1], tiny.put(tuple(batch[:5]))), np.float64)


def nll_and_hits(batch):
    """Independently, row by row: -ln p of each label, and whether it was the likeliest."""
    out = []
    for b, logits in enumerate(logits_of(batch)):
        labels = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]]
        top = logits.max(-1, keepdims=True)
        logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        at = np.arange(len(labels))
        out.append((-logp[at, labels], logits[at].argmax(-1) == labels))
    return out


def test_only_the_answer_is_scored(mesh):
    batch = asked()
    per_mode = {0: [], 1: []}
    exact = 0
    for b, (nll, hit) in enumerate(nll_and_hits(batch)):
        first, mode = int(batch.asked_BO[b, 0]), int(batch.mode_BO[b, 0])
        per_mode[mode].append((nll[first:], hit[first:]))
        exact += mode == 1 and hit[first:].all()
    found = sums(batch)
    means = {}
    for mode, at in ((0, 1), (1, 4)):
        nll = np.concatenate([n for n, _ in per_mode[mode]])
        hit = np.concatenate([h for _, h in per_mode[mode]])
        np.testing.assert_allclose(found[at : at + 3], [nll.sum(), hit.sum(), len(nll)], rtol=1e-4)
        means[mode] = nll.mean()
    np.testing.assert_allclose(found[0], (means[0] + means[1]) / 2, rtol=1e-4)
    assert (found[7], found[8]) == (exact, 4)


def test_a_target_weighs_as_one_whatever_its_length(mesh):
    batch = asked(rows=8)
    batch.mode_BO[:] = 1  # three questions of four
    batch.mode_BO[:2] = 0
    batch.asked_BO[:2] = 0
    weights = np.asarray(OBJECTIVE.weights(tiny.put(batch)))
    labels = (batch.tok_len_BO - batch.asked_BO)[:, 0]
    np.testing.assert_allclose(weights[:2, 0] * labels[:2].sum(), 0.25, rtol=1e-6)
    np.testing.assert_allclose(weights[2:, 0] * labels[2:].sum(), 0.75, rtol=1e-6)


def test_greedy_decoding_says_what_counts_as_exact(mesh):
    """A batch whose answers are what the pair finds likeliest: all exact; one token off: not."""
    batch = asked()
    batch.mode_BO[:], batch.tok_len_BO[:], batch.asked_BO[:] = 1, 5, 2
    for at in (2, 3, 4):  # greedily, token by token
        batch.tok_BOL[:, 0, at] = logits_of(batch).argmax(-1)[:, at]
    assert sums(batch)[7:].tolist() == [8, 8]
    batch.tok_BOL[0, 0, 3] = (batch.tok_BOL[0, 0, 3] + 1) % tiny.V
    assert sums(batch)[7:].tolist() == [7, 8]


def test_padding_questions_tokens_and_neighbours_do_not_matter(mesh):
    batch = asked()
    spoiled = batch.tok_BOL.copy()
    for b in range(8):
        spoiled[b, 0, batch.tok_len_BO[b, 0] :] = 9
    whole = sums(batch)
    np.testing.assert_allclose(sums(batch._replace(tok_BOL=spoiled)), whole, rtol=1e-6)
    rows = [sums(jax.tree.map(lambda x, b=b: x[b : b + 1], batch)) for b in range(8)]
    np.testing.assert_allclose(np.sum(rows, 0)[1:], whole[1:], rtol=1e-4)
    np.testing.assert_allclose(sums(batch, AnswerObjective(2, chunk=3)), whole, rtol=1e-5)
    empty = jax.tree.map(lambda x: np.concatenate([x, 0 * x]), batch)
    np.testing.assert_allclose(sums(empty), whole, rtol=1e-5)
    # The question is read: the answer's loss depends on its words.
    other = batch.tok_BOL.copy()
    other[:, 0, 0] = np.where(
        batch.asked_BO[:, 0] > 0, 3 + (other[:, 0, 0] + 5) % 20, other[:, 0, 0]
    )
    assert abs(sums(batch._replace(tok_BOL=other))[4] - whole[4]) > 1e-3


@pytest.mark.parametrize("mesh8", [(2, 2, 2)], indirect=True)
def test_a_sharded_batch_gives_the_same(mesh8):
    batch = asked()
    with use_mesh(mesh_of((1, 1, 1))):
        layout, params, _ = split_model(tiny.pair(), lambda *_: True)
        alone = np.array(eval_step(layout, OBJECTIVE, params, tiny.put(batch)))
    layout, params, _ = split_model(tiny.pair(), lambda *_: True)
    found = np.array(eval_step(layout, OBJECTIVE, params, tiny.put(batch)))
    np.testing.assert_allclose(found, alone, rtol=2e-5)


def test_without_questions_it_is_the_objective_of_rebuilding(mesh):
    batch = tiny.batch()
    batch.mode_BO[:] = 0
    found = sums(AnswerBatch(*batch, asked_BO=0 * batch.tok_len_BO))
    np.testing.assert_array_equal(found[:7], sums(batch, MemoryObjective(2)))
    assert found[7:].tolist() == [0, 0]


def test_a_config_names_it():
    train = TrainConfig(optim=OptimConfig(), objective="answer", p_reconstruct=0.2, loss_chunk=5)
    found = objective_of(train, 4)
    assert type(found) is AnswerObjective
    assert (found.ratio, found.chunk, found.p_reconstruct) == (4, 5, 0.2)
    names = {"loss", "loss_answer", "accuracy_answer", "exact_answer", "loss_rebuild"}
    assert names <= found.metrics(jnp.ones(9)).keys()


@pytest.mark.parametrize("mode", [0, 1])
def test_a_kind_that_is_not_there_has_no_mean(mesh, mode):
    batch = asked()
    batch.mode_BO[:], batch.asked_BO[:] = mode, mode
    found = OBJECTIVE.metrics(jnp.asarray(sums(batch)))
    absent = "loss_answer" if mode == 0 else "loss_rebuild"
    assert np.isnan(found[absent])
    assert np.isfinite(found["loss"])
