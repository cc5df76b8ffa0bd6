import re
import time

from jaxcomp.data import phases


def test_a_phase_reports_what_it_does_how_far_it_is_and_when_it_will_end(monkeypatch, capsys):
    with phases.phase("quick"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(phases, "FIRST_S", 0.02)
    monkeypatch.setattr(phases, "EVERY_S", 0.02)
    said = []
    with phases.reported_to(said.append):
        with phases.phase("cutting", 200, "blocks") as progress:
            progress.done = 50
            time.sleep(0.2)
            with phases.phase("inner"):
                time.sleep(0.1)
        count = len(said)
        time.sleep(0.1)
        assert len(said) == count
    wanted = r"cutting: 50 of 200 blocks \(25%\), 0 s, [\d,.e+]+ a second, about \d s left"
    assert re.fullmatch(wanted, said[0])
    assert said[-1].startswith("inner")
    with phases.phase("reading a.jsonl", unit="documents"):
        time.sleep(0.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcomp: reading a.jsonl: 0 documents, 0 s\n")
