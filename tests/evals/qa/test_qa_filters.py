"""Rules are applied in their order, and what each leaves is counted."""

import pytest

from jaxcomp.evals.qa.filters import Rules, after, before, parse
from jaxcomp.evals.qa.items import EvalError


def records():
    """Sixteen: every combination of long, not stated, not answerable, not known."""
    bits = [[n >> k & 1 for k in range(4)] for n in range(16)]
    return [
        {"context_tokens": 100 + long, "stated": not b, "right": not c, "prior": not d}
        for long, b, c, d in bits
    ]


def applied(rules):
    left, steps = before(rules, records())
    left, more = after(rules, left, lambda r: r["right"], lambda r: r["prior"])
    return left, [*steps, *more]


def test_by_default_nothing_is_left_out():
    assert applied(Rules()) == (records(), [])
    assert parse("") == Rules()


def test_each_rule_halves_what_the_one_before_left():
    rules = parse("known, answerable,stated,max_tokens=100")
    left, steps = applied(rules)
    assert steps == [("max_tokens=100", 8), ("stated", 4), ("answerable", 2), ("known", 1)]
    assert left == [{"context_tokens": 100, "stated": True, "right": True, "prior": True}]


def test_rules_are_independent():
    assert applied(parse("max_tokens=101")) == (records(), [("max_tokens=101", 16)])
    left, steps = applied(parse("known"))
    assert steps == [("known", 8)]
    assert all(record["prior"] for record in left)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unknown", "'unknown' is no rule; expected some of max_tokens=N, stated"),
        ("known=1", "'known=1' is no rule"),
        ("max_tokens", "'max_tokens'; expected max_tokens=N"),
        ("max_tokens=0", "N at least 1"),
        ("max_tokens=x", "N at least 1"),
        ("known,known", "known is there twice"),
    ],
)
def test_a_rule_that_is_none(text, said):
    with pytest.raises(EvalError, match=said):
        parse(text)
