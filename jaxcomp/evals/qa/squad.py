"""SQuAD 1.1's scores, by the rules of its official script, evaluate-v1.1.py (Rajpurkar et al. 2016,
arXiv 1606.05250): a greedy answer against gold answers, the best of which counts. And what is no
answer: a refusal."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the; single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(answer: str, golds: Sequence[str]) -> bool:
    """Does the answer normalise to what a gold answer does?"""
    return normalise(answer) in map(normalise, golds)


def f1(answer: str, golds: Sequence[str]) -> float:
    """The largest F1 of the answer's words and a gold answer's, normalised, counted with repeats:
    0 to 1; 0 where they share no word, nothing against nothing included; 0 without golds."""
    words = normalise(answer).split()
    return max((_f1(words, normalise(gold).split()) for gold in golds), default=0.0)


def holds(text: str, golds: Sequence[str]) -> bool:
    """Does a gold answer stand in the text, as whole words after normalising? Not SQuAD's rule."""
    said = f" {normalise(text)} "
    return any(f" {normalise(gold)} " in said for gold in golds)


def _f1(said: list[str], gold: list[str]) -> float:
    same = sum((Counter(said) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)


# --- refusals -------------------------------------------------------------------------------------

# By rules: a base model answers in sentences, and a name may hold the words of a refusal (the
# Unknown Soldier). As SQuAD's normalisation leaves them, without articles and apostrophes. Whatever
# follows the first ones, it is a refusal; the others are words of other sentences too.
_SENTENCES = (
    "cannot be answered", "cannot be determined", "not enough information", "i do not know",
    "i dont know",
    *(
        f"{does} {tell}"
        for does in ("does not", "doesnt")
        for tell in ("say", "state", "mention", "specify", "provide", "tell")
    ),
)  # fmt: skip
_WORDS = (
    "unanswerable", "not answerable", "not stated", "not mentioned", "not given", "not specified",
    "not provided", "not said", "not known", "unknown", "no answer", "no information",
)  # fmt: skip
REFUSALS = (*_SENTENCES, *_WORDS)
_BEFORE = (
    "it|its|it is|that is|thats|this is|there is|question is|answer is|in passage|in text|passage|"
    "text|sorry|unfortunately"
)
_AFTER = (
    "here|who|whom|whose|what|when|where|which|why|how|if|whether|about|passage|based|to question|"
    "is given|is provided"
)
_REFUSAL = re.compile(
    rf"(?:(?:{_BEFORE}) )*"
    rf"(?:(?:{'|'.join(_SENTENCES)})(?: .*)?|(?:{'|'.join(_WORDS)})(?: (?:{_AFTER})\b.*)?)"
    rf"|.*\b(?:{'|'.join(REFUSALS)}) (?:in|by|from) (?:this |given )?(?:passage|text)\b.*"
)


def refuses(answer: str) -> bool:
    """Does an answer say that the passage does not tell? It does where it normalises to nothing;
    where it is one of REFUSALS, or begins with one and goes on as a refusal does ("who", "whether"
    ...), perhaps after words such as "it is" or "the passage"; or where one of REFUSALS stands
    before "in the passage" or the like."""
    said = normalise(answer)
    return not said or _REFUSAL.fullmatch(said) is not None
