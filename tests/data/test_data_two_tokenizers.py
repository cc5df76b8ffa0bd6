"""A compressor and a decoder with tokenizers of their own: the text between them stays exact."""

import dataclasses
import json

import numpy as np
import pytest
from data_configs import BATCH, text_config
from hostile import TEXT, change, documents, nfc, pair_in, write_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.data.batches import (
    CONTINUE,
    REBUILD,
    batch_examples,
    data_stats,
    eval_examples,
    train_batches,
)
from jaxcomp.data.corpus import documents_of
from jaxcomp.data.documents import Documents
from jaxcomp.data.eval_sets import held_out
from jaxcomp.data.examples import text_examples
from jaxcomp.data.segments import SegmentError, cut
from jaxcomp.data.tokenizer import TokenizerError, load_tokenizer

# Enough for the longest single character: U+1D160 is three characters of four bytes in NFC.
SIZES = st.integers(12, 24)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return pair_in(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("h") / "hostile.jsonl", documents(90))


def config(file, segment=16, target=200, **more):
    return text_config(file, segment=segment, target=target, objective="sum", **more)


def one(text):
    return Documents([text], ["d"], None, None, "")


def groups_of(text, comp, cfg):
    """The contexts that a document gives, by the rules of data/examples.py."""
    T, G = cfg.data.segment, cfg.data.segments
    parts = cut(text, comp, T)
    groups = [parts[i : i + G] for i in range(0, len(parts), G)]
    return [g for g in groups if 2 * sum(len(s.ids) for s in g) >= T]


def joined(group):
    return "".join(s.text for s in group)


def assert_label(dec, ids, text):
    assert ids[-1] == dec.eos_id
    assert dec.eos_id not in ids[:-1]
    assert dec.decode(ids[:-1]).encode() == text.encode()


def assert_continues(dec, ids, after, L):
    """`ids` are the beginning of `after`, with an end token iff they are all of it."""
    ended = ids[-1:] == [dec.eos_id]
    said = dec.decode(ids[:-1] if ended else ids)
    assert dec.eos_id not in ids[:-1]
    if ended:
        assert said == after
    else:
        # The last token may end inside a character, which decoding marks.
        assert after.startswith(said.rstrip("\ufffd"))
        assert len(ids) == L or len(after) > 6 * L or not after


# What holds for every text


@given(TEXT, SIZES)
@settings(deadline=None)
def test_segments_are_substrings_that_join_to_the_text(pair, text, T):
    parts = cut(text, pair.comp, T)
    assert "".join(p.text for p in parts) == text
    assert [i for p in parts for i in p.ids] == pair.comp.encode(text)
    assert nfc(pair.comp.decode(i for p in parts for i in p.ids)) == nfc(text)
    for tok, special in zip(pair[:2], pair.special, strict=True):
        assert not set(special.values()) & set(tok.encode(text))
    for p in parts:
        assert p.text == text[p.start : p.end] != ""
        assert 1 <= len(p.ids) <= T
        if "\ufffd" not in p.text:
            assert "\ufffd" not in pair.comp.decode(p.ids)  # no character is cut in two
    form = nfc(text)
    for p in cut(form, pair.comp, T):
        assert pair.comp.decode(p.ids) == p.text


@given(TEXT, SIZES, st.integers(1, 3), st.integers(20, 120))
@settings(deadline=None)
def test_labels_are_the_very_text_of_their_context(pair, text, T, G, L):
    cfg = config("", segment=T, target=L)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, segments=G))
    pieces, counts = text_examples(one(text), cfg, pair.comp, pair.dec)
    groups = groups_of(text, pair.comp, cfg)
    fit = [g for g in groups if len(pair.dec.encode(joined(g))) + 1 <= L]
    assert [p.text for p in pieces] == [joined(g) for g in fit]
    assert [p.ctx for p in pieces] == [[s.ids for s in g] for g in fit]
    assert (counts.examples, counts.too_long) == (len(fit), len(groups) - len(fit))
    assert counts.respelled == 0
    for p in pieces:
        start = int(p.id.split(":")[1])
        assert text[start : start + len(p.text)] == p.text
        assert_label(pair.dec, p.target, p.text)
        assert_continues(pair.dec, p.continuation, text[start + len(p.text) :], L)


@given(TEXT, SIZES)
@settings(deadline=None)
def test_a_decoder_that_normalises_is_given_the_text_in_its_own_form(pair, text, T):
    comp, dec = pair.dec, pair.comp
    form = dec.respell([text])[0]
    assert nfc(form) == nfc(text)
    assert dec.respell([form]) == [form]
    pieces, counts = text_examples(one(text), config("", segment=T, target=500), comp, dec)
    assert counts.too_long == 0
    assert counts.respelled == (form != text)
    assert [p.text for p in pieces] == [joined(g) for g in groups_of(form, comp, config("", T))]
    for p in pieces:
        assert_label(dec, p.target, p.text)


def test_a_character_longer_than_a_segment_and_half_a_character_are_errors(pair):
    with pytest.raises(SegmentError, match="more than 2 tokens"):
        cut("a🀄b", pair.comp, 2)
    with pytest.raises(TokenizerError, match="lone surrogates"):
        cut("a\ud800b", pair.comp, 16)


# What training and evaluation see


def contexts_of(cfg, split, comp):
    """{tokens of a context: (its text, the text after it)} of all documents of a split."""
    found = {}
    for doc in documents_of(cfg, split):
        for g in groups_of(doc.text, comp, cfg):
            found[tuple(tuple(s.ids) for s in g)] = (joined(g), doc.text[g[-1].end :])
    return found


