"""Rates of a run are measured once and told for several."""

import dataclasses

import pytest

from jaxcomp.analysis.tasks import rate
from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError, to_dict
from jaxcomp.evals.rate import Rate
from jaxcomp.training.manifest import CheckpointError, new, write_json

FOUND = [
    Rate("ordinary", "float32", 64.0, 0.25, 0.5, 0.75, 0.875),
    Rate("ordinary", "int4", 8.5, 0.5, 1.0, 0.5, None),
]


def written(folder, cfg, seed):
    write_json(folder / "run.json", to_dict(new("compressor", {"seed": seed}, cfg)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    cfg = overrides.load("configs/tiny.py", [("compressor", "llama/24")])
    written(tmp_path, cfg, 0)
    calls = []
    monkeypatch.setattr(rate, "open_run", lambda place: (cfg, tmp_path))
    monkeypatch.setattr(rate, "load_run", lambda *a, **k: None)
    monkeypatch.setattr(rate, "tokenizers", lambda *a: None)
    monkeypatch.setattr(rate, "rates", lambda *a: calls.append(a) or FOUND)
    return tmp_path, calls


def test_a_run_is_measured_once(place):
    folder, calls = place
    first, again = rate.measure(folder), rate.measure(str(folder))
    assert (first.made, again.made, len(calls)) == (True, False, 1)
    assert first.found == again.found == FOUND
    written(folder, rate.open_run(folder)[0], 1)
    with pytest.raises(CheckpointError, match=r"rate\.json is of another run"):
        rate.measure(folder)


def test_another_ratio_that_a_run_was_trained_at_has_a_file_of_its_own(place, monkeypatch):
    folder, calls = place
    cfg, root = rate.open_run(folder)
    several = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, ratios=(4, 16)))
    monkeypatch.setattr(rate, "open_run", lambda place: (several, root))
    names = [rate.measure(folder, ratio=ratio).name for ratio in (0, 4, 16)]
    assert names == ["llama/24 r4 b0 s0"] * 2 + ["llama/24 r16 b0 s0"]
    assert [c[0].memory.ratio for c in calls] == [4, 16]
    assert {f.name for f in folder.glob("rate*.json")} == {"rate.json", "rate-r16.json"}
    with pytest.raises(ConfigError, match="ratio 8: this compressor was trained at 4, 16"):
        rate.measure(folder, ratio=8)


def test_the_page_tells_every_run_and_what_could_not_be_measured(place):
    folder, _ = place
    found = rate.measure(folder)
    page = rate.write([found, found._replace(name="other")], folder / "out")
    text = (folder / "out" / "rate.md").read_text()
    for name in ("llama/24 r4 b0 s0", "other"):
        assert f"| {name} | ordinary | float32 | 64 | 0.25 | 0.5 | 75.0 | 87.5 |" in text
        assert f"| {name} | ordinary | int4 | 8.5 | 0.5 | 1 | 50.0 | – |" in text
    assert "rate and distortion" in page.read_text().lower()
