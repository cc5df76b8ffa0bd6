"""SQuAD's scores are those of evaluate-v1.1.py, transcribed here from its rules, word by word."""

import random
import string

import pytest

from jaxcomp.evals.qa.squad import exact, f1, holds, normalise

WORDS = ["The", "a", "an", "THE", "goat", "Goat", "goat's", "rock'n'roll", "1,000", "3.5", "é", "–"]
MARKS = ["", ".", ",", "!", " ", "  ", "\t", "-", "'", '"', "the-", "\u00a0"]


def official(text):
    """Character by character, without regular expressions: lower case; ASCII punctuation goes; the
    articles as words of letters, digits and underscores become spaces; runs of spaces one."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    words, word = [], ""
    for c in [*text, ""]:
        if c and (c.isalnum() or c == "_"):
            word += c
            continue
        words.append(" " if word in ("a", "an", "the") else word)
        words.append(c)
        word = ""
    return " ".join("".join(words).split())


def official_f1(answer, gold):
    said, meant = official(answer).split(), official(gold).split()
    left, same = list(meant), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(meant)
    return 2 * precision * recall / (precision + recall)


def test_a_thousand_random_pairs_score_the_same():
    draw = random.Random(0)

    def text():
        parts = [draw.choice(WORDS) + draw.choice(MARKS) for _ in range(draw.randrange(6))]
        return draw.choice(["", " "]).join(parts)

    seen = set()
    for _ in range(1000):
        answer, golds = text(), [text() for _ in range(draw.randrange(1, 4))]
        assert normalise(answer) == official(answer)
        assert exact(answer, golds) == any(official(answer) == official(g) for g in golds)
        expected = max(official_f1(answer, gold) for gold in golds)
        assert f1(answer, golds) == pytest.approx(expected)
        seen.add((exact(answer, golds), 0 < expected < 1))
    assert seen == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize(
    ("answer", "golds", "equal", "shared"),
    [
        ("the  Goat!", ["goat"], True, 1.0),
        ("goat goat", ["goat"], False, 2 / 3),  # counted with repeats
        ("a red goat", ["big goat", "red goat"], True, 1.0),
        ("The.", ["a"], True, 0.0),  # nothing against nothing: equal, but no word is shared
        ("goat", [], False, 0.0),
    ],
)
def test_known_scores(answer, golds, equal, shared):
    assert exact(answer, golds) == equal
    assert f1(answer, golds) == pytest.approx(shared)


def test_holding_is_by_whole_words():
    assert holds("It was Oda Brenn, the baker.", ["Tilo", "oda  brenn"])
    assert not holds("It was Oda Brenner.", ["Oda Brenn"])
    assert not holds("goat", [])
