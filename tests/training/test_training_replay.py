"""Replay: both losses in one step, the base models' text, exact resume, and nothing without it."""

import dataclasses
import functools
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_models as tiny

from jaxcomp.cli.validate import validate
from jaxcomp.compress.autoencoder import trainable_filter
from jaxcomp.compress.recipes import recipe
from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    DecoderConfig,
    MemoryConfig,
    OptimConfig,
    PeopleConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
    WorldConfig,
)
from jaxcomp.data import batches as data
from jaxcomp.training import replay
from jaxcomp.training.identity import base_text
from jaxcomp.training.loop import fit
from jaxcomp.training.loss import LmObjective, MemoryObjective, objective_of
from jaxcomp.training.optim import Adam, StepSpec, _gradients, init_state, split_model
from jaxcomp.training.replay import Replayed, ReplayIterator, ReplayObjective

INNER = MemoryObjective(2)


def objective(weight=0.5):
    return ReplayObjective(INNER, weight, LmObjective())


def drawn(seed=0):
    return Replayed(tiny.batch(seed=seed), tiny.lm_batch(seed=seed))


@functools.partial(jax.jit, static_argnames="spec")
def gradients(spec, state, frozen, batch):
    return _gradients(spec, state, frozen, batch, None)


def found(objective, batch, accumulate=1):
    """(gradients, sums) of a step."""
    layout, trained, frozen = split_model(tiny.pair(), trainable_filter(TrainConfig(), tiny.FULL))
    adam = Adam(0.9, 0.95, 0.0, 1.0, accumulate)
    state = init_state(trained, adam)
    grads, sums_K = gradients(StepSpec(layout, objective, adam), state, frozen, tiny.put(batch))
    return jax.device_get(grads), np.array(sums_K)


def test_the_gradient_is_that_of_both_losses(mesh):
    """That of language modelling is the tower's own, computed apart."""
    batch, lm = drawn(), LmObjective()
    own, sums = found(INNER, batch.examples)
    both, both_sums = found(objective(0.5), batch)
    text = tiny.put(batch.text)
    layout, params, _ = split_model(tiny.pair().compressor.llm, lambda *_: True)

    @jax.jit
    def loss(params):
        terms = lm.terms(layout.merge(params), text, lm.weights(text), None)
        return terms.loss, terms.sums_K

    grads, text_sums = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(both_sums, [*sums, *text_sums], rtol=1e-5)
    for name, grad in both.items():
        alone = grads.get(name.removeprefix("compressor/llm/"), 0.0)
        np.testing.assert_allclose(grad, own[name] + 0.5 * alone, atol=1e-5, err_msg=name)
    assert np.abs(both["compressor/llm/emb"] - own["compressor/llm/emb"]).max() > 1e-3


def test_it_does_not_depend_on_accumulation(mesh):
    (wanted, sums), (cut, cut_sums) = (found(objective(), drawn(), n) for n in (1, 8))
    np.testing.assert_allclose(cut_sums, sums, rtol=1e-5)
    for name, grad in cut.items():
        np.testing.assert_allclose(grad, wanted[name], atol=1e-5, rtol=1e-4, err_msg=name)


def test_metrics_are_those_of_the_objective_and_the_loss_is_what_is_differentiated(mesh):
    batch = drawn()
    _, sums = found(objective(0.5), batch)
    own, metrics = INNER.metrics(jnp.asarray(sums[:7])), objective(0.5).metrics(jnp.asarray(sums))
    assert metrics.keys() == own.keys() | {"loss_replay"}
    assert metrics["loss_replay"] == pytest.approx(sums[7] / sums[9])
    assert metrics["loss"] == pytest.approx(own["loss"] + 0.5 * metrics["loss_replay"])
    assert metrics["loss_rebuild"] == own["loss_rebuild"]
    tokens = INNER.tokens(tiny.put(batch.examples)) + (batch.text.seg_BL > 0).sum()
    assert objective().tokens(tiny.put(batch)) == tokens


class Killed(BaseException):
    pass


def killed():
    raise Killed


def texts():
    numbers = grain.MapDataset.range(64).seed(1).shuffle()
    return iter(numbers.map(lambda i: tiny.lm_batch(seed=int(i))).repeat().to_iter_dataset())


def run(acts=None):
    def make():
        return ReplayIterator(tiny.Batches(acts or {}), texts())

    return tiny.run(make_batches=make, objective=lambda step: objective())


