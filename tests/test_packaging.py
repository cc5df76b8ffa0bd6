"""What `pip install` brings: the files of the package, the shipped configs, what they import."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Declared and never imported: fsspec looks gcsfs up by name, and tensorboard is a program.
NOT_IMPORTED = {"gcsfs", "tensorboard"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel; by the hatchling of the development group, so without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Runs a command with the wheel's files, in a folder without a clone."""
    site, cwd = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cwd")
    zipfile.ZipFile(wheel).extractall(site)
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def run(*args, cwd=cwd):
        return subprocess.run(
            [sys.executable, *args], cwd=cwd, env=env, check=True, capture_output=True, text=True
        ).stdout

    return run


def source_files(folder):
    return {f for f in (ROOT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts}


def test_the_wheel_holds_every_file_of_the_package_and_the_configs(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    package = {str(f.relative_to(ROOT)) for f in source_files("jaxcomp")}
    configs = {f"jaxcomp/{f.relative_to(ROOT)}" for f in source_files("configs")}
    assert held == package | configs
    assert "jaxcomp/configs/tiny.py" in held
    assert "jaxcomp/py.typed" in held
    assert sum(n.endswith("model.safetensors") for n in held) >= 29  # base models and decoders


LOAD_ALL = """
from pathlib import Path
from jaxcomp.cli import overrides

Path("a.txt").write_text("some words " * 200)
for name in "controls paper paradox:bases=0.8 recipes text:path=a.txt tiny tiny:full".split():
    cfg = overrides.load(name)
    assert all(Path(d).is_dir() for d in cfg.folders.values() if d[0] == "/"), cfg.folders
    print(overrides.split_spec(name)[0], cfg.name)
"""


def test_shipped_configs_of_the_wheel_are_found_by_name(elsewhere):
    lines = elsewhere("-c", LOAD_ALL).splitlines()
    assert len(lines) == 7
    assert all("/site" in line and "/jaxcomp/configs/" in line for line in lines)
    assert lines[-1].endswith("tiny.py tiny-full")


def test_the_command_of_the_wheel_starts_in_another_folder(elsewhere):
    assert "sweep" in elsewhere("-m", "jaxcomp", "--help")


@pytest.mark.slow
def test_a_sweep_by_the_wheel_in_another_folder(elsewhere, tmp_path):
    short = ("--sweep.sizes=24", "--sweep.ratios=16", "--sweep.lr_grid=", "--train.optim.steps=20")
    elsewhere("-m", "jaxcomp", "sweep", "--config=tiny", *short, cwd=tmp_path)
    assert (tmp_path / "runs/tiny/report/results.csv").read_text().count("\n") == 2


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported():
    """Top-level modules that the sources import, but for the standard library and our own."""
    found = set()
    for file in set().union(*map(source_files, ("jaxcomp", "configs", "tests/benchmarks"))):
        if file.suffix != ".py" or file.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"jaxcomp", "tests"}


def declared():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {canonical(re.split(r"[\[<>=!~; ]", r)[0]) for group in groups for r in group}


def test_imports_and_declared_dependencies_are_the_same():
    known = importlib.metadata.packages_distributions()
    # A package that is not installed here (torch) goes by its own name.
    owners = {m: {canonical(d) for d in known.get(m, [m])} for m in imported()}
    undeclared = {module for module, names in owners.items() if not names & declared()}
    assert not undeclared
    unused = declared() - set().union(*owners.values()) - NOT_IMPORTED
    assert not unused
