"""Text cut into segments of T tokens, on character boundaries.

A character is a Unicode code point. A byte-level tokenizer may spread one over several tokens;
such tokens always stay together, so every segment is an exact substring of the text and the
segments of a text, joined, are the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.data.tokenizer import Tokenizer

Offsets = Sequence[tuple[int, int]]  # of tokens: the characters that each stands for


class SegmentError(ValueError):
    """One character takes more tokens than a segment holds."""


class Segment(NamedTuple):
    """`text` = whole_text[start:end]; `ids` are its tokens within the encoding of the whole."""

    text: str
    ids: list[int]
    start: int
    end: int


def cut(text: str, tokenizer: Tokenizer, T: int, G: int | None = None) -> list[Segment]:
    """The first G segments (None: all) of at most T tokens each.

    A segment is shorter than T only where it is the last, or where T tokens would end inside a
    character. Joined, all segments are `text`, the first G a prefix of it. An empty text has none.

    Raises:
      SegmentError: a single character takes more than T tokens.
    """
    ids, offsets = tokenizer.encode_with_offsets(text)
    return cut_encoded(text, ids, offsets, T, G)


def cut_encoded(
    text: str, ids: Sequence[int], offsets: Offsets, T: int, G: int | None = None
) -> list[Segment]:
    """`cut` for a text whose encoding is already known."""
    segments: list[Segment] = []
    first, start, n = 0, 0, len(ids)
    while first < n and (G is None or len(segments) < G):
        last = min(first + T, n)
        # Between characters the next token starts where the last one ends, or after.
        while first < last < n and offsets[last][0] < offsets[last - 1][1]:
            last -= 1
        if last == first:
            at = offsets[first][0]
            raise SegmentError(
                f"character {text[at : at + 1]!r} at {at} takes more than {T} tokens; "
                "make data.segment larger"
            )
        # Up to where the next token starts: a character that no token covers (a combining mark that
        # normalisation merged, whitespace that was dropped) goes with what stands before it.
        end = offsets[last][0] if last < n else len(text)
        segments.append(Segment(text[start:end], list(ids[first:last]), start, end))
        first, start = last, end
    return segments
