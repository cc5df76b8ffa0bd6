"""Rules that falsify a sentence of real text by one minimal edit.

They use closed word lists (word_lists.py) and word order, no parser: a rule would rather find
nothing than break the grammar. docs/explanation/minimal-pairs.md says how often they are right. The
rules of roles are in roles.py; negations and numbers are found by `evals.metrics.edits`.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from jaxcomp.evals.metrics.edits import Edit, make_edits, names
from jaxcomp.evals.pairs import word_lists as w
from jaxcomp.evals.pairs.changes import Change, Spot, any_of, change, changed
from jaxcomp.evals.pairs.roles import plural, role_spots

DIMENSIONS = ("topic", "relation", "role", "modifier", "polarity", "quantity", "order")


class TwinRules:
    """The rules, and the names and themes of the texts that they may take words from.

    `spots(i, dimension, rng)` are those of text i; pure in its arguments and the texts.
    """

    def __init__(self, texts: Sequence[str], seed: int):
        self.texts = texts
        self._names = [n for n in names(texts) if n not in _ADJ and not n.endswith(w.OF_NATIONS)]
        self._known = frozenset(self._names)
        self._places = self._known & {p for text in texts for p in _PLACE.findall(text)}
        self._themes = sorted({t for text in texts for t in _theme_nouns(text)})
        self._edits: dict[int, list[Edit]] = {}
        for edit in make_edits(texts, len(texts), seed):
            self._edits.setdefault(edit.source, []).append(edit)

    def spots(self, i: int, dimension: str, rng: random.Random) -> list[Spot]:
        """Every place of text i where a rule of that dimension applies."""
        text = self.texts[i]
        if dimension == "topic":
            found = self._topics(text, rng)
        elif dimension == "role":
            found = role_spots(text, self._known)
        else:
            found = _RULES[dimension](text, rng)
        spots = [*found, *self._borrowed(i, dimension, rng)]
        return [s for s in spots if s.changes[0].start > 0 and changed(text, s.changes) != text]

    def _borrowed(self, i: int, dimension: str, rng: random.Random) -> Iterator[Spot]:
        for edit in self._edits.get(i, []):
            if _BORROWED.get(edit.kind) != dimension:
                continue
            rule, new = edit.kind, edit.new
            if edit.kind == "negation":
                rule = "negated" if " not " in new else "affirmed"
                if new.split()[-1] in w.NOT_NEGATED:
                    continue
            if _YEAR.fullmatch(edit.original):
                rule, new = "year", _other_year(edit.original, self.texts[i], rng)
            elif self._of_a_clock(edit):
                continue
            yield Spot(rule, (Change(edit.control_start, edit.control_end, new),))

    def _of_a_clock(self, edit: Edit) -> bool:
        """A day of a month or an hour, which few other numbers could be."""
        text = self.texts[edit.source]
        around = text[: edit.control_start][-12:], text[edit.control_end :][:12]
        return bool(_MONTH.search(around[0]) or _CLOCK.match(around[1]))

    def _topics(self, text: str, rng: random.Random) -> Iterator[Spot]:
        """What a text speaks of twice or more, everywhere replaced by another text's."""
        counts = Counter(_CAPITAL.findall(text))
        alone = Counter(_ALONE.findall(text))
        for name, n in counts.items():
            if n >= 2 and alone[name] == n and name in self._known:
                same = [n for n in self._names if (n in self._places) == (name in self._places)]
                yield from _everywhere("name", text, name, same, rng)
        for noun in _theme_nouns(text):
            same = [t for t in self._themes if _shape(t) == _shape(noun)]
            yield from _everywhere("theme", text, noun, same, rng)


def _everywhere(
    rule: str, text: str, word: str, values: Sequence[str], rng: random.Random
) -> Iterator[Spot]:
    present = set(re.findall(r"\w+", text.lower()))
    free = [v for v in values if v.lower() not in present]
    if free:
        new = rng.choice(free)
        spans = [m.span() for m in re.finditer(rf"\b{word}\b", text)]
        yield Spot(rule, tuple(Change(start, end, new) for start, end in spans))


def _theme_nouns(text: str) -> list[str]:
    """Nouns that stand at least twice in a text, each time as the head after a determiner."""
    heads = Counter(m for m in _HEAD.findall(text) if m not in w.FUNCTION)
    twice = [noun for noun, n in heads.items() if n >= 2]
    every = Counter(re.findall(r"[a-z]+", text.lower())) if twice else Counter()
    return sorted(noun for noun in twice if every[noun] == heads[noun])


