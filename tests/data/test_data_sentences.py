"""Sentences cover the text."""

import pytest

from jaxcomp.data.sentences import sentences


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("Mr. Oda of the U.S. Army saw 3.5 m. He left.", ["Mr. Oda of the U.S. Army saw 3.5 m. ",
                                                          "He left."]),
        ('"Who?" she said. "I am."', ['"Who?" she said. ', '"I am."']),
        ("A head\n\nThe text goes. on\n", ["A head\n\n", "The text goes. on\n"]),
        ("彼は来た。彼女も。", ["彼は来た。", "彼女も。"]),
        ("no end", ["no end"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_sentences_cover_the_text(text, cut):
    assert [text[a:b] for a, b in sentences(text)] == cut
