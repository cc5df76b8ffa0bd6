"""Rules that exchange who does what to whom in a sentence of real text.

They use closed word lists and word order, no parser: a rule would rather find nothing than break
the grammar. `active` and `passive` turn the verb and leave the nouns where they are, so nothing but
a form of "be" has to agree: "he accepted the offer" / "he was accepted by the offer".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from jaxcomp.evals.pairs import word_lists as w
from jaxcomp.evals.pairs.changes import Change, Spot, any_of, change, exchange


def role_spots(text: str, known: Collection[str]) -> Iterator[Spot]:
    """Every place where a rule applies. `known`: words that are names."""
    for pattern in (_NAMES, _FROM_NAMES):
        for m in pattern.finditer(text):
            words = f"{m['a']} {m['b']}".split()
            if m["a"] != m["b"] and all(_is_name(word, known) for word in words):
                yield exchange("names", m)
    for m in _PRONOUNS.finditer(text):
        a, b = m["a"].lower(), m["b"]
        if _OBJECT[a] != b:
            first = _SUBJECT[b] if m["a"][0].islower() or a == "i" else _SUBJECT[b].capitalize()
            if a == "i" and m.start() and text[m.start() - 2] in '.!?"\n':
                first = first.capitalize()
            yield Spot("pronouns", (change(m, "a", first), change(m, "b", _OBJECT[a])))
    yield from _to_passive(text, known)
    yield from _to_active(text)


def _to_passive(text: str, known: Collection[str]) -> Iterator[Spot]:
    for m in _PERFECT.finditer(text):
        if m["v"] not in w.NOT_PASSIVE:
            yield _one("active", m, f"been {m['v']} by")
    for m in _FUTURE.finditer(text):
        yield _one("active", m, f"be {_PARTICIPLE[m['v']]} by")
    for m in _GERUND.finditer(text):
        yield _one("active", m, f"being {_PARTICIPLE[_BASE_OF_GERUND[m['v']]]} by")
    for m in _PAST.finditer(text):
        be = _BE.get(m["s"].lower())
        if m["noun"]:
            noun = m["noun"] not in w.FUNCTION | w.PARTS and not m["noun"].endswith("ly")
            be = noun and ("were" if plural(m["noun"]) else "was")
        elif _is_name(m["s"], known):
            be = "was"
        if be and m["v"] not in w.NOT_PASSIVE:
            yield _one("active", m, f"{be} {m['v']} by")


def _to_active(text: str) -> Iterator[Spot]:
    for m in _PASSIVE.finditer(text):
        yield _one("passive", m, m["v"] or m["w"])
    for m in _PASSIVE_NOW.finditer(text):
        base = _BASE_OF[m["v"]]
        yield _one("passive", m, _third_person(base) if m["be"] == "is" else base)


def plural(noun: str) -> bool:
    return noun in w.PLURALS or (noun.endswith("s") and not noun.endswith("ss"))


def _is_name(word: str, known: Collection[str]) -> bool:
    return word in known and not word.endswith(w.OF_NATIONS)


def _one(rule: str, m: re.Match, new: str) -> Spot:
    return Spot(rule, (Change(m.start("old"), m.end("old"), new),))


def _participle(base: str) -> str:
    if base[-1] == "y" and base[-2] not in "aeiou":
        return f"{base[:-1]}ied"
    return w.IRREGULAR.get(base) or (f"{base}d" if base[-1] == "e" else f"{base}ed")


def _third_person(base: str) -> str:
    if base[-1] == "y" and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return f"{base}es" if base.endswith(("s", "sh", "ch", "x", "z")) else f"{base}s"


_PARTICIPLE = {base: _participle(base) for base in w.TRANSITIVE}
_BASE_OF = {participle: base for base, participle in _PARTICIPLE.items()}
_BASE_OF_GERUND = {f"{base.removesuffix('e')}ing": base for base in w.TRANSITIVE - w.DOUBLED}
_VERBS = rf"(?:[a-z]{{2,}}ed|{any_of(w.PARTICIPLES)})"
_THING = (
    rf"(?:(?:the|a|an|his|her|their|our|my|your|its|this|these|those) (?!(?:{w.NO_AGENT})\b)[a-z]"
    r"|[A-Z][a-z]+ )"
)
_BE = {"he": "was", "she": "was", "it": "was", "i": "was", "they": "were", "we": "were",
       "you": "were"}  # fmt: skip
_PERFECT = re.compile(rf"\b(?:had|has|have) (?P<old>(?P<v>{_VERBS}))(?= {_THING})")
_FUTURE = re.compile(
    r"\b(?:to|will|would|can|could|shall|should|must|may|might) "
    rf"(?P<old>(?P<v>{any_of(w.TRANSITIVE)}))(?= {_THING})"
)
_GERUND = re.compile(
    r"\b(?:by|of|for|in|without|from|after|before|while) "
    rf"(?P<old>(?P<v>{any_of(_BASE_OF_GERUND)}))(?= {_THING})"
)
_PAST = re.compile(
    r"(?<!\band )(?<!\bor )(?<!\bof )(?<!\bin )(?<!\bto )(?<!\bby )(?<!\bon )(?<!\bfor )"
    r"(?<!\bfrom )(?<!\bwith )(?<!\bat )"
    r"\b(?P<s>[Hh]e|[Ss]he|[Ii]t|[Tt]hey|[Ww]e|I|[Yy]ou|[Tt]he (?P<noun>[a-z]{3,})|[A-Z][a-z]+) "
    rf"(?P<old>(?P<v>[a-z]{{2,}}ed|{any_of(w.PAST_PARTICIPLES)}))(?= {_THING})"
)
_ONE_AGENT = r"(?![^.;]{0,80}\b(?:and|or|but) (?:\w+ )?by\b)"
_PASSIVE = re.compile(
    rf"\b(?P<old>(?:been (?P<v>{_VERBS})|(?:was|were) (?P<w>[a-z]{{2,}}ed|"
    rf"{any_of(w.PAST_PARTICIPLES)})) by)(?= {_THING}){_ONE_AGENT}"
)
_PASSIVE_NOW = re.compile(
    rf"\b(?P<old>(?P<be>is|are|be) (?P<v>{any_of(_BASE_OF)}) by)(?= {_THING}){_ONE_AGENT}"
)
_NAME = r"[A-Z][a-z]+(?: [A-Z][a-z]+)*"
_OPENERS = any_of(word.capitalize() for word in w.FUNCTION)
_ENDS = rf"(?=[.,;:!?]| (?:{w.AFTER_HEAD})\b)(?! (?:of|and)\b)"
_NAMES = re.compile(
    rf"(?<![A-Z.]\s)(?<![Tt]he )(?<![\w'’-])(?!(?:{_OPENERS})\b)(?P<a>{_NAME}) "
    rf"(?:{any_of(w.PARTICIPLES)}|saw|knew|beat|fought|wrote|[a-z]+ed) (?P<b>{_NAME}){_ENDS}"
)
_FROM_NAMES = re.compile(rf"\b[Ff]rom (?P<a>{_NAME}) to (?P<b>{_NAME}){_ENDS}")
_SUBJECT = {"him": "he", "her": "she", "them": "they", "me": "I", "us": "we"}
_OBJECT = {v.lower(): k for k, v in _SUBJECT.items()}
# "her" before a noun is possessive: only before what cannot begin one.
_PRONOUNS = re.compile(
    rf"\b(?P<a>[Hh]e|[Ss]he|[Tt]hey|[Ww]e|I) (?:{any_of(w.TOLD)}) (?P<b>him|her|them|me|us)"
    r"(?=[.,;!?]| (?:to|that|in|on|at|and|a|an|the|for|when|with|how|what|about)\b)"
)