def _relation(text: str, rng: random.Random) -> Iterator[Spot]:
    for pattern, table in ((_PAST_VERB, _PAST), (_BASE_VERB, _BASE)):
        for m in pattern.finditer(text):
            yield _one("verb", m, "v", rng.choice(table[m["v"]]))
    for m in _DEED.finditer(text):
        yield _one("deed", m, "v", rng.choice([v for v in w.DEEDS if v != m["v"]]))


def _modifier(text: str, rng: random.Random) -> Iterator[Spot]:
    found = []
    for m in _ADJECTIVE.finditer(text):
        if m["n"] in w.FUNCTION or text.count(f"{m['v']} {m['n']}") > 1:
            continue
        found.append(m)
        alike = [o for o in _ADJ[m["v"]] if _fits(m["d"], m["v"], o)]
        if alike:
            yield _one("adjective", m, "v", rng.choice(alike))
    for one, two in itertools.pairwise(found):
        a, b = one["v"], two["v"]
        same = a == b or b in _ADJ[a] or one["n"] == two["n"] or a[0].isupper() != b[0].isupper()
        apart = re.search(r"[.;:!?]", text[one.end() : two.start()])
        if not same and not apart and _fits(one["d"], a, b) and _fits(two["d"], b, a):
            yield Spot("exchanged", (change(one, "v", b), change(two, "v", a)))


def _fits(determiner: str, old: str, new: str) -> bool:
    """The article before it stays right."""
    return determiner not in ("a", "an") or _vowel(old) == _vowel(new)


def _polarity(text: str, rng: random.Random) -> Iterator[Spot]:
    for m in _CONTRARY.finditer(text):
        group = "v" if m["v"] else "w"
        yield _one("contrary", m, group, _CONTRARIES[m[group]][0])


def _quantity(text: str, rng: random.Random) -> Iterator[Spot]:
    for m in _QUANTIFIER.finditer(text):
        if m["before"].lower() not in _MEASURED and text.count(f"{m['v']} {m['n']}") == 1:
            yield _one("quantifier", m, "v", {"many": "few", "few": "many"}[m["v"]])


def _order(text: str, rng: random.Random) -> Iterator[Spot]:
    for pattern in (_BEFORE, _LATER, _NEXT):
        for m in pattern.finditer(text):
            yield _one("turned", m, "v", _TURNED[m["v"]])
    for m in _ORDINAL.finditer(text):
        if m["n"] not in w.FUNCTION | w.NOT_COUNTED and text.count(f"{m['v']} {m['n']}") == 1:
            yield _one("ordinal", m, "v", rng.choice([v for v in w.ORDINALS if v != m["v"]]))
    for sentence in re.finditer(r"[^.!?\n]+", text):
        years = list(_YEAR.finditer(text, *sentence.span()))
        if len(years) == 2 and years[0][0] != years[1][0] and not _RANGE.search(sentence[0]):
            first, second = years
            if second.start() - first.end() < 8:  # "in 1980 and 1981" has no order
                continue
            yield Spot("years", (change(first, 0, second[0]), change(second, 0, first[0])))


def _one(rule: str, m: re.Match, group: str, new: str) -> Spot:
    return Spot(rule, (change(m, group, new),))


def _other_year(year: str, text: str, rng: random.Random) -> str:
    """A year of the same century, at most 30 away, that does not stand in the text."""
    near = range(max(int(year) - 30, int(year[:2] + "00")), min(int(year) + 31, 2030))
    return str(rng.choice([y for y in near if str(y)[:2] == year[:2] and str(y) not in text]))


def _vowel(word: str) -> bool:
    return word[0].lower() in "aeiou"


def _shape(noun: str) -> tuple[bool, bool]:
    return plural(noun), _vowel(noun)


