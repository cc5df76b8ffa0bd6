"""From nothing to a trained compressor on the world, with the smallest models that there are."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxcomp.compress.recipes import recipe
from jaxcomp.config import (
    Config,
    ConfigError,
    DataConfig,
    DecoderConfig,
    EvalConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
    WorldConfig,
)
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import identity as ids
from jaxcomp.training import loop, manifest, pretrained, warm_start
from jaxcomp.training.adapt_decoder import adapt_decoder
from jaxcomp.training.compressor import load_run, planned, tokenizers, train, validate
from jaxcomp.training.manifest import CheckpointError, open_manifest
from jaxcomp.training.pretrain import held_out, pretrain_base
from jaxcomp.training.ratio_schedule import ratio_at

pytestmark = pytest.mark.slow

SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=1, head_dim=8, intermediate_size=16)


def optim(steps):
    return OptimConfig(steps=steps, batch=8, lr=3e-3, warmup=1)


LM = PretrainConfig(optim=optim(2), seq_len=66, checkpoint_every=2)
CFG = Config(
    families={"llama": {"a": SHAPE}},
    compressor="llama/a",
    data=DataConfig(segment=32, target=40, train_passages=64, val_passages=8),
    pretrain=LM,
    decoder=DecoderConfig(
        model=SHAPE,
        reference=SHAPE,
        pretrain=LM,
        adapt=TrainConfig(optim=optim(3), ratios=(8,), checkpoint_every=2),
    ),
    memory=MemoryConfig(ratio=8, marker_steps=1),
    train=TrainConfig(optim=optim(4), checkpoint_every=2, log_every=1),
    eval=EvalConfig(batch=8),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A base, a decoder and a finished run, made once."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch, use_mesh(mesh_of((1, 1, 1))):
        patch.setenv("JAXCOMP_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert pretrained.find_base(CFG, "llama", "a", 0, folder) is None
        with pytest.raises(pretrained.MissingBaseError, match=r"llama-a-s0.*jaxcomp pretrain"):
            train(CFG, folder / "run", root=folder)
        pretrain_base(CFG, "llama", "a", 0, folder, command="jaxcomp pretrain")
        with pytest.raises(pretrained.MissingBaseError, match="no decoder with hash"):
            train(CFG, folder / "run", root=folder)
        adapt_decoder(CFG, folder)
        train(CFG, folder / "run", root=folder)
        yield folder


def test_a_base_is_what_its_card_says(root, mesh):
    folder = pretrained.resolve_base(CFG, "llama", "a", 0, root)
    card = json.loads((folder / "card.json").read_text())
    assert card["config_hash"] == ids.base_hash(CFG, "llama", "a", 0)
    assert card["command"] == "jaxcomp pretrain"
    assert card["steps"] == 2
    assert 2 * 8 * 30 < card["tokens"] <= 2 * 8 * 66
    model = hf.load(folder)
    assert model.cfg.vocab_size == load_tokenizer(folder).vocab_size
    assert card["parameters"] == sum(x.size for x in jax.tree.leaves(nnx.state(model)))
    found = held_out(CFG, model, load_tokenizer(folder))
    assert {k: card[k] for k in found} == found
    assert 0 < card["eval_loss"] < np.log(model.cfg.vocab_size) + 1


def test_what_is_made_is_not_made_again(root, mesh):
    card = pretrained.made_base(root, "llama", "a", 0) / "card.json"
    decoder = pretrained.made_decoder(root, CFG)
    before = card.stat().st_mtime_ns, (decoder / "card.json").stat().st_mtime_ns
    pretrain_base(CFG, "llama", "a", 0, root)
    assert adapt_decoder(CFG, root) == decoder
    assert before == (card.stat().st_mtime_ns, (decoder / "card.json").stat().st_mtime_ns)
    names = {p.name for p in decoder.iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "markers.safetensors"}
    assert wanted <= names
    assert not list(root.glob("*/*.part-*"))


def test_hashes_name_what_matters_and_nothing_else(root):
    def changed(**fields):
        cfg = dataclasses.replace(CFG, **fields)
        return ids.base_hash(cfg, "llama", "a", 0), ids.decoder_hash(cfg)

    base, decoder = changed()
    quiet = dataclasses.replace(LM, log_every=7, checkpoint_every=9)
    job = dataclasses.replace(CFG.memory, ratio=16)
    for same in ({"pretrain": quiet}, {"memory": job}, {"seed": 5}, {"train": TrainConfig()}):
        assert changed(**same) == (base, decoder)
    other = changed(world=WorldConfig(prior_strength=0.5))
    assert other[0] != base
    assert other[1] != decoder
    longer = dataclasses.replace(LM, optim=optim(3))
    assert changed(pretrain=longer)[0] != base
    assert changed(pretrain=longer)[1] == decoder
    assert ids.base_hash(CFG, "llama", "a", 1) != base
    assert changed(decoder=dataclasses.replace(CFG.decoder, seed=1))[1] != decoder


def test_a_named_folder_is_taken_as_it_is(root):
    made = pretrained.made_base(root, "llama", "a", 0)
    cfg = dataclasses.replace(CFG, folders={"llama/a": str(made)}, world=WorldConfig(seed=9))
    assert pretrained.resolve_base(cfg, "llama", "a", 3, None) == made
    wrong = dataclasses.replace(CFG, folders={"decoder": str(root)})
    with pytest.raises(ConfigError, match=r"folders.decoder.*config.json"):
        pretrained.resolve_decoder(wrong, None)


def test_a_model_too_small_for_its_tokenizer_is_refused(root, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(pretrained.made_base(root, "llama", "a", 0), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens, the model rows for 100"):
        pretrained.tokenizer_of(folder)


def test_a_model_with_more_rows_than_tokens_is_a_padded_one(root, tmp_path, mesh):
    folder = shutil.copytree(pretrained.made_base(root, "llama", "a", 0), tmp_path / "padded")
    model = hf.load(folder)
    tokens = model.cfg.vocab_size
    config = json.loads((folder / hf.CONFIG).read_text())
    (folder / hf.CONFIG).write_text(json.dumps(config | {"vocab_size": tokens + 7}))
    tensors = load_file(folder / hf.WEIGHTS)
    padded = {k: np.concatenate([x, x[:7]]) for k, x in tensors.items() if len(x) == tokens}
    save_file(tensors | padded, folder / hf.WEIGHTS, metadata={"format": "pt"})
    found, tok = hf.load(folder), pretrained.tokenizer_of(folder)
    assert (found.cfg.vocab_size, tok.vocab_size) == (tokens + 7, tokens)
    np.testing.assert_array_equal(found.emb[:tokens], model.emb[...])
    # The model may choose such a row; it stands for no text.
    ids = tok.encode("The fox")
    assert tok.decode([*ids, tokens + 3]) == tok.decode(ids)


def test_weights_that_cannot_be_read_do_not_take_the_workdir(root, tmp_path, mesh):
    folder = tmp_path / "given"
    shutil.copytree(pretrained.made_base(root, "llama", "a", 0), folder)
    (folder / manifest.CARD).unlink()  # known by its files, so that mended ones are others
    whole = (folder / hf.WEIGHTS).read_bytes()
    decoder = str(pretrained.made_decoder(root, CFG))
    cfg = dataclasses.replace(CFG, folders={"llama/a": str(folder), "decoder": decoder})
    (folder / hf.WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(hf.HfError, match="is not a whole safetensors file"):
        train(cfg, tmp_path / "run")
    (folder / hf.WEIGHTS).write_bytes(whole)
    assert train(cfg, tmp_path / "run")["steps"] == 4


def test_given_weights_are_known_by_their_content(root, tmp_path):
    folder = shutil.copytree(pretrained.made_base(root, "llama", "a", 0), tmp_path / "a")
    (folder / manifest.CARD).unlink()
    first = manifest.weights_identity(folder)
    assert manifest.weights_identity(shutil.copytree(folder, tmp_path / "b")) == first
    changed = bytearray((folder / hf.WEIGHTS).read_bytes())
    changed[-1] ^= 1  # of the same size
    (folder / hf.WEIGHTS).write_bytes(changed)
    assert manifest.weights_identity(folder) != first


def assert_same(model, other):
    leaves = (jax.tree.leaves(nnx.state(each)) for each in (model, other))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_returned_and_loads_as_it_was(root, mesh):
    summary = json.loads((root / "run" / "summary.json").read_text())
    assert train(CFG, root / "run", root=root) == summary
    assert summary["steps"] == 4
    model = load_run(CFG, root / "run", root=root)
    found = validate(CFG, model, tokenizers(CFG, root))
    assert {k: summary[k] for k in found} == found
    # The one decoder: bit for bit what the folder holds.
    assert_same(model.decoder, hf.load(pretrained.resolve_decoder(CFG, root)))
    # The base did move, so the restored weights are the trained ones.
    base = hf.load(pretrained.resolve_base(CFG, "llama", "a", 0, root))
    assert not np.array_equal(model.compressor.llm.emb[...], base.emb[...])


class Killed(BaseException):
    pass


def killed(cfg, workdir, root, monkeypatch, at=4):
    """A run that ends in its step `at`."""
    calls, real = [], loop.train_step

    def dying(*args):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dying)
        with pytest.raises(Killed):
            train(cfg, workdir, root=root)


def test_a_killed_run_gives_the_same_summary(root, mesh, tmp_path, monkeypatch):
    killed(CFG, tmp_path / "run", root, monkeypatch)
    assert not (tmp_path / "run" / "summary.json").exists()
    with pytest.raises(CheckpointError, match="no finished run"):
        load_run(CFG, tmp_path / "run", root=root)
    train(CFG, tmp_path / "run", root=root)
    for name in ("summary.json", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (root / "run" / name).read_text()


def test_a_ratio_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ratio 5 does not divide data.segment = 32"):
        train(dataclasses.replace(CFG, memory=MemoryConfig(ratio=5)), tmp_path)


def test_each_step_has_its_ratio():
    train_cfg = TrainConfig(
        optim=optim(100), curriculum=(1, 2), curriculum_share=0.4, ratios=(4, 16, 64)
    )
    drawn = [ratio_at(train_cfg, 4, 0, step) for step in range(100)]
    assert drawn[:40] == [1] * 20 + [2] * 20
    assert set(drawn[40:]) == {4, 16, 64}
    assert drawn == [ratio_at(train_cfg, 4, 0, step) for step in range(100)]
    assert drawn[40:] != [ratio_at(train_cfg, 4, 1, step) for step in range(40, 100)]
    assert ratio_at(TrainConfig(), 16, 0, 7) == 16


# --- a second stage: questions, after reconstruction -------------------------------------------


def asking(root, place="run", **changes):
    """`CFG` tuned on questions, from the finished run in `root` / `place`."""
    train_cfg = dataclasses.replace(
        CFG.train, objective="answer", p_reconstruct=0.25, start=str(root / place), **changes
    )
    return dataclasses.replace(CFG, train=train_cfg)


def test_a_second_stage_begins_with_what_the_first_learned(root, mesh, tmp_path, monkeypatch):
    first = load_run(CFG, root / "run", root=root)
    run, _ = planned(asking(root), root)
    assert_same(run.model(), first)
    summary = train(asking(root), tmp_path / "whole", root=root)
    assert summary["val_answers"] > 20
    assert summary["val_loss_answer"] > 0 <= summary["val_exact_answer"] <= 1
    # Killed after three of four steps: the same again, though the first stage has moved meanwhile.
    killed(asking(root), tmp_path / "killed", root, monkeypatch)
    shutil.copytree(root / "run", tmp_path / "moved")
    moved = asking(tmp_path, "moved")
    assert train(moved, tmp_path / "killed", root=root) == summary
    shutil.rmtree(tmp_path / "moved")
    model = load_run(moved, tmp_path / "killed", root=root)
    found = validate(moved, model, tokenizers(moved, root))
    assert {k: summary[k] for k in found} == found


def copied(root, place, name="summary.json", **values):
    """The first stage once more, with other values in one of its files."""
    shutil.copytree(root / "run", place)
    found = json.loads((place / name).read_text())
    (place / name).write_text(json.dumps(found | values))
    return place


def test_another_first_stage_is_another_run(root, mesh, tmp_path):
    other = copied(root, tmp_path / "other", "run.json", config_hash="another")
    places = {"same": root / "run", "other": other}
    runs = {k: planned(asking(p, ""), root)[0] for k, p in places.items()}
    summary = json.loads((root / "run" / "summary.json").read_text())
    starts = {k: run.manifest.identity["train"]["start"] for k, run in runs.items()}
    assert starts == {"same": summary["config_hash"], "other": "another"}
    fresh, _ = planned(dataclasses.replace(asking(root), train=CFG.train), root)
    assert "start" not in fresh.manifest.identity["train"]


def test_vectors_stay_where_they_were_when_the_decoder_begins_to_learn(root, mesh):
    first = load_run(CFG, root / "run", root=root)
    run, _ = planned(asking(root, train_decoder=True), root)
    second: Any = run.model()
    # Small embeddings, which learn in another unit.
    assert first.compressor.connector.unit < 0.9
    assert second.compressor.connector.unit == 1.0
    ctx_BGT = jax.numpy.arange(64, dtype=jax.numpy.int32).reshape(2, 1, 32) % 50 + 1
    len_BG = jax.numpy.array([[32], [20]], jax.numpy.int32)
    found, wanted = (
        np.asarray(m.memory(ctx_BGT, len_BG, ratio=8).vec_BMD) for m in (second, first)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_constant_unit_cannot_change_between_the_stages(root):
    weights = open_manifest(root / "run").weights
    memory = dataclasses.replace(CFG.memory, connector="none")
    for learns in (True, False):
        cfg = dataclasses.replace(asking(root, train_decoder=learns), memory=memory)
        with pytest.raises(ConfigError, match=r"memory.connector 'mlp' there") as error:
            warm_start.parent_of(cfg, None, weights)
        assert ("True here, with memory.connector none" in str(error.value)) == learns


def test_a_run_of_no_steps_hands_on_what_it_began_with(root, mesh, tmp_path):
    none = dataclasses.replace(
        CFG, train=dataclasses.replace(CFG.train, optim=optim(0), start=str(root / "run"))
    )
    train(none, tmp_path / "none", root=root)
    run, _ = planned(asking(tmp_path, "none"), root)
    first = load_run(CFG, root / "run", root=root)
    assert_same(run.model(), first)


def test_a_first_stage_that_split_the_same_text_otherwise_is_refused(root):
    """What it trained on may be held out here."""
    cfg = asking(root)
    data = {"source": "text", "path": ["a.txt:60:abc"], "seed": 1}
    warm_start._same_split(cfg, data, {**data, "seed": 2, "path": ["a.txt:60:xyz"]})
    warm_start._same_split(cfg, data, {**data, "segment": 64})
    other = {**data, "seed": 2, "path": ["a.txt:60:abc", "a rule"]}
    with pytest.raises(ConfigError, match=r"data.seed 1, this one with 2.*--data.seed=1"):
        warm_start._same_split(cfg, data, other)


def test_a_run_needs_its_first_stage_only_until_its_first_checkpoint(
    root, mesh, tmp_path, monkeypatch
):
    place = tmp_path / "first"
    shutil.copytree(root / "run", place)
    cfg = asking(place, "")
    killed(cfg, tmp_path / "run", root, monkeypatch, at=1)
    kept = (tmp_path / "run" / "run.json").read_text()
    place.rename(tmp_path / "gone")
    # Not begun: refused before anything is written.
    with pytest.raises(ConfigError, match=r"train.start = .*no finished run there"):
        train(asking(tmp_path, "typo"), tmp_path / "run", root=root)
    assert (tmp_path / "run" / "run.json").read_text() == kept
    (tmp_path / "gone").rename(place)
    killed(cfg, tmp_path / "run", root, monkeypatch)
    # Begun: goes on without it, though another run has taken its place.
    place.rename(tmp_path / "gone")
    copied(root, place, "run.json", config_hash="another")
    summary = train(cfg, tmp_path / "run", root=root)
    assert summary["steps"] == 4
    shutil.rmtree(place)
    model = load_run(cfg, tmp_path / "run", root=root)
    found = validate(cfg, model, tokenizers(cfg, root))
    assert {k: summary[k] for k in found} == found
    planned(cfg, root, tmp_path / "run")  # as `jaxcomp check` does
    with pytest.raises(ConfigError, match="no finished run there"):
        planned(cfg, root)
    # Named with another first stage, it is another run.
    other = copied(root, tmp_path / "x", "run.json", config_hash="x")
    with pytest.raises(ConfigError, match=r"train.start was"):
        train(asking(other, ""), tmp_path / "run", root=root)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"positions": "consecutive"}, r"memory.positions 'spread' there, 'consecutive' here"),
        ({"ratio": 16}, r"memory tokens .* 4 there, 2 here"),
        ({"lora": LoraConfig(rank=2)}, r"memory.lora .*rank=0.* there, .*rank=2.* here"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_refused(root, mesh, memory, message):
    # The same decoder, whatever it was adapted with.
    decoder = {"decoder": str(pretrained.made_decoder(root, CFG))}
    other = dataclasses.replace(CFG.memory, **memory)
    cfg = dataclasses.replace(asking(root), memory=other, folders=decoder)
    with pytest.raises(ConfigError, match="train.start = .*" + message):
        planned(cfg, root)


def test_the_tower_may_join_in_the_second_stage_but_not_leave(root, mesh, tmp_path):
    pool = MemoryConfig(ratio=8, marker_steps=1, **recipe("mean_pool")["memory"])
    alone = dataclasses.replace(pool, trained="connector")
    # The decoder is the same, whatever is trained.
    assert ids.decoder_hash(dataclasses.replace(CFG, memory=alone)) == ids.decoder_hash(
        dataclasses.replace(CFG, memory=pool)
    )
    decoder = {"decoder": str(pretrained.made_decoder(root, CFG))}
    first = dataclasses.replace(CFG, memory=alone, folders=decoder)
    summary = train(first, tmp_path / "run", root=root)
    model = load_run(first, tmp_path / "run", root=root)
    base = hf.load(pretrained.resolve_base(CFG, "llama", "a", 0, root))
    assert_same(model.compressor.llm, base)
    assert summary["parameters_trained"] == 4 * 16 + sum(
        x.size for x in jax.tree.leaves(nnx.state(model.compressor.connector))
    )
    second = dataclasses.replace(asking(tmp_path), folders=decoder, memory=pool)
    run, _ = planned(second, root)
    assert_same(run.model(), model)
    train(second, tmp_path / "second", root=root)
    back = dataclasses.replace(first, train=asking(tmp_path, "second").train)
    with pytest.raises(ConfigError, match=r"memory.trained 'tower' there, 'connector' here"):
        planned(back, root)


def test_a_first_stage_whose_decoder_learned_needs_one_that_learns(root, mesh, tmp_path):
    config = json.loads((root / "run" / "run.json").read_text())["config"]
    config["train"]["train_decoder"] = True
    copied(root, tmp_path / "run", "run.json", config=config)
    with pytest.raises(ConfigError, match=r"train.train_decoder True there, False here"):
        planned(asking(tmp_path), root)
