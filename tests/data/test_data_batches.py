import dataclasses
import json

import numpy as np
import pytest
from data_configs import BATCH, assert_same, draw, text_config, world_config, write_prose

from jaxcomp.config import WorldConfig
from jaxcomp.data import corpus, prepare, world_corpus
from jaxcomp.data.batches import (
    CONTINUE,
    REBUILD,
    data_stats,
    data_tokenizer,
    lm_batches,
    train_batches,
)
from jaxcomp.data.documents import DataError
from jaxcomp.data.segments import cut
from jaxcomp.data.tokenizer import train_tokenizer
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


def decoded(tok, ids, length):
    return tok.decode(ids[:length])


# Training batches


@pytest.mark.parametrize("objective", ["coin", "sum"])
@pytest.mark.parametrize("source", ["world", "text"])
def test_batches_mean_what_they_say(objective, source, prose):
    cfg = world_config(objective) if source == "world" else text_config(prose, objective=objective)
    tok = data_tokenizer(cfg)
    T, G, L = cfg.data.segment, cfg.data.segments, cfg.data.target
    O = 2 if objective == "sum" else 1
    modes, unfollowed = [], 0
    for batch in draw(train_batches(cfg, tok, tok), 12):
        assert [x.shape for x in batch] == [
            (BATCH, G, T), (BATCH, G), (BATCH, O, L), (BATCH, O), (BATCH, O)
        ]  # fmt: skip
        assert all(x.dtype == np.int32 for x in batch)
        for b in range(BATCH):
            ctx = [batch.ctx_BGT[b, g, : batch.ctx_len_BG[b, g]] for g in range(G)]
            text = tok.decode(np.concatenate(ctx))
            for g in range(G):
                assert not batch.ctx_BGT[b, g, batch.ctx_len_BG[b, g] :].any()
            for o in range(O):
                n, mode = batch.tok_len_BO[b, o], batch.mode_BO[b, o]
                ids = batch.tok_BOL[b, o]
                assert not ids[n:].any()  # nothing beyond the length
                modes.append(mode)
                if mode == REBUILD:
                    assert ids[n - 1] == tok.eos_id
                    assert decoded(tok, ids, n) == text
                elif n == 0:
                    unfollowed += 1
                    assert objective == "sum"
                else:
                    assert tok.eos_id not in ids[: n - 1]
    if objective == "sum":
        assert modes == [REBUILD, CONTINUE] * (12 * BATCH)
    else:
        assert 0.3 < np.mean(modes) < 0.7
    assert (unfollowed > 0) == (source == "text" and objective == "sum")


def test_a_continuation_is_the_text_that_follows(prose):
    cfg = text_config(prose, p=0.0)
    tok = data_tokenizer(cfg)
    with open(prose) as f:
        texts = [json.loads(line)["text"] for line in f]
    met = {REBUILD: 0, CONTINUE: 0}
    for batch in draw(train_batches(cfg, tok, tok), 12):
        for b in range(BATCH):
            n, mode = batch.tok_len_BO[b, 0], batch.mode_BO[b, 0]
            ctx = tok.decode(
                i for g in range(2) for i in batch.ctx_BGT[b, g, : batch.ctx_len_BG[b, g]]
            )
            met[int(mode)] += 1
            if mode == CONTINUE:
                follow = decoded(tok, batch.tok_BOL[b, 0], n)
                # A continuation may end inside a character; decoding marks that.
                assert any(ctx + follow.rstrip("\ufffd") in text for text in texts)
                ends = batch.tok_BOL[b, 0, n - 1] == tok.eos_id
                assert ends == any(text.endswith(ctx + follow) for text in texts)
            else:  # p = 0: only examples without a continuation are rebuilt
                assert any(text.endswith(ctx) for text in texts)
    assert min(met.values()) > 0


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
    if source == "world":
        assert count == 96
        assert len(set(first)) == 96


def test_seeds_change_the_order_and_nothing_else():
    rows = []
    for seed in (0, 0, 1):
        cfg = world_config(seed=seed)
        tok = data_tokenizer(cfg)
        rows.append(rows_of(draw(train_batches(cfg, tok, tok), 12)))
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert sorted(rows[0]) == sorted(rows[2])


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


@pytest.mark.parametrize("kind", ["train", "lm"])
def test_hosts_share_every_global_batch(kind):
    cfg = world_config()
    tok = data_tokenizer(cfg)

    def make():
        return (
            train_batches(cfg, tok, tok) if kind == "train" else lm_batches(cfg, cfg.pretrain, tok)
        )

    whole = draw(make(), 30)
    shares = []
    for rows in ([(0, 2)], [(2, 3), (5, 7)], [(3, 5)], [(7, 8)]):
        mine = make()
        mine._rows = rows
        shares.append(draw(mine, 30))
    for n, batch in enumerate(whole):
        for x, *parts in zip(batch, *(share[n] for share in shares), strict=True):
            a, b, c, d = parts
            np.testing.assert_array_equal(np.concatenate([a, b[:1], c, b[1:], d]), x)


