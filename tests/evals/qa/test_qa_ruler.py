"""RULER's items: the same from the same seed, answerable, and of the length that was asked for."""

import random
import re

import pytest

from jaxcomp.data.tokenizer import train_tokenizer
from jaxcomp.evals.qa import ruler
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.ruler import NIAH, TASKS, items, recall, task_of

ESSAY = "Oda tends the light. She was born at sea, far from land. Nobody asked why! " * 9
NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (\S+) is: (\S+)\.(?!\S)")
LENGTH = 900


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    text = f"{ESSAY} {' '.join(ruler.NOISE)} One of the special magic numbers for is 0123456789"
    return train_tokenizer([text], 400, tmp_path_factory.mktemp("t"))


@pytest.fixture(scope="module")
def made(tok):
    return items(tok, LENGTH, 3, essay=ESSAY)


def test_a_seed_and_no_count_decides_the_items(tok, made):
    assert [i.id for i in made[::3]] == [f"{task}/0" for task in TASKS]
    assert [i.id for i in made[:3]] == [f"{TASKS[0]}/{n}" for n in range(3)]
    assert items(tok, LENGTH, 1, essay=ESSAY) == made[::3]
    assert len({i.context for i in made}) == len(made)
    other = items(tok, LENGTH, 1, essay=ESSAY, seed=1)
    assert not {i.context for i in other} & {i.context for i in made}


def test_a_context_has_as_many_tokens_as_fit(tok, made):
    for item in made:
        # What one more sentence or needle has at most; a uuid has a token a character here.
        unit = 120 if task_of(item.id) == "niah_multikey_3" else 60
        assert LENGTH - unit < len(tok.encode(item.context)) <= LENGTH, item.id


def test_every_needle_answers_one_question(made):
    for item in made:
        task = task_of(item.id)
        if task not in NIAH:
            continue
        kind, needles = NIAH[task], NEEDLE.findall(item.context)
        values = [value for _, _, value in needles]
        assert len(values) == len(set(values))
        assert {noun for noun, _, _ in needles} == {kind.value}
        keys = [key for _, key, _ in needles if key in item.question]
        assert len(set(keys)) == kind.asked
        expected = [value for _, key, value in needles if key in item.question]
        assert sorted(expected) == sorted(item.answers)
        assert len(item.answers) == kind.asked * kind.values
        assert all(item.context.count(answer) == 1 for answer in item.answers)
        if kind.haystack == "needles":
            assert len(needles) > 5
        else:
            assert len(needles) == kind.keys * kind.values
        assert ("Nobody asked why!" in item.context) == (kind.haystack == "essay")
        assert ("There and back again." in item.context) == (kind.haystack == "noise")
        many = "are" if len(item.answers) > 1 else "is"
        assert item.answer_prefix.endswith(f"mentioned in the provided text {many}")


def test_a_chain_of_variables_has_one_value(made):
    for item in made:
        if task_of(item.id) != ruler.VT:
            continue
        found = {}
        for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", item.context):
            assert name not in found
            found[name] = found.get(value, value)  # assigned before it is read
        assert len(found) == ruler.HOPS + 1 == len(item.answers)
        (value,) = set(found.values())
        assert value.isdecimal()
        assert f" {value} " in item.question
        assert set(item.answers) == found.keys()
        assert item.tail == (
            f"\nQuestion: {item.question}\nAnswer: According to the chain(s) of variable "
            f"assignment in the text above, 5 variables are assigned the value {value}, they are:"
        )


def test_the_first_guess_of_the_haystack_does_not_matter(tok):
    def fitted(guess):
        rng = random.Random(0)
        drawn = ruler._niah(NIAH["niah_multivalue"], rng, ESSAY.split(". "))
        return ruler._fitted(drawn, tok, LENGTH, rng, guess, "a task")

    assert fitted(None) == fitted(1) == fitted(99)


def test_needles_stay_apart_where_draws_collide(tok, monkeypatch):
    monkeypatch.setitem(ruler._MADE, "words", lambda rng: f"w{rng.randint(1, 6)}")
    monkeypatch.setitem(ruler._MADE, "numbers", lambda rng: str(rng.randint(1000, 1699)))
    test_every_needle_answers_one_question(items(tok, LENGTH, 3, essay=ESSAY))


def test_needles_stand_at_every_depth(tok):
    found = items(tok, LENGTH, 40)[:40]
    depths = [i.context.index("One of the special") / len(i.context) for i in found]
    assert sum(depth < 0.4 for depth in depths) > 5
    assert sum(depth > 0.6 for depth in depths) > 5


def test_without_essays_noise_takes_their_place(tok):
    found = items(tok, LENGTH, 1)
    assert [task_of(i.id) for i in found] == [t for t in TASKS if t != "niah_single_2"]
    assert sum("There and back again." in i.context for i in found) == 6


def test_a_length_without_room_is_an_error(tok):
    with pytest.raises(EvalError, match=r"--length=30: .* niah_single_1 has at least \d+ tokens"):
        items(tok, 30, 1)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", 0),
        ("They are ABCDE and 12345.", 2 / 3),
        ("abcde,\n\n123456, xYz-9", 1),  # anywhere, within words too, as RULER's scorer does
        ("A B C D E 1234 xyz9", 0),
    ],
)
def test_recall_is_the_share_of_expected_texts(answer, found):
    assert recall(answer, ("ABCDE", "12345", "xyz-9")) == pytest.approx(found)


def test_there_are_keys_enough_for_a_long_haystack_of_needles():
    """128 thousand tokens hold some five thousand needles, each with a key of its own."""
    rng = random.Random(0)
    assert len({ruler._MADE["words"](rng) for _ in range(6000)}) > 5000
