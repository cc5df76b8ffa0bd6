"""Items of RULER (Hsieh et al. 2024, arXiv 2404.06654), generated from a seed: needles in a
haystack, and variable tracking.

A needle gives a key its value, "One of the special magic numbers for red-plum-sofa is: 4831077.";
the question names keys and expects their values. Haystacks: `noise` (five sentences repeated),
`essay` (a text of the user's), `needles` (further needles, of other keys). In variable tracking one
value is assigned along a chain of five variables, all of which are expected.

The sizes of the tasks, needles, questions and beginnings of answers are the paper's. The words of
keys are ours; the one example that RULER puts before variable tracking is left out.
"""

from __future__ import annotations

import bisect
import itertools
import random
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxcomp.data import lexicon as lx
from jaxcomp.data.sentences import sentences
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.qa.items import EvalError, Item
from jaxcomp.runtime import live


class Niah(NamedTuple):
    """A task of needles. `keys`: needles of the asked kind; `values` of each; `asked`: keys that
    the question names."""

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    asked: int = 1


VT = "vt"
NIAH = {
    "niah_single_1": Niah("noise"),
    "niah_single_2": Niah("essay"),
    "niah_single_3": Niah("essay", value="uuids"),
    "niah_multikey_1": Niah("essay", keys=4),
    "niah_multikey_2": Niah("needles"),
    "niah_multikey_3": Niah("needles", "uuids", "uuids"),
    "niah_multivalue": Niah("essay", values=4),
    "niah_multiquery": Niah("essay", keys=4, asked=4),
}
TASKS = (*NIAH, VT)
PER_TASK = 500  # items, as in RULER
HOPS = 4  # of variable tracking
NOISE = (
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.",
    "There and back again.",
)  # fmt: skip
_ADJECTIVES = (*lx.COLOURS, *lx.MATERIALS, *lx.SIZES, *lx.MOODS)
_NOUNS = (*lx.COLOUR_OF, *lx.MATERIAL_OF, *lx.SIZE_OF, *lx.PROFESSIONS)
_MADE: dict[str, Callable[[random.Random], str]] = {
    # Three words: of two there are fewer than a haystack of 64 thousand tokens needs.
    "words": lambda rng: "-".join(map(rng.choice, (_ADJECTIVES, _NOUNS, _NOUNS))),
    "numbers": lambda rng: str(rng.randint(10**6, 10**7 - 1)),
    "uuids": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "names": lambda rng: "".join(rng.choices(string.ascii_uppercase, k=5)),
}
Hay = Callable[[int], list[str]]  # so many sentences or needles, in the parts between needles


class _Drawn(NamedTuple):
    """What one item hides in its haystack, in this order, and expects."""

    head: str
    needles: list[str]
    hay: Hay
    between: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]


def items(
    tok: Tokenizer, length: int, count: int = PER_TASK, *, seed: int = 0, essay: str = ""
) -> list[Item]:
    """Return the items of all tasks, `count` of each, named `<task>/<number>`.

    Args:
      tok: the compressor's tokenizer, in whose tokens a context is measured.
      length: most tokens of a context; one more sentence or needle would exceed it.
      count: items of each task; the first ones are the same for any count.
      seed: of everything drawn.
      essay: text of the essay haystack; without it `noise` takes its place, and a task that then
        equals another is left out.

    Raises:
      EvalError: `length` has no room for the needles of a task.
      TokenizerError: the tokenizer lacks a character.
    """
    texts = [" ".join(essay[a:b].split()) for a, b in sentences(essay)] if essay.strip() else []
    tasks: dict[str, Niah | None] = {}
    for name, kind in NIAH.items():
        plain = not texts and kind.haystack == "essay"
        kind = kind._replace(haystack="noise") if plain else kind
        if kind not in tasks.values():
            tasks[name] = kind
    tasks[VT] = None
    out: list[Item] = []
    with live.phase("generating items", len(tasks) * count, "items") as row:
        for name, kind in tasks.items():
            most = None
            for number in range(count):
                rng = random.Random(f"{seed}/{name}/{number}")
                drawn = _niah(kind, rng, texts) if kind else _variables(rng)
                context, n = _fitted(drawn, tok, length, rng, most, name)
                most = most or n
                asked = drawn.question, context, drawn.answers
                out.append(Item(f"{name}/{number}", *asked, answer_prefix=drawn.answer_prefix))
                row.done += 1
    return out