def test_half_and_half_is_the_whole(mesh, tmp_path):
    """Bit for bit; decoder and all else that is frozen never change."""
    whole = fit(run(), tmp_path / "one", mesh)
    with pytest.raises(Killed):
        fit(run({5: killed}), tmp_path / "two", mesh)
    again = fit(run(), tmp_path / "two", mesh)
    assert again.numbers == whole.numbers
    jax.tree.map(np.testing.assert_array_equal, again.trained, whole.trained)
    _, _, frozen = split_model(tiny.pair(), run().trainable)
    jax.tree.map(np.testing.assert_array_equal, again.frozen, frozen)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text()
    assert lines == (tmp_path / "one" / "metrics.jsonl").read_text()
    assert all(json.loads(line)["loss_replay"] > 0 for line in lines.splitlines())


CFG = Config(
    world=WorldConfig(base_favourites=7),
    data=DataConfig(segment=32, target=40, train_passages=64),
    pretrain=PretrainConfig(seq_len=66),
    sweep=SweepConfig(ratios=(4, 16)),
    train=TrainConfig(optim=OptimConfig(steps=4, batch=8), replay=0.1),
)
OFF = dataclasses.replace(CFG, train=dataclasses.replace(CFG.train, replay=0.0))


PEOPLE = dataclasses.replace(
    CFG,
    world=WorldConfig(),
    people=PeopleConfig(people=256, unseen=16, train_prior_strength=0.5),
    data=dataclasses.replace(CFG.data, source="people", segment=64, target=72),
)


@pytest.mark.parametrize("cfg", [CFG, PEOPLE], ids=["world", "people"])
def test_the_text_is_that_of_the_base_models(mesh, cfg):
    tok = data.data_tokenizer(cfg)
    batch = next(replay.train_batches(cfg, tok, tok))
    seed = replay._SEED + cfg.pretrain.seed + cfg.seed  # in another order than pretraining's
    drawn = dataclasses.replace(cfg.pretrain, optim=cfg.train.optim, seed=seed)
    base = next(data.lm_batches(base_text(cfg), drawn, tok))
    jax.tree.map(np.testing.assert_array_equal, batch.text, base)
    if cfg is CFG:
        own = next(data.lm_batches(cfg, drawn, tok))
        assert not np.array_equal(batch.text.tok_BL, own.tok_BL)
    off = dataclasses.replace(cfg, train=OFF.train)
    plain = next(replay.train_batches(off, tok, tok))
    jax.tree.map(np.testing.assert_array_equal, batch.examples, plain)
    assert jax.tree.map(np.shape, batch) == replay.batch_shapes(cfg)
    batches = replay.train_batches(cfg, tok, tok)
    state = json.loads(json.dumps(batches.get_state()))
    ahead = [next(batches) for _ in range(12)]  # beyond an epoch
    batches.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, [next(batches) for _ in range(12)], ahead)


def test_without_it_a_step_is_what_it_was(mesh):
    """The same objective, so the same program; the same batches."""
    inner = objective_of(OFF.train, 4)
    assert replay.with_replay(inner, OFF.train) is inner
    assert replay.with_replay(inner, CFG.train) == ReplayObjective(inner, 0.1, LmObjective())
    tok = data.data_tokenizer(OFF)
    made = replay.train_batches(OFF, tok, tok), data.train_batches(OFF, tok, tok)
    assert replay.batch_shapes(OFF) == data.batch_shapes(OFF)
    jax.tree.map(np.testing.assert_array_equal, *map(next, made))


def test_where_there_is_nothing_to_replay_it_is_refused(tmp_path):
    frozen = MemoryConfig(trained="connector", **recipe("mean_pool")["memory"])
    with pytest.raises(ConfigError, match=r"train.replay = 0.1 with memory.trained = 'connector'"):
        validate(dataclasses.replace(CFG, memory=frozen))
    (tmp_path / "a.txt").write_text("words\n")
    text = dataclasses.replace(CFG.data, source="text", path=str(tmp_path / "a.txt"))
    cfg = dataclasses.replace(
        CFG,
        world=WorldConfig(),
        data=text,
        families={"llama": {"a": tiny.SHAPE}},
        folders={"decoder": "owner/name"},
    )
    validate(cfg)
    given = {"llama/a": "owner/name", "decoder": "owner/name"}
    with pytest.raises(ConfigError, match=r"with folders.llama/a: the text that this base model"):
        validate(dataclasses.replace(cfg, folders=given))
    adapt = DecoderConfig(adapt=TrainConfig(replay=0.2))
    with pytest.raises(ConfigError, match=r"decoder.adapt.replay = 0.2: only a compressor's own"):
        validate(dataclasses.replace(OFF, decoder=adapt))
