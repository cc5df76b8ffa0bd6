"""Every command reads a path alike: `~`, relative, through links, with any character in a name."""

import shutil
from pathlib import Path

import pytest
import test_cli_main as test_cli
from conftest import mesh_of
from sweep import sweep_stub

import jaxcomp
from jaxcomp.cli import main, overrides
from jaxcomp.runtime import paths
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.sweep import jobs
from jaxcomp.training.checkpoint import saved_steps

SIZE = ["--compressor=llama/24", "--memory.ratio=16"]
STEPS = [f"--train.optim.{field}" for field in ("steps=2", "warmup=1", "batch=4")]
FEW = ["--data.val_passages=4", "--data.eval_passages=6"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder and a working directory with odd names."""
    home, work = tmp_path / "[1] größe", tmp_path / "[2024] project"
    for folder in (home, work):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


def typed(capsys, *argv):
    code = main.main([str(a) for a in argv])
    return code, capsys.readouterr()


@pytest.mark.slow
def test_every_command_reads_a_path_alike(home, capsys):
    shutil.copy(overrides.shipped()["tiny"], home / "my.py")
    flags = ["--config=~/my.py", *SIZE, *STEPS, *FEW]
    with use_mesh(mesh_of((1, 1, 1))):
        assert typed(capsys, "train", *flags, "--workdir=~/runs/a[b] c/")[0] == 0
        run = home / "runs" / "a[b] c"
        assert saved_steps(run) == [2]
        Path("link").symlink_to(run)
        # From another folder, and under another name, it is the same run.
        for name in ("~/runs/a[b] c", "link", "./link/", run):
            code, said = typed(capsys, "train", *flags, f"--workdir={name}", "--seed=1")
            assert code == 2
            assert "was made by another config: seed was 0, now 1" in said.err
        assert typed(capsys, "eval", "--run=link")[0] == 0
        assert (run / "eval.json").is_file()

        (home / "täxt.txt").write_text("The white strawberry lay on the table.")
        memory = "--out=~/memory [1]/m.safetensors"
        assert typed(capsys, "compress", "--run=~/runs/a[b] c/", memory, "~/täxt.txt")[0] == 0
        memory = home / "memory [1]" / "m.safetensors"
        code, said = typed(capsys, "reconstruct", "--run=link", "~/memory [1]", "--max_new=4")
        assert (code, said.err) == (0, "")
        assert typed(capsys, "export", "--run=link/", "--out=~/[e]/out/")[0] == 0
        pair = jaxcomp.load("~/[e]/out")
        assert pair.traits == jaxcomp.load(run).traits
        assert jaxcomp.Memory.load(memory).compressor == pair.traits.compressor
    assert not list(home.parent.rglob("~*"))


@pytest.mark.parametrize("name", ["~/sweeps/[s] ü", "link/s", "a b/../s*/"])
def test_a_sweep_reads_its_folder_alike(home, capsys, monkeypatch, name):
    monkeypatch.setattr(jobs, "SweepWork", lambda command: sweep_stub.StubWork())
    (home / "toy.py").write_text(test_cli.CONFIG)
    for folder in ("there", "a b"):
        Path(folder).mkdir()
    Path("link").symlink_to("there")
    flags = ["--config=~/toy.py", f"--workdir={name}"]
    assert typed(capsys, "sweep", *flags)[0] == 0
    code, said = typed(capsys, "sweep", *flags)
    assert code == 0
    assert "all 4 jobs are done" in said.out
    place = paths.path(name).resolve()
    assert typed(capsys, "report", f"--workdir={place}")[0] == 0
    assert (place / "report" / "results.csv").is_file()
    assert not list(home.parent.rglob("~*"))


def test_a_linked_run_finds_the_bases_made_beside_it(tmp_path):
    """`..` of a link is the parent of the folder that it leads to."""
    root = tmp_path / "root"
    (tmp_path / "disk" / "deep" / "run").mkdir(parents=True)
    root.mkdir()
    (root / "run").symlink_to(tmp_path / "disk" / "deep" / "run")
    name = paths.relative(root, root / "run")
    assert paths.join(root / "run", name).resolve() == root
    assert paths.join(tmp_path / "disk" / "deep" / "run", name).resolve() == root
