from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.data.facts import VALUES
from jaxcomp.evals import attribution
from jaxcomp.evals.attribution import align, attribute, contested, same_form
from jaxcomp.evals.metrics import edits

WORDS = st.lists(
    st.sampled_from(["the", "The", "cat", "cats", "dog", "red", "blue", "2", "two", ".", ",", "é"]),
    max_size=14,
)


def labelled(source, rebuilt, preferred=()):
    """Labels of two texts; `preferred` are the rebuilt words that are likelier without memory."""
    before, after = source.split(), rebuilt.split()
    links = align(before, after)
    chosen = {link for link in links if after[link.rebuilt] in preferred}
    return attribute(before, after, links, chosen)


@pytest.mark.parametrize(
    ("source", "rebuilt", "preferred", "of_source", "of_rebuilt"),
    [
        ("a red cat .", "a red cat .", (), "cccc", "cccc"),
        ("a red cat .", "a blue cat .", ("blue",), "cocc", "cocc"),
        ("a red cat .", "a blue cat .", (), "crcc", "cicc"),
        ("a red cat .", "a cat .", (), "clcc", "ccc"),
        ("a red cat .", "a red old cat .", (), "cccc", "ccicc"),
        ("two cats slept .", "2 cat slept .", (), "ppcc", "ppcc"),
        # The form is found first, so the other word beside it is not taken for it.
        ("see red houses", "see house", (), "clp", "cp"),
        # A mark never stands for a word.
        ("she ran .", "she ! .", (), "clc", "cic"),
        ("", "so it was", (), "", "iii"),
        ("so it was", "", (), "lll", ""),
    ],
)
def test_known_answers(source, rebuilt, preferred, of_source, of_rebuilt):
    found = labelled(source, rebuilt, preferred)
    assert "".join(label[0] for label in found.source) == of_source
    assert "".join(label[0] for label in found.rebuilt) == of_rebuilt


@settings(deadline=None)
@given(WORDS, WORDS, st.data())
def test_every_word_has_one_label_and_the_counts_add_up(source, rebuilt, data):
    links = align(source, rebuilt)
    assert len({link.source for link in links}) == len(links)
    assert len({link.rebuilt for link in links}) == len(links)
    doubtful = contested(source, rebuilt, links)
    chosen = data.draw(st.sets(st.sampled_from(doubtful))) if doubtful else set()
    found = attribute(source, rebuilt, links, chosen)
    assert len(found.source) == len(source)
    assert len(found.rebuilt) == len(rebuilt)
    total = attribution.counts([found])
    for side, names in attribution.SIDES.items():
        assert total[f"{side}/all"] == sum(total[f"{side}/{n}"] for n in names[1:])
    for label in ("copied", "paraphrased", "overwritten"):
        assert total[f"source/{label}"] == total[f"rebuilt/{label}"]
    assert total["rebuilt/overwritten"] == len(chosen)
    assert total["source/overwritten"] + total["source/replaced"] == len(doubtful)
    assert total["source/lost"] == len(source) - len(links)
    assert total["rebuilt/invented"] == len(rebuilt) - len(links) + total["source/replaced"]
    twice = attribution.counts([found, found])
    assert twice == {name: 2 * n for name, n in total.items()}


@given(WORDS)
def test_a_text_is_copied_from_itself_whatever_its_words(words):
    found = attribute(words, words, align(words, words), set())
    assert set(found.source) <= {"copied"}
    assert found.source == found.rebuilt


FORMS = "The the, walk walked, city cities, stop stopped, make making, two 2, Alice Alice's"
OTHERS = (
    "general generous, universe university, hope hopped, his hi, two 3, 1914 1941, red blue, "
    ". !, ran run, was is, baker baked, John's Jane's"
)


@pytest.mark.parametrize(("pairs", "same"), [(FORMS, True), (OTHERS, False)])
def test_forms_of_one_word_and_other_words(pairs, same):
    for pair in pairs.split(", "):
        a, b = pair.split()
        assert same_form(a, b) == same_form(b, a) == same, pair


def test_no_value_of_the_world_is_a_form_of_another_of_its_kind():
    for values in VALUES.values():
        assert not any(same_form(a, b) for a, b in combinations(values, 2))


def test_words_are_those_of_edit_survival_with_their_places():
    text = "It's 3,5 – \u201cno\u201d, said Zo\u00eb’s aunt!\nO"
    found = attribution.words(text)
    assert [w.text for w in found] == edits._WORD.findall(text)
    assert all(text[w.start : w.end] == w.text for w in found)


def test_a_departure_begins_each_stretch_that_left_the_source():
    labels = ("invented", "overwritten", "copied", "overwritten", "invented", "paraphrased")
    assert attribution.departures(labels) == [True, False, False, True, False, False]
    total = attribution.counts([attribution.Attribution((), labels)])
    assert {k: v for k, v in total.items() if k.startswith("departure/")} == {
        "departure/all": 2, "departure/overwritten": 1, "departure/invented": 1,
    }  # fmt: skip
