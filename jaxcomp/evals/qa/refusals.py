"""Does an answer say that the passage does not tell? By rules: a base model answers in sentences,
and a name may hold the words of a refusal (the Unknown Soldier)."""

from __future__ import annotations

import re

from jaxcomp.evals.qa import squad

# As SQuAD's normalisation leaves them, without articles and apostrophes. Whatever follows the
# first ones, it is a refusal; the others are words of names and of other sentences too.
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
    "it", "its", "it is", "that is", "thats", "this is", "there is", "question is", "answer is",
    "in passage", "in text", "passage", "text", "sorry", "unfortunately",
)  # fmt: skip
_AFTER = (
    "here", "who", "whom", "whose", "what", "when", "where", "which", "why",
    "how", "if", "whether", "about", "passage", "based", "to question",
    "is given", "is provided",
)  # fmt: skip


def _any(words: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(words)})"


_REFUSAL = re.compile(
    rf"(?:{_any(_BEFORE)} )*(?:{_any(_SENTENCES)}(?: .*)?|{_any(_WORDS)}(?: {_any(_AFTER)}\b.*)?)"
    rf"|.*\b{_any(REFUSALS)} (?:in|by|from) (?:this |given )?(?:passage|text)\b.*"
)


def refuses(answer: str) -> bool:
    """It does where it normalises to nothing; where it is one of REFUSALS, or begins with one and
    goes on as a refusal does ("who", "whether" ...), perhaps after words such as "it is" or
    "the passage"; or where one of REFUSALS stands before "in the passage" or the like."""
    said = squad.normalise(answer)
    return not said or _REFUSAL.fullmatch(said) is not None
