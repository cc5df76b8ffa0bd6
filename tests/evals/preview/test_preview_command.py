import planted
import pytest
from conftest import mesh_of
from preview_models import CFG, with_folders

from jaxcomp.cli import main
from jaxcomp.config import to_dict
from jaxcomp.evals.preview import main as preview
from jaxcomp.evals.preview import picture
from jaxcomp.evals.preview.main import CHECKS
from jaxcomp.runtime.sharding import use_mesh

SCREEN = 40  # lines


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """--config and --workdir of a run of random towers."""
    root = tmp_path_factory.mktemp("command")
    with use_mesh(mesh_of((1, 1, 1))):
        cfg = to_dict(with_folders(CFG, root)) | {"name": "tiniest", "compressor": ""}
    (root / "tiniest.py").write_text(f"def get_config(arg):\n    return {cfg!r}\n")
    return [f"--config={root}/tiniest.py", f"--workdir={root}/run"]


def sections(text):
    """Title -> lines."""
    parts = [part.split("\n") for part in text.split("\n--- ")[1:]]
    return {lines[0].split(" ---")[0]: [x for x in lines[1:] if x] for lines in parts}


def test_before_and_after_training(flags, mesh, capsys):
    assert main.main(["check", *flags]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= picture.WIDTH
    assert "tiniest: llama/a at ratio 4, not trained yet" in out
    found = sections(out)
    assert list(found) == [*picture.SECTIONS, "checks"]
    assert max(map(len, found.values())) <= SCREEN
    for one in CHECKS[:-1]:
        assert f"  ok    {one.name} " in out
    assert "memory of the trained pair" not in out

    assert main.main(["train", "--compressor=llama/a", *flags]) == 0
    capsys.readouterr()
    assert main.main(["check", *flags]) == 0
    out = capsys.readouterr().out
    assert "memory of the trained pair" in out
    assert f"  ok    {CHECKS[-1].name}  " in out
    assert "nothing found" in out


def test_the_picture_says_what_reads_what(flags, mesh, capsys, monkeypatch):
    monkeypatch.setattr(preview, "CHECKS", ())
    assert main.main(["check", *flags]) == 0
    found = sections(capsys.readouterr().out)
    assert found["checks"] == ["nothing found"]
    grid = found["what attends to what"]
    head = next(line for line in grid if line.startswith("decoder reads")).split()[2:]
    rows = {
        " ".join(line.split()[: -len(head)]): dict(
            zip(head, line.split()[-len(head) :], strict=True)
        )
        for line in grid[grid.index(next(x for x in grid if x.startswith("decoder reads"))) + 1 :]
    }
    assert rows["begin"] == {kind: "1/1" if kind == "begin" else "." for kind in head}
    last = next(rows[name] for name in reversed(rows) if name.startswith("target"))
    for kind in ("memory", "target"):
        seen, total = last[kind].split("/")
        assert seen == total
    assert last.get("empty", ".") == "."
    assert last["padding"] == "."


def test_a_bug_is_exit_code_1_with_its_name(flags, mesh, capsys, monkeypatch):
    planted.swapped_bleu(monkeypatch)
    assert main.main(["check", *flags]) == 1
    out = capsys.readouterr().out
    assert "  FAIL  direction of BLEU" in out
    assert "fix: evals/metrics/reconstruction.py" in " ".join(out.split())
    assert out.rstrip().endswith("failed: direction of BLEU")


def test_a_config_without_families_is_one_error(tmp_path, capsys):
    (tmp_path / "none.py").write_text("def get_config(arg):\n    return {}\n")
    assert main.main(["check", f"--config={tmp_path}/none.py"]) == 2
    assert "check needs --compressor=FAMILY/SIZE" in capsys.readouterr().err
