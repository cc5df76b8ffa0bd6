"""JSON that others wrote: whole values pass, what breaks a program later is one sentence."""

import json

import pytest

from jaxcomp.runtime import strict_json
from jaxcomp.runtime.strict_json import JsonError

DEEPEST = "[" * strict_json.MAX_DEPTH + "]" * strict_json.MAX_DEPTH
BRACKETS = json.dumps([["[" * 300]])  # in text they do not count


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, 2.5, null, true, "é\\ud83d\\ude00"]}', "3", '"x"', DEEPEST, BRACKETS],
)
def test_what_json_writes_is_read_back(text):
    assert strict_json.parse(text, "x") == strict_json.parse(text.encode(), "x") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (f"[{DEEPEST}]", "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"n": [' + "9" * 5_000 + "]}", "an integer of 5000 digits"),
        ('{"a": ["\\ud800"]}', "half a surrogate pair"),
        ('{"\\udc00": 1}', "half a surrogate pair"),
        ("[]", r"holds a list \[...\], expected an object"),
        ("null", "holds null, expected an object"),
    ],
)
def test_what_breaks_a_program_is_refused_by_name(text, said):
    with pytest.raises(JsonError, match=f"row 7: .*{said}"):
        strict_json.parse(text, "row 7", dict)
