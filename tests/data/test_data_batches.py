import dataclasses
import json

import numpy as np
import pytest
from data_configs import BATCH, assert_same, draw, text_config, world_config, write_prose

from jaxcomp.config import WorldConfig
from jaxcomp.data import corpus, prepare, world_corpus
from jaxcomp.data.batches import (
    REBUILD,
    batch_shapes,
    data_tokenizer,
    lm_batches,
    train_batches,
)
from jaxcomp.data.documents import DataError
from jaxcomp.data.world import World


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    # Small, so that a few batches cross several blocks and epochs.
    monkeypatch.setattr(world_corpus, "PASSAGES", 36)
    monkeypatch.setattr(corpus, "DOCUMENTS", 8)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    return write_prose(tmp_path_factory.mktemp("prose"))


def rows_of(batches):
    return [row.tobytes() for b in batches for row in b.ctx_BGT]


# Training batches


@pytest.mark.parametrize("source", ["world", "text"])
def test_batches_mean_what_they_say(source, prose):
    """Of `sum`, and every byte of a text: test_data_two_tokenizers.py."""
    cfg = world_config() if source == "world" else text_config(prose)
    tok, G = data_tokenizer(cfg), cfg.data.segments
    modes = []
    for batch in draw(train_batches(cfg, tok, tok), 12):
        assert [x.shape for x in batch] == list(batch_shapes(cfg))
        assert all(x.dtype == np.int32 for x in batch)
        for b in range(BATCH):
            ctx = [batch.ctx_BGT[b, g, : batch.ctx_len_BG[b, g]] for g in range(G)]
            n, mode, ids = batch.tok_len_BO[b, 0], batch.mode_BO[b, 0], batch.tok_BOL[b, 0]
            assert not ids[n:].any()  # nothing beyond the length
            assert tok.eos_id not in ids[: n - 1]
            modes.append(mode)
            if mode == REBUILD:
                assert ids[n - 1] == tok.eos_id
                assert tok.decode(ids[:n]) == tok.decode(np.concatenate(ctx))
    assert 0.3 < np.mean(modes) < 0.7


@pytest.mark.parametrize("source", ["world", "text", "lm", "lm text"])
def test_resuming_continues_at_exactly_the_next_batch(source, prose):
    cfg = text_config(prose) if "text" in source else world_config()
    tok = data_tokenizer(cfg)

    def make():
        if "lm" in source:
            return lm_batches(cfg, cfg.pretrain, tok)
        return train_batches(cfg, tok, tok)

    whole = draw(make(), 40)  # crosses blocks and epochs
    for stop in (0, 1, 7, 20):
        first = make()
        assert_same(draw(first, stop), whole[:stop])
        state = json.loads(json.dumps(first.get_state()))
        second = make()
        second.set_state(state)
        assert_same(draw(second, 40 - stop), whole[stop:])


def test_orbax_saves_and_restores_the_iterator(tmp_path):
    from orbax.checkpoint import v1 as ocp

    cfg = world_config()
    tok = data_tokenizer(cfg)
    first, second = train_batches(cfg, tok, tok), train_batches(cfg, tok, tok)
    draw(first, 5)
    ocp.save_checkpointables(tmp_path / "c", {"data": first})
    ocp.load_checkpointables(tmp_path / "c", {"data": second})
    assert_same(draw(second, 3), draw(first, 3))