def unpadded(rows, lengths):
    """The rows without their padding, which must hold nothing."""
    for row, n in zip(rows, lengths, strict=True):
        assert not row[n:].any()
    return [row[:n].tolist() for row, n in zip(rows, lengths, strict=True)]


def test_every_training_batch_is_exact(pair, hostile_file):
    cfg = config(hostile_file)
    expected = contexts_of(cfg, "train", pair.comp)
    seen, largest = set(), 0
    batches = train_batches(cfg, pair.comp, pair.dec)
    for batch in (next(batches) for _ in range(-(-len(expected) // BATCH))):  # an epoch
        assert all(x.dtype == np.int32 for x in batch)
        largest = max(largest, batch.ctx_BGT.max(), batch.tok_BOL.max())
        for b in range(BATCH):
            ctx = unpadded(batch.ctx_BGT[b], batch.ctx_len_BG[b])
            key = tuple(tuple(ids) for ids in ctx if ids)
            text, after = expected[key]
            rebuild, follow = unpadded(batch.tok_BOL[b], batch.tok_len_BO[b])
            assert batch.mode_BO[b].tolist() == [REBUILD, CONTINUE]
            assert_label(pair.dec, rebuild, text)
            assert_continues(pair.dec, follow, after, cfg.data.target)
            seen.add(key)
    assert seen == set(expected)
    if pair.comp.vocab_size > 1 << 16:
        assert largest >= 1 << 16  # so ids beyond uint16 were among what was checked


def test_every_held_out_example_is_exact(pair, hostile_file):
    cfg = config(hostile_file)
    for which in ("val", "test"):
        examples = eval_examples(cfg, which, pair.comp, pair.dec)
        expected = contexts_of(cfg, which, pair.comp)
        for e in examples:
            text, after = expected[tuple(map(tuple, e.ctx))]
            assert e.text == text
            assert_label(pair.dec, e.target, text)
            assert_continues(pair.dec, e.continuation, after, cfg.data.target)
        rows = []
        for batch, valid in batch_examples(examples, 4, cfg, (REBUILD, CONTINUE)):
            for b in range(valid):
                ctx = unpadded(batch.ctx_BGT[b], batch.ctx_len_BG[b])
                rows.append((ctx, *unpadded(batch.tok_BOL[b], batch.tok_len_BO[b])))
        assert rows == [(e.ctx, e.target, e.continuation) for e in examples]


def test_too_long_targets_are_left_out_whole_and_stats_are_those_of_the_rest(pair, hostile_file):
    everything = contexts_of(config(hostile_file), "train", pair.comp)
    sizes = {key: len(pair.dec.encode(text)) + 1 for key, (text, _) in everything.items()}
    target = int(np.quantile(list(sizes.values()), 0.8))
    fit = [key for key, size in sizes.items() if size <= target]
    cfg = config(hostile_file, target=target)
    stats = data_stats(cfg, pair.comp, pair.dec)
    counts = stats.counts
    assert (counts.examples, counts.too_long) == (len(fit), len(sizes) - len(fit))
    lengths = [len(ids) for key in fit for ids in key]
    assert (counts.segments, counts.respelled) == (len(lengths), 0)
    assert counts.short_segments == sum(n < 16 for n in lengths) > 0
    assert cfg.memory.ratio == 4
    vectors = sum((n + 3) // 4 for n in lengths)
    assert stats.tokens_per_vector == pytest.approx(sum(sizes[k] - 1 for k in fit) / vectors)
    size = sum(len(everything[k][0].encode()) for k in fit)
    assert stats.bytes_per_vector == pytest.approx(size / vectors)
    sizes = [len(pair.dec.encode(t)) + 1 for t, _ in contexts_of(cfg, "test", pair.comp).values()]
    assert sum(size > target for size in sizes) == held_out(cfg, "test", pair.comp, pair.dec)[1] > 0


# A decoder whose tokenizer does not say every text


def test_a_normalising_decoder_is_counted_and_trained_on_its_own_form(pair, hostile_file):
    comp, dec, cfg = pair.dec, pair.comp, config(hostile_file, target=400)
    docs = [d.text for d in documents_of(cfg, "train")]
    respelled = sum(nfc(text) != text for text in docs)
    stats = data_stats(cfg, comp, dec)
    assert stats.counts.respelled == respelled > 0
    assert f"{respelled} documents in NFC, " in str(stats)
    texts = [nfc(d.text) for d in documents_of(cfg, "test")]
    examples = eval_examples(cfg, "test", comp, dec)
    for e in examples:
        assert any(e.text in text for text in texts)
        assert_label(dec, e.target, e.text)
        assert comp.decode(i for ids in e.ctx for i in ids) == e.text


def test_a_decoder_that_changes_characters_is_refused(tmp_path, hostile_file):
    pair = pair_in(tmp_path)
    change(pair.folders[0], normalizer={"type": "Lowercase"})
    lower = load_tokenizer(pair.folders[0])
    with pytest.raises(TokenizerError, match=r"comp: its tokens say 'case.*' for 'Case.*' at char"):
        text_examples(one("lower Case, and more of it"), config(""), pair.dec, lower)
    spaced = json.loads((pair.folders[1] / "tokenizer.json").read_text("utf-8"))["pre_tokenizer"]
    spaced["pretokenizers"][1]["add_prefix_space"] = True
    change(pair.folders[1], pre_tokenizer=spaced)
    spaced = load_tokenizer(pair.folders[1])
    with pytest.raises(TokenizerError, match=r"dec: its tokens say ' word.* for 'word.* at char"):
        text_examples(one("word of all words"), config(""), pair.dec, spaced)


# Length
