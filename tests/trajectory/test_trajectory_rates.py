"""Rates of a run are measured once and told for several."""

import pytest

from jaxcomp import settings
from jaxcomp.fidelity.rate import Rate
from jaxcomp.train.checkpoint import CheckpointError, write_json
from jaxcomp.trajectory import rates

FOUND = [
    Rate("ordinary", "float32", 64.0, 0.25, 0.5, 0.75, 0.875),
    Rate("ordinary", "int4", 8.5, 0.5, 1.0, 0.5, None),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    cfg = settings.load("configs/tiny.py", [("compressor", "llama/24")])
    write_json(tmp_path / "run.json", {"kind": "compressor"})
    calls = []
    monkeypatch.setattr(rates, "open_run", lambda place: (cfg, tmp_path))
    monkeypatch.setattr(rates, "load_run", lambda *a, **k: None)
    monkeypatch.setattr(rates, "tokenizers", lambda *a: None)
    monkeypatch.setattr(rates, "rates", lambda *a: calls.append(a) or FOUND)
    return tmp_path, calls


def test_a_run_is_measured_once(place):
    folder, calls = place
    first, again = rates.measure(folder), rates.measure(str(folder))
    assert (first.made, again.made, len(calls)) == (True, False, 1)
    assert first.found == again.found == FOUND
    write_json(folder / "run.json", {"kind": "another"})
    with pytest.raises(CheckpointError, match=r"rate\.json is of another run"):
        rates.measure(folder)


def test_the_page_tells_every_run_and_what_could_not_be_measured(place):
    folder, _ = place
    found = rates.measure(folder)
    page = rates.write([found, found._replace(name="other")], folder / "out")
    text = (folder / "out" / "rate.md").read_text()
    for name in ("llama/24 r4 b0 s0", "other"):
        assert f"| {name} | ordinary | float32 | 64 | 0.25 | 0.5 | 0.75 | 0.875 |" in text
        assert f"| {name} | ordinary | int4 | 8.5 | 0.5 | 1 | 0.5 | – |" in text
    assert "data:image/png;base64" in page.read_text()