@pytest.mark.parametrize("source", ["world", "text"])
def test_an_epoch_visits_every_example_once_in_another_order_each_time(source, prose):
    cfg = world_config() if source == "world" else text_config(prose)
    tok = data_tokenizer(cfg)
    made = prepare.example_blocks(cfg, tok, tok, corpus.corpus(cfg))
    count = sum(len(made[i].ctx_NGT) for i in range(len(made)))
    rows = rows_of(draw(train_batches(cfg, tok, tok), -(-2 * count // BATCH)))
    first, second = rows[:count], rows[count : 2 * count]
    assert sorted(first) == sorted(second)
    assert first != second
    seeded = dataclasses.replace(cfg, seed=1)
    other = rows_of(draw(train_batches(seeded, tok, tok), -(-count // BATCH)))[:count]
    assert sorted(other) == sorted(first)
    assert other != first


def test_a_warm_cache_gives_the_same_batches_and_a_damaged_one_is_remade(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "fresh"))
    cfg = world_config()
    tok = data_tokenizer(cfg)
    cold = draw(train_batches(cfg, tok, tok), 12)
    files = sorted((tmp_path / "fresh" / "prepared").rglob("*.array_record"))
    assert len(files) == 3

    def never(*args, **kwargs):
        raise AssertionError("made a passage although all blocks are cached")

    with monkeypatch.context() as patch:
        patch.setattr(World, "passage", never)
        assert_same(draw(train_batches(cfg, tok, tok), 12), cold)
    whole = files[0].read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], b"{}", whole[:200] + b"\xff" + whole[201:]):
        files[0].write_bytes(damaged)
        caplog.clear()
        assert_same(draw(train_batches(cfg, tok, tok), 12), cold)
        assert "this file of the cache is damaged" in caplog.text
        assert files[0].read_bytes() == whole


def test_an_unwritable_cache_costs_a_warning_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    cfg = world_config()
    tok = data_tokenizer(cfg)
    wanted = draw(train_batches(cfg, tok, tok), 12)
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path / "file"))
    assert_same(draw(train_batches(cfg, tok, tok), 12), wanted)
    assert "cannot write the cache" in caplog.text


# Refusals and counts


def test_targets_too_long_are_an_error_that_names_the_length(prose):
    tok = data_tokenizer(text_config(prose))
    with pytest.raises(DataError, match=r"set --data.target=3\d"):
        train_batches(text_config(prose, target=20), tok, tok)


def test_no_document_long_enough(tmp_path):
    file = tmp_path / "short.jsonl"
    file.write_text("".join(json.dumps({"text": f"word {i}"}) + "\n" for i in range(60)))
    cfg = text_config(str(file), segment=256)
    with pytest.raises(DataError, match=r"no document long enough.* 128 tokens"):
        train_batches(cfg, data_tokenizer(cfg), data_tokenizer(cfg))


# Language modelling


def test_lm_batches_copy_the_stated_share_and_stay_whole():
    cfg = world_config(train_passages=300)
    tok = data_tokenizer(cfg)
    copies = plain = 0
    for batch in draw(lm_batches(cfg, cfg.pretrain, tok), 10):
        assert all(x.shape == (BATCH, 70) and x.dtype == np.int32 for x in batch)
        assert not batch.tok_BL[batch.seg_BL == 0].any()
        for b in range(BATCH):
            for s in range(1, batch.seg_BL[b].max() + 1):
                ids = batch.tok_BL[b, batch.seg_BL[b] == s]
                assert ids[-1] == tok.eos_id
                text = tok.decode(ids)
                if (ids == tok.eos_id).sum() == 2:
                    copies += 1
                    half = len(ids) // 2
                    assert ids[:half].tolist() == ids[half:].tolist()
                else:
                    plain += 1
                    # Passage and continuation, each a number of whole sentences.
                    assert tok.encode(text) == ids[:-1].tolist()
                    assert text.endswith(".")
    assert 0.35 < copies / (copies + plain) < 0.65


def test_pretraining_and_training_texts_have_their_own_priors():
    world = World(WorldConfig(prior_strength=0.999, train_prior_strength=0.2))
    cfg = dataclasses.replace(world_config(train_passages=72), world=world.config)
    tok = data_tokenizer(cfg)
    facts = [s for i in range(400) for s in world.passage("train", i).facts]
    favourites = {s.key: s.favourite for s in facts}
    pretrain = dataclasses.replace(cfg.pretrain, copy_fraction=1.0)
    documents = [i for b in draw(lm_batches(cfg, pretrain, tok), 6) for i in b.tok_BL]
    contexts = [i for b in draw(train_batches(cfg, tok, tok), 6) for i in b.ctx_BGT[:, 0]]
    share = []
    for rows in (documents, contexts):
        facts = [fact for ids in rows for fact in world.read(tok.decode(ids)).items()]
        share.append(np.mean([favourites[k] == v for k, v in facts if k in favourites]))
    assert share[0] > 0.95
    assert share[1] < 0.5
