import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.data.segments import SegmentError, cut
from jaxcomp.data.tokenizer import Tokenizer, train_tokenizer, world_tokenizer
from jaxcomp.data.world import World

# Emoji (also joined ones), Chinese, combining marks, whitespace, letters.
MIXED = st.lists(
    st.sampled_from(
        ["😀", "👩‍👩‍👧", "🇫🇷", "中", "文字", "e\u0301", "a\u0327\u0302", " ", "\n", "the ", "word"]
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
).map("".join)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    texts = ["the word of the day 中文 is 文字 here 😀 ", "e\u0301 the 😀😀 word"] * 20
    return train_tokenizer(texts, 300, tmp_path_factory.mktemp("t") / "bpe")


@given(MIXED, st.integers(4, 9))
@settings(deadline=None)
def test_segments_are_exact_substrings_that_join_to_the_text(bpe, text, T):
    parts = cut(text, bpe, T)
    assert "".join(p.text for p in parts) == text
    for p in parts:
        assert text[p.start : p.end] == p.text
        # Decoding a segment's own tokens gives its text: no character was split between two.
        assert bpe.decode(p.ids) == p.text
        assert 1 <= len(p.ids) <= T
    for p in parts[:-1]:
        # Shorter than T only for a character that did not fit: at most 4 bytes, of which 3 remain.
        assert len(p.ids) > T - 4
    assert [i for p in parts for i in p.ids] == bpe.encode(text)


@pytest.fixture(scope="module")
def composing(tmp_path_factory):
    """Like Qwen's: normalises to NFC, so that one token may stand for several characters."""
    folder = tmp_path_factory.mktemp("t") / "nfc"
    train_tokenizer(["the word \u00e9 \u4e2d"] * 20, 280, folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "NFC"}
    return Tokenizer(json.dumps(spec))


@given(
    st.lists(
        st.sampled_from(["e\u0301", "A\u030a", "\u1112\u1161\u11ab", "😀", " ", "word"]),
        max_size=20,
    ),
    st.integers(4, 9),
)
@settings(deadline=None)
def test_merged_characters_stay_with_their_token(composing, pieces, T):
    text = "".join(pieces)
    parts = cut(text, composing, T)
    assert "".join(p.text for p in parts) == text
    for p in parts:
        assert unicodedata.normalize("NFC", p.text) == composing.decode(p.ids)


@given(MIXED, st.integers(1, 3))
@settings(deadline=None)
def test_first_segments_are_a_prefix(bpe, text, G):
    assert cut(text, bpe, 5, G) == cut(text, bpe, 5)[:G]


def test_a_character_longer_than_a_segment_is_an_error(bpe):
    with pytest.raises(SegmentError, match="more than 2 tokens"):
        cut("a🀄b", bpe, 2)


def test_a_world_passage_in_segments(tmp_path):
    tok = world_tokenizer(World().words(), tmp_path / "w")
    text = World().passage("train", 0).text
    parts = cut(text, tok, 16)
    assert "".join(p.text for p in parts) == text
    assert [len(p.ids) for p in parts[:-1]] == [16] * (len(parts) - 1)
    assert parts[1].text.startswith((" ", "."))


def test_empty_text_has_no_segment(bpe):
    assert cut("", bpe, 4) == []
