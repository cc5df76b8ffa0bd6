import json
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.config import Config, WorldConfig
from jaxcomp.data.batches import data_tokenizer
from jaxcomp.data.tokenizer import (
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
    world_tokenizer,
)
from jaxcomp.data.world import World

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_tokenizer(World().words(), tmp_path_factory.mktemp("t") / "world")


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    texts = [World().passage("train", i).text for i in range(50)]
    return train_tokenizer(texts, 400, tmp_path_factory.mktemp("t") / "bpe")


@pytest.mark.parametrize("seed", [0, 3])
def test_every_word_of_the_world_is_one_token_and_decoding_is_exact(world, seed):
    w = World(WorldConfig(seed=seed))
    for split in ("train", "val", "test"):
        for i in range(40):
            passage = w.passage(split, i, counterfactual=i % 2 == 1)
            for text in (passage.text, passage.continuation):
                ids = world.encode(text)
                assert len(ids) == len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", text))
                assert world.decode(ids) == text
    assert 250 <= world.vocab_size <= 450
    assert (world.pad_id, world.eos_id) == (0, 1)


@given(st.text(st.sampled_from(" \n\tabzAZ09.,<>'-_{}é" + "The red strawberry"), max_size=30))
@settings(deadline=None)
def test_world_tokenizer_is_lossless_or_loud(world, text):
    if "é" in text:
        with pytest.raises(TokenizerError, match=r"'é+' at character"):
            world.encode(text)
    else:
        ids, spans = world.encode_with_offsets(text)
        assert world.decode(ids) == text
        assert ids == world.encode(text)
        assert {c for a, b in spans for c in range(a, b)} == set(range(len(text)))


@given(UNICODE)
@settings(deadline=None)
def test_byte_level_bpe_is_lossless_and_offsets_cover_the_text(bpe, text):
    ids, spans = bpe.encode_with_offsets(text)
    assert bpe.decode(ids) == text
    assert {c for a, b in spans for c in range(a, b)} == set(range(len(text)))


def test_special_tokens_in_a_text_are_characters(bpe, world):
    for tok in (bpe, world):
        ids = tok.encode("a <eos> b<pad>")
        assert not {tok.eos_id, tok.pad_id} & set(ids)
        assert tok.decode(ids) == "a <eos> b<pad>"
        assert tok.decode([*ids, tok.eos_id, tok.pad_id]) == "a <eos> b<pad>"


def test_metaspace_mark_is_refused(world):
    with pytest.raises(TokenizerError, match="uses it for spaces"):
        world.encode("a\u2581b")


def test_folders_load_in_transformers_with_the_same_ids(bpe, tmp_path):
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "again"
    mine = train_tokenizer(["one two three"], 300, folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(str(folder))
    ids = theirs("three one <two>", add_special_tokens=False)["input_ids"]
    assert ids == mine.encode("three one <two>")
    assert theirs.eos_token_id == mine.eos_id
    assert theirs.pad_token_id == mine.pad_id


def test_vocabulary_without_unknown_token_does_not_drop_silently():
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "<eos>": 2}, "merges": []}
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    tok = Tokenizer(json.dumps({"version": "1.0", "added_tokens": [], "model": model} | empty))
    assert tok.encode("abba") == [0, 1, 1, 0]
    with pytest.raises(TokenizerError, match="'c' at character 2"):
        tok.encode("abc")


def edited(folder, texts=("some words", "more words")):
    """The parsed tokenizer.json of a small byte-level tokenizer, to be edited."""
    train_tokenizer(texts, 300, folder)
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
def test_bytes_without_a_token_do_not_vanish_silently(tmp_path, normalizer):
    spec = edited(tmp_path / "t")
    # In byte-level files U+0113 stands for byte 0x13, U+0126 for 0x84, the last of ń in UTF-8.
    dropped = {"\u0113", "\u0126"}
    spec["model"]["vocab"] = {t: i for t, i in spec["model"]["vocab"].items() if t not in dropped}
    spec["normalizer"] = normalizer
    tok = Tokenizer(json.dumps(spec), {"eos_token": "<eos>"})
    assert tok.decode(tok.encode("words 😀 é \x12")) == "words 😀 é \x12"
    with pytest.raises(TokenizerError, match=r"'\\x13' at character 2 of 'é \\x13"):
        tok.encode("é \x13 word")
    with pytest.raises(TokenizerError, match="'ń' at character 1"):
        tok.encode("ańb")


