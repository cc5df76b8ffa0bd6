"""Rules of roles: the nouns stay, who does what to whom is exchanged."""

import pytest

from jaxcomp.evals.pairs import word_lists as w
from jaxcomp.evals.pairs.changes import changed
from jaxcomp.evals.pairs.roles import role_spots

KNOWN = {"Alice", "Robert", "Paris", "London", "French", "Jones", "Mary"}

FIRES = [
    ("names", "Then Alice saw Robert.", "Then Robert saw Alice."),
    ("names", "So Mary Jones met Robert.", "So Robert met Mary Jones."),
    ("names", "It went from Paris to London.", "It went from London to Paris."),
    ("pronouns", "Then he told her that it was.", "Then she told him that it was."),
    ("pronouns", "They came. I saw them.", "They came. They saw me."),
    ("active", "They had accepted the offer.", "They had been accepted by the offer."),
    ("active", "Whoever has taken a town.", "Whoever has been taken by a town."),
    ("active", "We will protect the city.", "We will be protected by the city."),
    ("active", "It began to carry out and satisfy its aim.", ""),  # "satisfy" follows no auxiliary
    ("active", "They came to satisfy his wish.", "They came to be satisfied by his wish."),
    ("active", "He spoke of invading the land.", "He spoke of being invaded by the land."),
    ("active", "She sold her house.", "She was sold by her house."),
    ("active", "Now they killed the king.", "Now they were killed by the king."),
    ("active", "But the king attacked the army.", "But the king was attacked by the army."),
    ("active", "But the kings attacked the army.", "But the kings were attacked by the army."),
    ("active", "Then Alice praised Robert as well.", "Then Alice was praised by Robert as well."),
    ("passive", "The mill was founded by the monks.", "The mill founded the monks."),
    ("passive", "It has been written by his son.", "It has written his son."),
    ("passive", "It is protected by the law.", "It protects the law."),
    ("passive", "They are satisfied by the law.", "They satisfy the law."),
    ("passive", "It may be built by a king.", "It may build a king."),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), FIRES)
def test_a_rule_makes_the_foil_it_should(rule, text, expected):
    found = {changed(text, spot.changes) for spot in role_spots(text, KNOWN) if spot.rule == rule}
    assert found == ({expected} if expected else set())


@pytest.mark.parametrize(
    "text",
    [
        "Somebody saw Robert.",  # no name
        "The French captured Paris.",  # "French was" would not agree
        "Students at Paris received French papers.",  # an adjective
        "So Paris and London sought Mary and Jones.",  # one of several
        "She told her brother.",  # "her" is possessive
        "He told him that.",
        "The army of the king attacked the town.",  # not the king
        "They arrived the next day. They had arrived the same day.",
        "He believed the man was here. He had thought the man was here.",
        "They gave the man a coat.",  # "gave" is no participle
        "It was done by the time they came. It was sold by the pound.",
        "It was written by him and signed by the king.",
        "The book was written by Alice.",  # "written" is no past tense
        "He accepted. The king came.",
        "The newly acquired Paris.",
        "The most improved the least.",
    ],
)
def test_rules_would_rather_find_nothing(text):
    assert list(role_spots(text, KNOWN)) == []


def test_word_lists_do_not_contradict_each_other():
    """A verb that can be turned is in no list of those that cannot."""
    turned = {w.IRREGULAR.get(v, v) for v in w.TRANSITIVE}
    assert not turned & w.FUNCTION
    assert w.IRREGULAR.keys() | w.DOUBLED <= w.TRANSITIVE
    assert not w.PAST_PARTICIPLES & w.NOT_PASSIVE
    assert w.PAST_PARTICIPLES <= w.PARTICIPLES
