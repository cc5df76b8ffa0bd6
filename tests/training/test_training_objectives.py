"""The objectives, and cross-entropy: what counts, the same number however it is cut, and never a
label too many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny
from conftest import mesh_of
from training_models import sums

from jaxcomp.config import TrainConfig
from jaxcomp.data.batches import LmBatch
from jaxcomp.data.eval_sets import AnswerBatch
from jaxcomp.runtime.sharding import constrain, use_mesh
from jaxcomp.training.answer import AnswerObjective
from jaxcomp.training.distill import DistilObjective, teacher, token_kl
from jaxcomp.training.loss import (
    LmObjective,
    MemoryObjective,
    SumObjective,
    objective_of,
    token_nll,
)
from jaxcomp.training.optim import eval_step, split_model

ANSWER = AnswerObjective(2)


def both():
    """Both targets of every example."""
    return tiny.batch(rows=4, targets=2)


def asked(rows=8, seed=0):
    """Half questions, half texts to rebuild (`tiny.batch`); a question is 1 or 2 tokens."""
    batch = tiny.batch(rows=rows, seed=seed)
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 3, (rows, 1)).astype(np.int32) * (batch.mode_BO == 1)
    return AnswerBatch(*batch, asked_BO=count)


# Objective, its batches, and how close sums over rows, and over chunks, are to those at once.
CASES = {
    "coin": (MemoryObjective, both, 1e-5, 1e-6),
    "sum": (SumObjective, both, 1e-5, 1e-6),
    "distil": (DistilObjective, both, 1e-4, 1e-5),
    "answer": (AnswerObjective, asked, 1e-4, 1e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_there_counts(mesh, name):
    """Padding changes nothing, batch 1 == batch n, in chunks == at once."""
    kind, make, of_rows, of_chunks = CASES[name]
    batch, objective = make(), kind(2)
    whole, spoiled = sums(batch, objective), tiny.spoiled(batch)
    assert not np.array_equal(spoiled.tok_BOL, batch.tok_BOL)
    assert not np.array_equal(spoiled.ctx_BGT, batch.ctx_BGT)
    np.testing.assert_array_equal(sums(spoiled, objective), whole)
    np.testing.assert_allclose(tiny.sums_by_row(batch, objective)[1:], whole[1:], rtol=of_rows)
    np.testing.assert_allclose(sums(batch, kind(2, chunk=3)), whole, rtol=of_chunks)
    empty = jax.tree.map(lambda x: np.concatenate([x, 0 * x]), batch)
    np.testing.assert_allclose(sums(empty, objective), whole, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh8", [(2, 2, 2)], indirect=True)
@pytest.mark.parametrize("name", ["answer", "distil"])
def test_a_sharded_batch_gives_the_same(mesh8, name):
    kind, make, *_ = CASES[name]
    batch = jax.tree.map(lambda x: np.concatenate([x, x]), make())
    with use_mesh(mesh_of((1, 1, 1))):
        alone = sums(batch, kind(2))
    layout, params, _ = split_model(tiny.pair(), lambda *_: True)
    found = np.array(eval_step(layout, kind(2), params, tiny.put(batch)))
    np.testing.assert_allclose(found, alone, rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_config_names_its_objective(name):
    train = TrainConfig(objective=name, p_reconstruct=0.3, loss_chunk=7, remat="full")
    found = objective_of(train, 4)
    assert type(found) is CASES[name][0]
    assert (found.ratio, found.p_reconstruct, found.chunk, found.remat) == (4, 0.3, 7, "full")


# --- cross-entropy -------------------------------------------------------------------------------


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_token_nll_is_minus_log_softmax_and_chunks_agree(mesh):
    rng = np.random.default_rng(0)
    hidden = constrain(jnp.asarray(rng.normal(size=(2, 7, 5)), jnp.float32), "act_BLD")
    head = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    label = constrain(jnp.asarray(rng.integers(0, 11, (2, 7)), jnp.int32), "batch")

    @functools.partial(jax.jit, static_argnames="chunk")
    def graded(hidden, head, chunk):
        def loss(hidden, head):
            nll, hit = token_nll(hidden, head, label, chunk=chunk)
            return jnp.sum(nll * (1 + jnp.arange(7))), (nll, hit)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden, head)

    (_, (nll, hit)), grads = graded(hidden, head, 0)
    logits = np.einsum("bld,vd->blv", np.array(hidden, np.float64), np.array(head, np.float64))
    picked = np.take_along_axis(log_softmax(logits), np.array(label)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, -picked, rtol=1e-5)
    np.testing.assert_array_equal(hit, logits.argmax(-1) == np.array(label))
    for chunk in (1, 3, 7):
        (_, chunked), chunked_grads = graded(hidden, head, chunk)
        np.testing.assert_allclose(chunked[0], nll, rtol=1e-6)
        np.testing.assert_array_equal(chunked[1], hit)
        for a, b in zip(chunked_grads, grads, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_loss_is_a_mean_over_labels(mesh):
    """Of all at once, or of the two modes' own means."""
    loss, nll0, _, count0, nll1, _, count1 = sums(both(), MemoryObjective(2))
    assert count0 != count1
    assert count0 + count1 == both().tok_len_BO.sum()
    np.testing.assert_allclose(loss, (nll0 + nll1) / (count0 + count1), rtol=1e-5)
    loss = sums(both(), SumObjective(2, 0.25))[0]
    np.testing.assert_allclose(loss, 0.25 * nll0 / count0 + 0.75 * nll1 / count1, rtol=1e-5)


