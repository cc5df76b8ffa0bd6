"""Rules are applied in their order, and what each leaves is counted."""

import pytest

from jaxcomp.evals.qa.filters import Rules, applied, parse
from jaxcomp.evals.qa.items import EvalError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("known, answerable,stated,max_tokens=100",
         [("max_tokens=100", 8), ("stated", 4), ("answerable", 2), ("known", 1)]),
        ("max_tokens=101", [("max_tokens=101", 16)]),
        ("known", [("known", 8)]),
    ],
)  # fmt: skip
def test_each_rule_halves_what_the_one_before_left(text, expected):
    """Of sixteen: every combination of long, not stated, not answerable, not known."""
    bits = [[n >> k & 1 for k in range(4)] for n in range(16)]
    records = [
        {"context_tokens": 100 + long, "stated": not b, "right": not c, "prior": not d}
        for long, b, c, d in bits
    ]
    rules = parse(text)
    left, steps = applied(rules.before(), records)
    left, more = applied(rules.after(lambda r: r["right"], lambda r: r["prior"]), left)
    assert [(s["rule"], s["left"]) for s in [*steps, *more]] == expected
    assert len(left) == (expected[-1][1] if expected else 16)
    assert all(r["prior"] for r in left) or not rules.known


def test_by_default_nothing_is_left_out():
    assert parse("") == Rules()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unknown", "'unknown' is no rule; expected some of max_tokens=N"),
        ("known=1", "'known=1' is no rule"),
        ("max_tokens", "'max_tokens' is no rule"),
        ("max_tokens=0", "N at least 1"),
        ("known,known", "known is there twice"),
    ],
)
def test_a_rule_that_is_none(text, said):
    with pytest.raises(EvalError, match=said):
        parse(text)
