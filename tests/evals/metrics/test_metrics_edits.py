from typing import Any

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
        ("Alice followed Robert", "Alice was followed by Robert"),
        ("ship carried Alice", "ship was carried by Alice"),
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
        "one man",  # "one" is as often no number
        "He saw four men and four women.",  # another mention would answer for it
    ],
)
def test_rules_would_rather_find_nothing(text):
    assert edits.make_edits([text, text], per_kind=4, seed=0) == []


def test_names_never_in_lower_case():
    texts = ["the Rose and a Rose", "a rose for Emily", "so Emily left"]
    assert edits.names(texts) == ["Emily"]


SHIP = "In {} the ship sailed to the north with forty men."


@pytest.mark.parametrize(
    ("text", "new", "original", "rebuilt", "expected"),
    [
        (SHIP, "1750", "1912", SHIP.format("1750"), "preserved"),
        (SHIP, "1750", "1912", "In 1750 a boat sailed north with men.", "preserved"),
        (SHIP, "1750", "1912", SHIP.format("1912"), "reverted"),
        (SHIP, "1750", "1912", SHIP.format("1830"), "substituted"),
        (SHIP, "1750", "1912", "In the ship sailed to the north with forty men.", "omitted"),
        (SHIP, "1750", "1912", "The ship sailed to the north in 1750.", "omitted"),  # elsewhere
        (SHIP, "1750", "1912", "", "omitted"),
        ("It {} then.", "was not late", "was late", "It was not late then.", "preserved"),
        ("It {} then.", "was not late", "was late", "It was late then.", "reverted"),
        ("It {} then.", "was not late", "was late", "It was not early then.", "substituted"),
        ("It {} then.", "was late", "was not late", "It was late then.", "preserved"),
        ("It {} then.", "was late", "was not late", "It was not late then.", "reverted"),
        ("It {} then.", "was late", "was not late", "It then.", "omitted"),
        ("It {} then.", "Bob hit Ann", "Ann hit Bob", "It Bob hit Ann then.", "preserved"),
        ("It {} then.", "Bob hit Ann", "Ann hit Bob", "It Ann hit Bob then.", "reverted"),
        ("It {} then.", "Bob hit Ann", "Ann hit Bob", "It Bob hit Tom then.", "substituted"),
    ],
)
def test_outcomes(text, new, original, rebuilt, expected):
    at = 3, 3 + len(new), 3, 3 + len(original)
    edit = edits.Edit("x", 0, text.format(new), *at, original, new)
    assert edits.outcome(edit, rebuilt) == expected


def test_a_perfect_rebuilding_keeps_every_edit_and_the_unedited_text_reverts_it(made):
    for e in made:
        assert edits.outcome(e, e.text) == "preserved"
        assert edits.outcome(e, TEXTS[e.source]) == "reverted"
        assert edits.control_returned(e, TEXTS[e.source], TEXTS[e.source])
        assert not edits.control_returned(e, TEXTS[e.source], "nothing of it")


def test_half_an_edit_of_roles_is_neither():
    text = "Then he accepted the offer."
    edit = next(e for e in edits.make_edits([text], per_kind=1, seed=0) if e.kind == "role")
    assert (edit.original, edit.new) == ("he accepted the", "he was accepted by the")
    assert edits.outcome(edit, "Then he was accepted by a offer.") == "substituted"
    assert edits.outcome(edit, "Then he accepted by the offer.") == "substituted"
    assert edits.outcome(edit, "Then he accepted the offer.") == "reverted"


def test_rates_and_what_cannot_be_measured():
    kinds = ["number"] * 4 + ["name"] * 3
    outcomes = ["preserved", "reverted", "preserved", "omitted", *["preserved"] * 2, "substituted"]
    controls = [True, True, False, False, True, False, False]
    columns = zip(kinds, outcomes, controls, strict=True)
    records: list[dict[str, Any]] = [
        {"kind": kind, "outcome": outcome, "control": control} for kind, outcome, control in columns
    ]
    out = edits.survival(edits.Edited([*kinds, "role"], records))
    assert out["number/n"] == 4
    assert out["number/control"] == 0.5
    assert [out[f"number/{o}"] for o in edits.OUTCOMES] == [0.5, 0.25, 0.0, 0.25]
    assert all(out[f"name/{o}"] is None for o in edits.OUTCOMES)
    assert [out[f"{kind}/measurable"] for kind in ("number", "name", "role", "all")] == [1, 0, 0, 0]
    assert out["role/control"] is None
    assert (out["role/left_out"], out["all/left_out"], out["name/left_out"]) == (1, 1, 0)
    assert out["all/n"] == 7