def test_a_batch_without_a_mode_reports_nothing_for_it():
    metrics = MemoryObjective(2).metrics(jnp.array([2.0, 8, 1, 4, 0, 0, 0]))
    assert float(metrics["loss_rebuild"]) == 2.0
    assert np.isnan(metrics["loss_continue"])


def test_language_model_labels_stay_inside_their_document(mesh):
    """Packed documents have the losses they would have alone, minus each first token."""
    layout, params, _ = split_model(tiny.tower(), lambda *_: True)
    objective = LmObjective()
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, tiny.V, 5), rng.integers(0, tiny.V, 3)

    def row(docs):
        tok, seg, pos = np.zeros((3, 1, 10), np.int32)
        at = 0
        for number, doc in enumerate(docs, 1):
            place = slice(at, at + len(doc))
            tok[0, place], seg[0, place], pos[0, place] = doc, number, np.arange(len(doc))
            at += len(doc)
        return tiny.put(LmBatch(tok, seg, pos))

    texts = ([a, b], [a], [b])
    packed, first, second = (np.array(eval_step(layout, objective, params, row(t))) for t in texts)
    assert packed[2] == 4 + 2
    np.testing.assert_allclose(packed, first + second, rtol=1e-5)


# --- answers -------------------------------------------------------------------------------------


@functools.cache
def reader():
    layout = tiny.parts()[0]

    @jax.jit
    def logits(params, fields):
        model = layout.merge(params)
        return model.decoder.unembed(model.targets(*fields, ratio=2).hidden_RLD)

    return logits


def logits_of(batch):
    return np.asarray(reader()(tiny.parts()[1], tiny.put(tuple(batch[:5]))), np.float64)


def nll_and_hits(batch):
    """Independently, row by row: -ln p of each label, and whether it was the likeliest."""
    out = []
    for b, logits in enumerate(logits_of(batch)):
        labels = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]]
        at = np.arange(len(labels))
        out.append((-log_softmax(logits)[at, labels], logits[at].argmax(-1) == labels))
    return out


def test_only_the_answer_is_scored(mesh):
    batch = asked()
    per_mode = {0: [], 1: []}
    exact = 0
    for b, (nll, hit) in enumerate(nll_and_hits(batch)):
        first, mode = int(batch.asked_BO[b, 0]), int(batch.mode_BO[b, 0])
        per_mode[mode].append((nll[first:], hit[first:]))
        exact += mode == 1 and hit[first:].all()
    found = sums(batch, ANSWER)
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
    weights = np.asarray(ANSWER.weights(tiny.put(batch)))
    labels = (batch.tok_len_BO - batch.asked_BO)[:, 0]
    np.testing.assert_allclose(weights[:2, 0] * labels[:2].sum(), 0.25, rtol=1e-6)
    np.testing.assert_allclose(weights[2:, 0] * labels[2:].sum(), 0.75, rtol=1e-6)


def test_greedy_decoding_says_what_counts_as_exact(mesh):
    """A batch whose answers are what the pair finds likeliest: all exact; one token off: not."""
    batch = asked()
    batch.mode_BO[:], batch.tok_len_BO[:], batch.asked_BO[:] = 1, 5, 2
    for at in (2, 3, 4):  # greedily, token by token
        batch.tok_BOL[:, 0, at] = logits_of(batch).argmax(-1)[:, at]
    assert sums(batch, ANSWER)[7:].tolist() == [8, 8]
    batch.tok_BOL[0, 0, 3] = (batch.tok_BOL[0, 0, 3] + 1) % tiny.V
    assert sums(batch, ANSWER)[7:].tolist() == [7, 8]


def test_the_question_is_read(mesh):
    batch = asked()
    other, first = batch.tok_BOL.copy(), batch.tok_BOL[:, 0, 0]
    other[:, 0, 0] = np.where(batch.asked_BO[:, 0] > 0, 3 + (first + 5) % 20, first)
    assert abs(sums(batch._replace(tok_BOL=other), ANSWER)[4] - sums(batch, ANSWER)[4]) > 1e-3


def test_without_questions_it_is_the_objective_of_rebuilding(mesh):
    batch = tiny.batch()
    batch.mode_BO[:] = 0
    found = sums(AnswerBatch(*batch, asked_BO=0 * batch.tok_len_BO), ANSWER)
    np.testing.assert_array_equal(found[:7], sums(batch, MemoryObjective(2)))
    assert found[7:].tolist() == [0, 0]


@pytest.mark.parametrize("mode", [0, 1])
def test_a_kind_that_is_not_there_has_no_mean(mesh, mode):
    batch = asked()
    batch.mode_BO[:], batch.asked_BO[:] = mode, mode
    found = ANSWER.metrics(jnp.asarray(sums(batch, ANSWER)))
    absent = "loss_answer" if mode == 0 else "loss_rebuild"
    assert np.isnan(found[absent])
    assert np.isfinite(found["loss"])


# --- distillation --------------------------------------------------------------------------------


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
    batch = tiny.batch(rows=3, targets=2, seed=4)
    layout, params, frozen = tiny.parts()
    pair = layout.merge(params, frozen)
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
    layout, params, frozen = tiny.parts()
    batch = tiny.put(tiny.batch(rows=2, targets=2))

    def through(params):
        return jnp.sum(teacher(layout.merge(params, frozen), batch))

    grads = jax.jit(jax.grad(through))(params)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))
