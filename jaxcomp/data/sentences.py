"""The sentences of a text, by rules, for prose."""

from __future__ import annotations

import re

# Where a sentence may end: a mark, what closes a quotation, and space; or a line break.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[」』]?\s*|\s*\n\s*")
_OPENS = re.compile(r"[\"'“‘(\[]*[^\Wa-z_]")
# After these a period ends no sentence: initials, titles and what stands before a name or number.
_SHORT = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sen|Rep|Gen|Col|Lt|Capt|Gov|Jr|Sr|No|vs|cf|ca|Fig|vol"
    r"|etc|e\.g|i\.e))\.\s+$"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans [start, end) that cover the text, each with the space after it. By rules, for prose: a
    mark that ends sentences, then space, then a capital, a digit or a quotation; or a line break.
    """
    spans, start = [], 0
    for end in _END.finditer(text):
        at = end.end()
        whole = "\n" in end[0] or end[0][0] in "。！？"
        if not whole and (_SHORT.search(text[start:at]) or not _OPENS.match(text, at)):
            continue
        if text[start:at].strip():
            spans.append((start, at))
            start = at
    if text[start:].strip() or not spans:
        return [*spans, (start, len(text))]
    return [*spans[:-1], (spans[-1][0], len(text))]