def test_two_tokenizers(prose, tmp_path):
    cfg = text_config(prose, target=90)
    comp = data_tokenizer(cfg)
    dec = train_tokenizer([World().passage("train", 0).text], 300, tmp_path / "dec")
    for batch in draw(train_batches(cfg, comp, dec), 4):
        for b in range(BATCH):
            if batch.mode_BO[b, 0] == REBUILD:
                ctx = [batch.ctx_BGT[b, g, : batch.ctx_len_BG[b, g]] for g in range(2)]
                target = batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]]
                assert comp.decode(np.concatenate(ctx)) == dec.decode(target)
                assert target[-1] == dec.eos_id


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


def test_stats_count_what_they_say(prose):
    cfg = text_config(prose)
    tok = data_tokenizer(cfg)
    stats = data_stats(cfg, tok, tok)
    assert stats.documents == 8
    docs = corpus.documents_of(cfg, "train")
    number = int(np.random.default_rng([0, 0, 0]).permutation(-(-len(docs) // 8))[0])
    examples, sizes, size, too_short = 0, [], 0, 0
    for doc in docs.part(8 * number, 8 * number + 8):
        parts = cut(doc.text, tok, 16)
        groups = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        groups = [g for g in groups if sum(len(p.ids) for p in g) >= 8]
        examples += len(groups)
        sizes += [len(p.ids) for g in groups for p in g]
        size += sum(len(p.text.encode()) for g in groups for p in g)
        too_short += not groups
    vectors = sum(-(-n // 4) for n in sizes)
    assert (stats.examples, stats.documents_too_short) == (examples, too_short)
    assert (stats.segments, stats.segments_padded) == (len(sizes), sum(n < 16 for n in sizes))
    assert stats.bytes_per_vector == pytest.approx(size / vectors)
    assert 3.0 < stats.tokens_per_vector <= 4.3
    assert "decoder tokens" in str(stats)


def test_world_stats_are_exact():
    cfg = world_config(train_passages=36)
    tok = data_tokenizer(cfg)
    world = World(cfg.world)
    drawn = [world.passage("train", i, prior_strength=0.95, max_words=32) for i in range(36)]
    sizes = [len(tok.encode(p.text)) for p in drawn]
    stats = data_stats(cfg, tok, tok)
    assert (stats.documents, stats.examples, stats.segments) == (36, 36, 36)
    assert stats.segments_padded == sum(s < 32 for s in sizes)
    vectors = sum(-(-s // 4) for s in sizes)
    assert stats.tokens_per_vector == pytest.approx(sum(sizes) / vectors)
    assert stats.bytes_per_vector == pytest.approx(sum(len(p.text) for p in drawn) / vectors)


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


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_copy_fraction_limits(fraction):
    cfg = world_config()
    tok = data_tokenizer(cfg)
    pretrain = dataclasses.replace(cfg.pretrain, copy_fraction=fraction)
    for batch in draw(lm_batches(cfg, pretrain, tok), 4):
        segments = len({(b, s) for b, s in np.argwhere(batch.seg_BL > 0)})
        assert segments > 0
        documents = sum(int(row.max()) for row in batch.seg_BL)
        assert (batch.tok_BL == tok.eos_id).sum() == (1 + fraction) * documents


def test_pretraining_and_training_texts_have_their_own_priors():
    cfg = dataclasses.replace(
        world_config(train_passages=72),
        world=WorldConfig(prior_strength=0.999, train_prior_strength=0.2),
    )
    tok, world = data_tokenizer(cfg), World()
    share = []
    for kind in ("lm", "train"):
        kept = met = 0
        if kind == "lm":
            pretrain = dataclasses.replace(cfg.pretrain, copy_fraction=1.0)
            texts = [
                tok.decode(i) for b in draw(lm_batches(cfg, pretrain, tok), 6) for i in b.tok_BL
            ]
        else:
            texts = [
                tok.decode(i)
                for b in draw(train_batches(cfg, tok, tok), 6)
                for i in b.ctx_BGT[:, 0]
            ]
        favourites = {
            s.key: s.favourite for i in range(400) for s in world.passage("train", i).slots
        }
        for text in texts:
            for key, value in world.read(text).items():
                if key in favourites:
                    met += 1
                    kept += value == favourites[key]
        share.append(kept / met)
    assert share[0] > 0.95
    assert share[1] < 0.5


def test_tokenizer_of_the_text_is_trained_once(prose, monkeypatch):
    cfg = text_config(prose)
    name = data_tokenizer(cfg).name
    monkeypatch.setattr(corpus, "_some_text", lambda docs: iter(()))
    assert data_tokenizer(cfg).name == name
