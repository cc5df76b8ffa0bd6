import pytest

from jaxcomp.evals.metrics import edits

TEXTS = [
    "In 1912 the ship carried Alice home, and it was late.",
    "They said that Alice followed Robert there, but the reply was not kind.",
    "We heard that Robert bought four horses. The rest is silence.",
    "Nobody saw Alice or Robert, and they did not complain.",
    "The men of Sparta met the men of Sparta; so said Martha, and they asked Martha.",
]


@pytest.fixture(scope="module")
def made():
    return edits.make_edits(TEXTS, per_kind=8, seed=0)


def test_every_kind_is_found_and_spans_are_right(made):
    assert {e.kind for e in made} == set(edits.KINDS)
    for e in made:
        assert e.text[e.start : e.end] == e.new
        source = TEXTS[e.source]
        assert source[e.control_start : e.control_end] == e.original
        assert source[: e.control_start] == e.text[: e.start]
        assert source[e.control_end :] == e.text[e.end :]
        assert e.original != e.new


def test_edits_are_pure_and_capped(made):
    assert edits.make_edits(TEXTS, per_kind=8, seed=0) == made
    assert edits.make_edits(TEXTS, per_kind=8, seed=1) != made
    few = edits.make_edits(TEXTS, per_kind=1, seed=0)
    assert [e.kind for e in few].count("negation") == 1
    assert edits.make_edits([], per_kind=8, seed=0) == []


def test_edits_say_what_the_rules_say(made):
    by_kind = {k: [e for e in made if e.kind == k] for k in edits.KINDS}
    assert {(e.original, e.new) for e in by_kind["role"]} == {
        ("Alice followed Robert", "Robert followed Alice")
    }
    assert {(e.original, e.new) for e in by_kind["negation"]} == {
        ("was late", "was not late"),
        ("was not kind", "was kind"),
        ("is silence", "is not silence"),
        ("did not complain", "did complain"),
    }
    number = next(e for e in by_kind["number"] if e.source == 0)
    assert number.original == "1912"
    assert len(number.new) == 4
    assert number.new.isdigit()


@pytest.mark.parametrize(
    "text",
    [
        "Was he late? No: is he here? He could not.",  # questions, nothing after the negation
        "It costs $5 or 3.5 or 1,000 or 5-6.",  # parts of larger numbers
        "John Smith met Mary Jones.",  # parts of longer names
        "one man",  # "one" is as often no number
    ],
)
def test_rules_would_rather_find_nothing(text):
    assert edits.make_edits([text, text], per_kind=4, seed=0) == []


def test_a_value_that_stands_twice_is_left_alone():
    text = "He saw four men and four women."
    assert edits.make_edits([text], per_kind=4, seed=0) == []


def test_names_never_in_lower_case():
    texts = ["the Rose and a Rose", "a rose for Emily", "so Emily left"]
    assert edits.names(texts) == ["Emily"]


def number_edit(new="1750"):
    text = f"In {new} the ship sailed to the north with forty men."
    return edits.Edit("number", 0, text, 3, 3 + len(new), 3, 7, "1912", new)


@pytest.mark.parametrize(
    ("rebuilt", "expected"),
    [
        ("In 1750 the ship sailed to the north with forty men.", "preserved"),
        ("In 1750 a boat sailed north with men.", "preserved"),
        ("In 1912 the ship sailed to the north with forty men.", "reverted"),
        ("In 1830 the ship sailed to the north with forty men.", "substituted"),
        ("In the ship sailed to the north with forty men.", "omitted"),
        ("The ship sailed to the north in 1750.", "omitted"),  # elsewhere is not in its place
        ("", "omitted"),
    ],
)
def test_outcomes_of_a_number(rebuilt, expected):
    assert edits.outcome(number_edit(), rebuilt) == expected


@pytest.mark.parametrize(
    ("new", "original", "rebuilt", "expected"),
    [
        ("was not late", "was late", "It was not late then.", "preserved"),
        ("was not late", "was late", "It was late then.", "reverted"),
        ("was not late", "was late", "It was not early then.", "substituted"),
        ("was late", "was not late", "It was late then.", "preserved"),
        ("was late", "was not late", "It was not late then.", "reverted"),
        ("was late", "was not late", "It then.", "omitted"),
        ("Bob hit Ann", "Ann hit Bob", "It Bob hit Ann then.", "preserved"),
        ("Bob hit Ann", "Ann hit Bob", "It Ann hit Bob then.", "reverted"),
        ("Bob hit Ann", "Ann hit Bob", "It Bob hit Tom then.", "substituted"),
    ],
)
def test_outcomes_of_longer_spots(new, original, rebuilt, expected):
    edit = edits.Edit(
        "x", 0, f"It {new} then.", 3, 3 + len(new), 3, 3 + len(original), original, new
    )
    assert edits.outcome(edit, rebuilt) == expected


def test_a_perfect_rebuilding_keeps_every_edit_and_control(made):
    for e in made:
        assert edits.outcome(e, e.text) == "preserved"
        assert edits.control_returned(e, TEXTS[e.source], TEXTS[e.source])
        assert not edits.control_returned(e, TEXTS[e.source], "nothing of it")


def test_the_unedited_text_reverts_every_edit(made):
    for e in made:
        assert edits.outcome(e, TEXTS[e.source]) == "reverted"


def test_rates_and_what_cannot_be_measured():
    kinds = ["number"] * 4 + ["name"] * 3
    outcomes = [
        "preserved",
        "reverted",
        "preserved",
        "omitted",
        "preserved",
        "preserved",
        "substituted",
    ]
    controls = [True, True, False, False, True, False, False]
    out = edits.rates(kinds, outcomes, controls)
    assert out["number/n"] == 4
    assert out["number/control"] == 0.5
    assert out["number/measurable"] == 1
    assert [out[f"number/{o}"] for o in edits.OUTCOMES] == [0.5, 0.25, 0.0, 0.25]
    assert out["name/measurable"] == 0
    assert all(out[f"name/{o}"] is None for o in edits.OUTCOMES)
    assert edits.reason(out, "number") is None
    assert edits.reason(out, "name") == (
        "not measurable: 33% of 3 unedited control spots came back, under half"
    )
    assert "no place" in str(edits.reason(out, "role"))
    assert out["all/n"] == 7
    assert out["all/measurable"] == 0
