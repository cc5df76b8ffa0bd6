"""`jaxcomp demo` in a terminal without colours, and its web page's parts."""

import socket

import pytest

from jaxcomp.cli import demo_page
from jaxcomp.cli.main import main
from jaxcomp.config import ConfigError
from jaxcomp.evals.demo import Fact, Shown, Span


def test_the_demo_shows_what_became_of_every_fact(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["demo", "--ratio=16"]) == 0
    out = capsys.readouterr().out
    assert "strawberry: white → red (overwritten)" in out
    assert "The strawberry was *red*." in " ".join(out.split())  # no terminal: marks, not colours
    assert "58 tokens in" in out
    assert "4 vectors" in out
    assert "in 256 held-out passages (%)" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ratio=5"], "no pair of --size=64 --ratio=5 ships"),
        (["--run=nowhere"], "nowhere"),
        (["--run=x", "--size=24"], "leave it away with --run"),
        (["dragon"], "of this world: dragon;"),
        (["--port=0"], "argument --port: '0'"),
        (["--nothing=1"], "--nothing is no flag of demo"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    assert main(["demo", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port={port} cannot be opened"):
            demo_page.check_port(port)


def test_the_page_escapes_texts_and_shows_probabilities():
    spans = [Span("<b>", "overwritten", 0.5, 0.25), Span(" & ")]
    assert "<b>" not in demo_page.html_of(spans)
    assert "p = 0.50 with the memory, 0.25 without" in demo_page.html_of(spans)
    shown = Shown(spans, spans, [Fact("<i>", "a", None, "omitted")], 8, 2)
    facts = demo_page.facts_of(shown)
    assert "<i>" not in facts
    assert "8 tokens, 2 memory" in facts