def test_an_end_token_readable_from_text_is_an_error(tmp_path):
    spec = edited(tmp_path / "t")
    for token in spec["added_tokens"]:
        token["special"] = False
    tok = Tokenizer(json.dumps(spec), {"eos_token": "<eos>"}, where="some/folder")
    assert tok.decode(tok.encode("a b")) == "a b"
    with pytest.raises(TokenizerError, match=r"some/folder: the end token '<eos>'.*as special in"):
        tok.encode("a <eos> b")


@pytest.mark.parametrize(
    ("normalizer", "text", "form"),
    [
        ("NFC", "e\u0301 \u212b", "é Å"),
        ("NFD", "é", "e\u0301"),
        ("NFKC", "ﬁ", None),
        ("Lowercase", "Words", None),
    ],
)
def test_respelling_changes_the_form_and_never_the_characters(tmp_path, normalizer, text, form):
    spec = edited(tmp_path / "t")
    spec["normalizer"] = normalizer and {"type": normalizer}
    tok = Tokenizer(json.dumps(spec), {"eos_token": "<eos>"})
    if form is None:
        with pytest.raises(TokenizerError, match="labels would not be the text"):
            tok.respell(["a", text])
    else:
        assert tok.respell(["a", text]) == ["a", form]


def test_errors_name_the_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer.json: no such file \(found: config.json"):
        load_tokenizer(tmp_path)
    for broken in ("{", "[]", "{}", '{"model": {"type": "BPE"}}', "\x00"):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(TokenizerError, match=r"json: not a readable tokenizer .*copy"):
            load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(TokenizerError, match=r"begins with b'version https://git-lfs.*whole file"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="at least 258"):
        train_tokenizer(["a"], 200, tmp_path / "x")
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer([], 300, tmp_path / "x")


def test_a_tokenizer_without_an_end_token_is_an_error(tmp_path):
    spec = edited(tmp_path / "t")
    spec["added_tokens"] = []
    spec["model"]["vocab"]["<end of story>"] = spec["model"]["vocab"].pop("<eos>")
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "t" / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"t: no eos_token in .*; name the token in tok"):
        load_tokenizer(tmp_path / "t")
    named = {"eos_token": {"content": "<end of story>"}}
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(named))
    assert load_tokenizer(tmp_path / "t").eos_id == 1


def test_long_words_do_not_hold_training_up(tmp_path):
    """Training took time that grows with the square of a word's length: minutes for this one."""
    rng = random.Random(0)
    word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=200_000))
    began = time.perf_counter()
    tok = train_tokenizer(["some text", f"before {word} after", " " * 50_000], 2000, tmp_path / "t")
    assert time.perf_counter() - began < 60
    assert tok.vocab_size == 2000
    assert tok.decode(tok.encode(f"before {word[:5000]} after")) == f"before {word[:5000]} after"


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("tokenizer", '{"model": ' + "[" * 100_000, r"tokenizer\.json: nested too deep"),
        ("tokenizer", '{"model": {"x": ' + "9" * 5000 + "}}", "an integer of 5000 digits"),
        ("tokenizer_config", "[" * 100_000, r"tokenizer_config\.json: nested too deep"),
        ("tokenizer_config", '{"eos_token": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ("tokenizer_config", '{"eos_token": ["</s>"]}', r"eos_token .* expected text"),
        ("tokenizer_config", '{"eos_token": {"content": {}}}', r"eos_token .* expected text"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, field, text, message):
    train_tokenizer(["a b"], 300, tmp_path / "t")
    (tmp_path / "t" / f"{field}.json").write_text(text)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": {}}', b"[]"])
def test_a_damaged_tokenizer_of_the_cache_is_said_to_be_one_and_made_anew(
    tmp_path, monkeypatch, caplog, content
):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    wanted = data_tokenizer(Config()).name
    (file,) = tmp_path.glob("tokenizers/*/tokenizer.json")
    file.write_bytes(content)
    assert data_tokenizer(Config()).name == wanted
    assert "this file of the cache is damaged" in caplog.text