def task_of(name: str) -> str:
    """The task of an item's id."""
    return name.partition("/")[0]


def recall(answer: str, expected: tuple[str, ...]) -> float:
    """The share of the expected texts that stand in an answer, in any case (`string_match_all`)."""
    said = answer.lower()
    return sum(one.lower() in said for one in expected) / len(expected)


def _niah(kind: Niah, rng: random.Random, essay: Sequence[str]) -> _Drawn:
    taken: set[str] = set()
    read = essay if kind.haystack == "essay" else []

    def new(what: str) -> str:
        while (made := _MADE[what](rng)) in taken or any(made in text for text in read):
            pass
        return made

    def needle(key: str) -> str:
        value = new(kind.value)
        taken.add(value)
        values.setdefault(key, []).append(value)
        return f"One of the special magic {kind.value} for {key} is: {value}."

    values: dict[str, list[str]] = {}
    needles = []
    for _ in range(kind.keys):
        key = new(kind.key)
        taken.add(key)
        needles += [needle(key) for _ in range(kind.values)]
    rng.shuffle(needles)
    asked = rng.sample(list(values), kind.asked)
    answers = tuple(value for key in asked for value in values[key])
    others: list[str] = []  # further ones are drawn as they are needed

    def distractors(n: int) -> list[str]:
        while len(others) < n:
            others.append(needle(new(kind.key)))
        return others[:n]

    about = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
    what, one = kind.value, len(answers) == 1
    some, be, every = ("A", "is", "is the") if one else ("Some", "are", "are all the")
    noun = what[:-1] if one else what
    hays: Mapping[str, Hay] = {
        "noise": _noise,
        "essay": lambda n: [essay[i % len(essay)] for i in range(n)],
        "needles": distractors,
    }
    return _Drawn(
        f"{some} special magic {noun} {be} hidden within the following text. Make sure to memorize "
        f"it. I will quiz you about the {noun} afterwards.",
        needles,
        hays[kind.haystack],
        " " if kind.haystack == "essay" else "\n",
        f"What {every} special magic {noun} for {about} mentioned in the provided text?",
        f"The special magic {noun} for {about} mentioned in the provided text {be}",
        answers,
    )


def _variables(rng: random.Random) -> _Drawn:
    names: list[str] = []
    while len(names) <= HOPS:
        if (name := _MADE["names"](rng)) not in names:
            names.append(name)
    value = str(rng.randint(10000, 99999))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {b} = VAR {a}" for a, b in itertools.pairwise(names)]
    return _Drawn(
        "Memorize and track the chain(s) of variable assignment hidden in the following text.",
        chain,
        _noise,
        "\n",
        f"Find all variables that are assigned the value {value} in the text above.",
        "According to the chain(s) of variable assignment in the text above, "
        f"{len(names)} variables are assigned the value {value}, they are:",
        tuple(names),
    )


def _noise(n: int) -> list[str]:
    """`n` sentences in groups of five."""
    size = len(NOISE)
    return [" ".join(NOISE[: min(size, n - i)]) for i in range(0, n, size)]


def _fitted(
    drawn: _Drawn, tok: Tokenizer, length: int, rng: random.Random, most: int | None, name: str
) -> tuple[str, int]:
    """The longest context of at most `length` tokens, and its sentences or needles of haystack.
    `most`: about how many there will be. A needle's depth is uniform, whatever the length."""
    depths = sorted(rng.random() for _ in drawn.needles)

    def context(n: int) -> str:
        parts = drawn.hay(n)
        places = [int(depth * (len(parts) + 1)) for depth in depths]
        for place, needle in reversed(list(zip(places, drawn.needles, strict=True))):
            parts.insert(place, needle)
        return f"{drawn.head}\n{drawn.between.join(parts)}"

    def size(n: int) -> int:
        return len(tok.encode(context(n)))

    if (least := size(1)) > length:
        raise EvalError(
            f"--length={length}: a context of {name} has at least {least} tokens of the "
            "compressor; give a larger --length"
        )
    n = most or bisect.bisect_right(range(length), length, key=size) - 1
    while size(n) > length:
        n -= 1
    while size(n + 1) <= length:
        n += 1
    return context(n), n
