"""Cross-entropy and objectives: the same number however it is cut, and never a label too many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny

from jaxcomp.data.batches import LmBatch
from jaxcomp.runtime.sharding import constrain
from jaxcomp.training.loss import LmObjective, MemoryObjective, SumObjective, token_nll
from jaxcomp.training.optim import eval_step, split_model


@functools.cache
def parts():
    return split_model(tiny.pair(), lambda *_: True)


def sums(batch, objective):
    layout, params, _ = parts()
    return np.array(eval_step(layout, objective, params, tiny.put(batch)))


def test_token_nll_is_minus_log_softmax_and_chunks_agree(mesh):
    rng = np.random.default_rng(0)
    hidden = constrain(jnp.asarray(rng.normal(size=(2, 7, 5)), jnp.float32), "act_BLD")
    head = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    label = constrain(jnp.asarray(rng.integers(0, 11, (2, 7)), jnp.int32), "batch")

    @functools.partial(jax.jit, static_argnames="chunk")
    def both(hidden, head, chunk):
        def loss(hidden, head):
            nll, hit = token_nll(hidden, head, label, chunk=chunk)
            return jnp.sum(nll * (1 + jnp.arange(7))), (nll, hit)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden, head)

    (_, (nll, hit)), grads = both(hidden, head, 0)
    logits = np.einsum("bld,vd->blv", np.array(hidden, np.float64), np.array(head, np.float64))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, np.array(label)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, -picked, rtol=1e-5)
    np.testing.assert_array_equal(hit, logits.argmax(-1) == np.array(label))
    for chunk in (1, 3, 7):
        (_, chunked), chunked_grads = both(hidden, head, chunk)
        np.testing.assert_allclose(chunked[0], nll, rtol=1e-6)
        np.testing.assert_array_equal(chunked[1], hit)
        for a, b in zip(chunked_grads, grads, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_padding_carries_no_loss(mesh):
    batch = tiny.batch(rows=4, targets=2)
    tok, length = batch.tok_BOL.copy(), batch.tok_len_BO
    for b, o in np.ndindex(*length.shape):
        tok[b, o, length[b, o] :] = 9
    ctx = batch.ctx_BGT.copy()
    for b, g in np.ndindex(*batch.ctx_len_BG.shape):
        ctx[b, g, batch.ctx_len_BG[b, g] :] = 9
    assert not np.array_equal(tok, batch.tok_BOL)
    assert not np.array_equal(ctx, batch.ctx_BGT)
    one = sums(batch, MemoryObjective(2))
    two = sums(batch._replace(tok_BOL=tok, ctx_BGT=ctx), MemoryObjective(2))
    np.testing.assert_array_equal(one, two)


def test_loss_of_a_batch_is_that_of_its_rows(mesh):
    """Batch 1 == batch n: every row's nll and count add up; the mean is over all labels."""
    batch = tiny.batch(rows=4, targets=2)
    whole = sums(batch, MemoryObjective(2))
    rows = [
        sums(jax.tree.map(lambda x, b=b: x[b : b + 1], batch), MemoryObjective(2)) for b in range(4)
    ]
    np.testing.assert_allclose(np.sum(rows, 0)[1:], whole[1:], rtol=1e-5)
    assert whole[3] + whole[6] == batch.tok_len_BO.sum()
    np.testing.assert_allclose(whole[0], (whole[1] + whole[4]) / (whole[3] + whole[6]), rtol=1e-5)


def test_sum_weighs_the_two_modes_by_their_own_means(mesh):
    batch = tiny.batch(rows=4, targets=2)
    loss, nll0, _, count0, nll1, _, count1 = sums(batch, SumObjective(2, 0.25))
    assert count0 != count1
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

    packed, first, second = (
        np.array(eval_step(layout, objective, params, row(docs))) for docs in ([a, b], [a], [b])
    )
    assert packed[2] == 4 + 2
    np.testing.assert_allclose(packed, first + second, rtol=1e-5)


@pytest.mark.parametrize("chunk", [4])
def test_chunked_objective_equals_full(mesh, chunk):
    batch = tiny.batch(rows=4, targets=2)
    full, cut = sums(batch, MemoryObjective(2)), sums(batch, MemoryObjective(2, chunk=chunk))
    np.testing.assert_allclose(cut, full, rtol=1e-6)
