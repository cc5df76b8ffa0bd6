"""Attribution: `jaxcomp inspect`.

Where each word of a rebuilt text came from, and where each word of the source went. A *word* is a
run of letters and digits (with an inner apostrophe) or one punctuation mark. Source and rebuilt
text (FR, greedy) are aligned word by word: equal words by difflib's matching blocks; in a stretch
that differs, words of one form; between those, from the left, words with words and marks with
marks. Shares are of the words of a side, sums over sums.

- **copied**: linked with an equal word. **paraphrased**: linked with the same word in another form:
  case, genitive 's, a number in letters or digits (0 to 20), or the same Porter stem where beyond
  at least three common letters only inflectional endings differ.
- **overwritten**: linked with another word (a *contested* link), and p₀(rebuilt) > p₀(source): the
  decoder without memory (TF on the rebuilt tokens before) finds it likelier at the first token at
  which the two words part. A tie is not overwritten.
- **replaced** (source), **invented** (rebuilt): the two sides of any other contested link. A
  rebuilt word without a link is invented too; a source word without one is **lost**.
- **unattributed**: contested links whose two words do not part at a single token, so that the
  decoder without memory cannot compare them. They count as replaced and invented.
- **departure**: a rebuilt word, neither copied nor paraphrased, at the beginning or after one that
  is. What follows it follows from the decoder's own words.
- Of each rebuilt word: its *entropy*, –Σ p ln p with the memory, the largest of its tokens' (TF on
  its own tokens, nats); *p* with the memory and without, the product over its tokens; of a
  contested one ln p of the rebuilt token less ln p of the source's, with the memory and without.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from nltk.stem.porter import PorterStemmer

SOURCE = ("copied", "paraphrased", "overwritten", "replaced", "lost")
REBUILT = ("copied", "paraphrased", "overwritten", "invented")
KEPT = ("copied", "paraphrased")
SIDES = {
    "source": ("all", *SOURCE),
    "rebuilt": ("all", *REBUILT),
    "departure": ("all", *(label for label in REBUILT if label not in KEPT)),
}
VERSION = 1  # of the definitions; a page made by another one is made again

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # as in edits.py: a word or one punctuation mark
_GENITIVE = re.compile(r"['’]s$")
# What English adds to a word for number, person and tense, and what it takes off before it.
_ENDINGS = frozenset(["", "s", "es", "d", "ed", "ing", "e", "y", "ies", "ied", "ying"])
_SHARED = 3  # letters that two forms of a word have in common at least
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_stemmer = PorterStemmer()


class Word(NamedTuple):
    """A word or a punctuation mark, at the characters [start, end) of its text."""

    text: str
    start: int
    end: int


class Link(NamedTuple):
    """Word `source` of the source stands where word `rebuilt` of the rebuilt text stands."""

    source: int
    rebuilt: int


class Attribution(NamedTuple):
    """One label a word: of the source (see SOURCE) and of the rebuilt text (see REBUILT)."""

    source: tuple[str, ...]
    rebuilt: tuple[str, ...]


def words(text: str) -> list[Word]:
    return [Word(m[0], *m.span()) for m in _WORD.finditer(text)]


@cache
def same_form(a: str, b: str) -> bool:
    """Are two different words one word in two forms (*paraphrased*, see above)? "general"
    and "generous", of one Porter stem, are two words; "even" and "evening" are taken for forms."""
    x, y = _plain(a), _plain(b)
    if x == y:
        return True
    if not (x.isalpha() and y.isalpha()) or _stemmer.stem(x) != _stemmer.stem(y):
        return False
    shared = next(x[:k] for k in range(len(x), -1, -1) if y.startswith(x[:k]))
    return len(shared) >= _SHARED and all(_is_ending(w, shared) for w in (x, y))


def align(source: Sequence[str], rebuilt: Sequence[str]) -> list[Link]:
    """One-to-one links between the words of two texts, in the order of the source."""
    out = []
    matcher = difflib.SequenceMatcher(None, source, rebuilt, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            out += [Link(i1 + k, j1 + k) for k in range(i2 - i1)]
        elif tag == "replace":
            near = _link_replaced(source[i1:i2], rebuilt[j1:j2])
            out += [Link(i1 + link.source, j1 + link.rebuilt) for link in near]
    return sorted(out)


def contested(source: Sequence[str], rebuilt: Sequence[str], links: Iterable[Link]) -> list[Link]:
    """The links of which the rebuilt side is another word, not another form."""
    pairs = ((link, source[link.source], rebuilt[link.rebuilt]) for link in links)
    return [link for link, a, b in pairs if a != b and not same_form(a, b)]


def attribute(
    source: Sequence[str],
    rebuilt: Sequence[str],
    links: Iterable[Link],
    preferred: Collection[Link],
) -> Attribution:
    """Exactly one label for every word of both texts, by the `links` of `align`. `preferred`: the
    contested ones at which the decoder without memory finds the rebuilt word likelier."""
    out_source, out_rebuilt = ["lost"] * len(source), ["invented"] * len(rebuilt)
    for link in links:
        a, b = source[link.source], rebuilt[link.rebuilt]
        if a == b:
            label = "copied"
        elif same_form(a, b):
            label = "paraphrased"
        elif link in preferred:
            label = "overwritten"
        else:
            label = "replaced"
        out_source[link.source] = label
        out_rebuilt[link.rebuilt] = "invented" if label == "replaced" else label
    return Attribution(tuple(out_source), tuple(out_rebuilt))


def departures(labels: Sequence[str]) -> list[bool]:
    """Of each rebuilt word: does the text leave the source here?"""
    here = [label not in KEPT for label in labels]
    return [now and not before for now, before in zip(here, [False, *here], strict=False)]


def counts(found: Iterable[Attribution]) -> dict[str, int]:
    """Words by label, summed: `source/<label>`, `rebuilt/<label>` and `departure/<label>` (the
    rebuilt words that `departures` names); `<side>/all` is the sum of its labels."""
    total: Counter[str] = Counter()
    for one in found:
        left = itertools.compress(one.rebuilt, departures(one.rebuilt))
        for side, labels in (*one._asdict().items(), ("departure", left)):
            total.update(f"{side}/{name}" for label in labels for name in (label, "all"))
    return {f"{side}/{x}": total[f"{side}/{x}"] for side, all_ in SIDES.items() for x in all_}


def _link_replaced(source: Sequence[str], rebuilt: Sequence[str]) -> list[Link]:
    blocks = difflib.SequenceMatcher(
        None, [_key(w) for w in source], [_key(w) for w in rebuilt], autojunk=False
    ).get_matching_blocks()  # the last one is empty, at both ends
    out = [Link(a + k, b + k) for a, b, size in blocks for k in range(size)]
    for (a, b, size), after in itertools.pairwise([difflib.Match(0, 0, 0), *blocks]):
        for mark in (False, True):
            left = [i for i in range(a + size, after.a) if _is_mark(source[i]) == mark]
            right = [j for j in range(b + size, after.b) if _is_mark(rebuilt[j]) == mark]
            out += map(Link, left, right)
    return out


def _is_mark(word: str) -> bool:
    return not (word[0].isalnum() or word[0] == "_")


@cache
def _key(word: str) -> str:
    plain = _plain(word)
    return _stemmer.stem(plain) if plain.isalpha() else plain


def _plain(word: str) -> str:
    plain = _GENITIVE.sub("", word.casefold()) or word
    return _DIGITS.get(plain, plain)


def _is_ending(word: str, shared: str) -> bool:
    rest = word[len(shared) :]
    # A doubled consonant belongs to the ending: stop, stop-ped.
    return rest in _ENDINGS or (rest[:1] == shared[-1] and rest[1:] in ("ed", "ing"))