_PAST, _BASE, _ADJ = w.others(w.PAST), w.others(w.BASE), w.others(w.ADJECTIVES)
_PREDICATES = w.others(w.PREDICATES)
_CONTRARIES = _PREDICATES | w.others(w.CONTRARIES)
_DET = "the|this|these|those|his|its|their|our|my|your"
_YEAR = re.compile(r"(?<![\w.,$£'-])(?:1\d|20[012])\d{1,2}(?<=\b\d{4})(?![\w'-]|[.,]\d)")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_MONTH = re.compile(rf"(?:{_MONTHS}) $")
_CLOCK = re.compile(rf" (?:(?:of )?(?:{_MONTHS})|o'clock|[ap]\.?m)")
_RANGE = re.compile(r"(?:from|between|[Ff]rom|[Bb]etween) (?:\w+ ){0,3}1\d{3} (?:to|and|until)")
_CAPITAL = re.compile(r"\b[A-Z][a-z]{2,}\b")
# With a lower-case word or a comma before, so no first name or title, and no name after it.
_ALONE = re.compile(r"(?<=[a-z,;] )([A-Z][a-z]{2,})\b(?! [A-Z]|['’-][A-Z]|-)")
_PLACE = re.compile(r"\b(?:in|at|from) ([A-Z][a-z]{2,})(?![\w'’-]| [A-Z])")
_HEAD = re.compile(
    rf"\b(?:the|his|their|its|our|my|your) ([a-z]{{4,}})(?=[.,;:]| (?:{w.AFTER_HEAD})\b)"
)
_PAST_VERB = re.compile(
    r"\b(?!(?:be|been|being|is|are|was|were|by|and|or|a|an|the|of) )[A-Za-z]+ "
    rf"(?P<v>{any_of(_PAST)}) (?=(?:{_DET}|a|an|all|every)\b)"
)
_BASE_VERB = re.compile(
    rf"\b(?:to|will|would|can|could|shall|should|must|may|might|not) (?P<v>{any_of(_BASE)})"
    rf" (?=(?:{_DET}|a|an|all|every)\b)"
)
_DEED = re.compile(
    rf"\b(?:[Hh]e|[Ss]he|[Tt]hey|[Ww]e|I|who|[A-Z][a-z]+) (?P<v>{any_of(w.DEEDS)}) "
    rf"(?=(?:him|them|me|us)(?:[.,;!?]| (?:in|on|at|and|for|when|with|after|before)\b))"
)
_ADJECTIVE = re.compile(
    rf"\b(?P<d>{w.DETERMINERS}|of|in|with|by|for) (?P<v>{any_of(_ADJ)})(?= (?P<n>[a-z]{{3,}})\b)"
)
_CONTRARY = re.compile(
    rf"\b(?:(?:is|was|are|were|be|been|seems|seemed) (?P<v>{any_of(_PREDICATES)})"
    rf"|[a-z]+ (?P<w>always|never|everything|nothing|everybody|nobody))\b(?!['’-])"
)
_QUANTIFIER = re.compile(
    r"\b(?P<before>[A-Za-z]+,?) (?P<v>many|few) (?!of\b)(?P<n>(?!years|as\b|this)[a-z]+s)\b"
)
_MEASURED = w.words_of("a as how so too great very quite not no good the these those that")
_TURNED = {
    "before": "after", "after": "before", "later": "earlier", "earlier": "later",
    "next": "previous", "previous": "next", "following": "preceding", "preceding": "following",
}  # fmt: skip
_BEFORE = re.compile(
    r"(?<!day )(?<!year )(?<!week )(?<!look )(?<!looked )\b(?P<v>before|after)"
    rf"(?= (?:he|she|they|we|I) (?!['’])[a-z]+| (?:(?:{_DET}) )?(?:{any_of(w.NAMES_OF_TIME)})\b|"
    r" (?:in )?1\d{3}\b|"
    r" (?!having|being|during|king|evening|morning|spring|\w*thing)[a-z]{3,}ing\b)"
)
_ORDINAL = re.compile(rf"\b[Tt]he (?P<v>{any_of(w.ORDINALS)}) (?P<n>[a-z]{{3,}})\b(?! of the year)")
_LATER = re.compile(rf"\b(?:{w.SPANS}) (?P<v>later|earlier)\b(?! than)")
_NEXT = re.compile(
    rf"\b(?:[Tt]he) (?P<v>next|previous|following|preceding)(?= (?:{w.SPANS}|morning|evening|night|"
    r"session|summer|winter|spring|autumn)\b)"
)
_BORROWED = {"negation": "polarity", "number": "quantity"}
_RULES: dict[str, Callable[[str, random.Random], Iterator[Spot]]] = {
    "relation": _relation, "modifier": _modifier, "polarity": _polarity,
    "quantity": _quantity, "order": _order,
}  # fmt: skip
