import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.config import WorldConfig
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


def test_lone_surrogate_is_refused(bpe):
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        bpe.encode("\ud800")


def test_folders_load_in_transformers_with_the_same_ids(bpe, tmp_path):
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "again"
    mine = train_tokenizer(["one two three"], 300, folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(str(folder))
    ids = theirs("three one <two>", add_special_tokens=False)["input_ids"]
    assert ids == mine.encode("three one <two>")
    assert theirs.eos_token_id == mine.eos_id
    assert theirs.pad_token_id == mine.pad_id


def test_training_is_deterministic_and_a_complete_folder_is_reused(tmp_path):
    texts = [World().passage("train", i).text for i in range(20)]
    first = train_tokenizer(texts, 320, tmp_path / "a")
    assert train_tokenizer(texts, 320, tmp_path / "b").name == first.name
    assert train_tokenizer(["other text"], 320, tmp_path / "a").name == first.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_name_is_of_the_content_not_of_its_layout(tmp_path):
    first = train_tokenizer(["some text, some more text"] * 5, 300, tmp_path / "a")
    file = tmp_path / "a" / "tokenizer.json"
    parsed = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(parsed, indent=4), "utf-8")
    assert load_tokenizer(tmp_path / "a").name == first.name
    parsed["added_tokens"][0]["lstrip"] = True
    file.write_text(json.dumps(parsed), "utf-8")
    assert load_tokenizer(tmp_path / "a").name != first.name


def test_a_base_folder_keeps_its_other_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    world_tokenizer(World().words(), tmp_path)
    assert {"config.json", "tokenizer.json"} <= {p.name for p in tmp_path.iterdir()}


def test_offsets_keep_the_space_of_published_tokenizers(bpe, tmp_path):
    # Llama-3's file trims offsets and adds a begin token in its post-processor.
    train_tokenizer(["a b"], 300, tmp_path / "t")
    spec = json.loads((tmp_path / "t" / "tokenizer.json").read_text())
    spec["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    tok = Tokenizer(json.dumps(spec))
    spans = tok.encode_with_offsets("a  b")[1]
    assert {c for a, b in spans for c in range(a, b)} == {0, 1, 2, 3}


def test_vocabulary_without_unknown_token_does_not_drop_silently():
    spec = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<eos>": 2}, "merges": []},
    }
    tok = Tokenizer(json.dumps(spec))
    assert tok.encode("abba") == [0, 1, 1, 0]
    with pytest.raises(TokenizerError, match="'c' at character 2"):
        tok.encode("abc")


def test_errors_name_the_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer.json: no such file \(found: config.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not a readable tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="at least 258"):
        train_tokenizer(["a"], 200, tmp_path / "x")
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer([], 300, tmp_path / "x")


def test_unknown_end_token_is_an_error(tmp_path):
    train_tokenizer(["a b"], 300, tmp_path / "t")
    config = {"eos_token": "<|nothing|>"}
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"<\|nothing\|>"):
        load_tokenizer(tmp_path / "t")
