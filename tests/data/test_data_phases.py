import re
import time

from jaxcomp.data import phases


def test_a_phase_reports_what_it_does_how_far_it_is_and_when_it_will_end(monkeypatch):
    monkeypatch.setattr(phases, "FIRST_S", 0.02)
    monkeypatch.setattr(phases, "EVERY_S", 0.02)
    said = []
    with phases.reported_to(said.append):
        with phases.phase("cutting", 200, "blocks") as progress:
            progress.done = 50
            time.sleep(0.2)
        assert len(said) > 1
        with phases.phase("outer"):
            time.sleep(0.1)
            before = len(said)
            with phases.phase("inner"):
                time.sleep(0.2)
            between = said[before + 1 :]  # one may have been on its way
        count = len(said)
        time.sleep(0.1)
        assert len(said) == count
    wanted = r"cutting: 50 of 200 blocks \(25%\), 0 s, [\d,.e+]+ a second, about \d s left"
    assert re.fullmatch(wanted, said[0])
    assert between
    assert all(text.startswith("inner") for text in between)


def test_quick_phases_say_nothing_and_long_ones_go_to_standard_error(capsys, monkeypatch):
    with phases.phase("quick"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(phases, "FIRST_S", 0.02)
    with phases.phase("reading a.jsonl"):
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcomp: reading a.jsonl, 0 s\n")
