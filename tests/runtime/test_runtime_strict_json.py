"""JSON that others wrote: whole values pass, what breaks a program later is one sentence."""

import json

import pytest

from jaxcomp.runtime import strict_json
from jaxcomp.runtime.strict_json import JsonError


@pytest.mark.parametrize(
    "value", [{}, [], {"a": [1, 2.5, None, True, "é😀"]}, 3, "x", [[[[]]] * 40] * 40]
)
def test_what_json_writes_is_read_back(value):
    for ascii_only in (True, False):
        assert strict_json.parse(json.dumps(value, ensure_ascii=ascii_only), "x") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        ("[" * 65 + "]" * 65, "nested too deep"),
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("9" * 5_000, "an integer of 5000 digits"),
        ('{"n": [' + "9" * 301 + "]}", "an integer of 301 digits"),
        ('{"a": ["\\ud800"]}', "half a surrogate pair"),
        ('{"\\udc00": 1}', "half a surrogate pair"),
    ],
)
def test_what_breaks_a_program_is_refused_by_name(text, said):
    with pytest.raises(JsonError, match=f"row 7: .*{said}"):
        strict_json.parse(text, "row 7")


def test_the_deepest_that_passes_is_the_limit():
    text = "[" * strict_json.MAX_DEPTH + "]" * strict_json.MAX_DEPTH
    assert strict_json.parse(text, "x") == json.loads(text)
    assert (
        strict_json.parse("[" * 3 + '"[[[[' + "[" * 200 + '"' + "]" * 3, "x")[0][0][0][:2] == "[["
    )


@pytest.mark.parametrize("value", [[], 3, "x", None])
def test_another_shape_is_refused(value, tmp_path):
    file = tmp_path / "row.json"
    file.write_text(json.dumps(value))
    with pytest.raises(JsonError, match=r"row\.json: holds .*, expected an object"):
        strict_json.read(file, dict)
