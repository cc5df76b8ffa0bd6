"""README and docs: every command parses, every link leads somewhere, every page has its size."""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcomp.cli import main as cli
from jaxcomp.cli.overrides import pairs
from jaxcomp.config import Config

ROOT = Path(__file__).parents[1]
GENERATED = {"api", "commands", "config", "metrics"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in page.parts
        and not (page.parent.name == "reference" and page.stem in GENERATED)
    ),
]


def commands(text):
    """The words after `jaxcomp` of each command in a page's shell blocks and its inline code."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    lines = blocks.splitlines() + re.findall(r"`(uv run [^`\n]*)`", text)
    for line in lines:
        for part in re.findall(r"(?:^|[\s\"(])jaxcomp ((?!-|@)[a-z].*)", line):
            part = re.split(r"[;|&)]| > |\"$", part.split(" #")[0])[0]
            part = re.sub(r"\[[^\]]*\]$|\$\(.*", "X", part)
            yield shlex.split(part.replace("[--", "--").replace("]", ""))


def known(name):
    """Is `name` a field of the config?"""
    kind = Config()
    for part in name.split("."):
        if isinstance(kind, dict):
            return True
        if part not in {field.name for field in dataclasses.fields(kind)}:
            return False
        kind = getattr(kind, part)
    return True


FOUND = [
    pytest.param(words, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, words in enumerate(commands(page.read_text("utf-8")))
]


@pytest.mark.parametrize("words", FOUND)
def test_a_command_of_the_documents_is_one_that_the_program_takes(words):
    _, fields = cli._parser().parse_known_args(words)
    for name, _ in pairs([word for word in fields if word.startswith("--")]):
        assert known(name), f"{name} is neither a flag of {words[0]} nor a config field"


def test_commands_were_found():
    assert len(FOUND) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"(.*?)\"", text)
    for target in targets:
        if re.match(r"\w+:|#", target):
            continue
        file = page.parent / target.partition("#")[0]
        made = file.parent.name == "reference" and file.stem in GENERATED
        assert made or file.exists(), target


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "how-to"], ids=str)
def test_a_how_to_page_has_at_most_400_words(page):
    text = re.sub(r"(?m)^\|[-|]*\|$|\|", " ", page.read_text("utf-8"))
    assert len(text.split()) <= 400


def test_the_readme_has_at_most_900_words():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    true, edited = re.findall(r"nats=([\d.]+)", done.stdout)
    assert float(true) < float(edited)


FEW = (
    "--train.optim.steps=2",
    "--data.val_passages=2",
    "--data.eval_passages=4",
)
ONE = (
    "--sweep.base_seeds=0",
    "--sweep.families=llama",
    "--sweep.workers=1",
    "--sweep.lr_grid=[]",
    *FEW,
)
# What makes a long command of the README short: one setup of its grid, two steps, two passages.
SHORT = {
    "sweep --config=configs/tiny.py": (
        *ONE,
        "--sweep.sizes=64",
        "--sweep.ratios=4",
        "--sweep.primary_ratio=4",
    ),
    "sweep --config=configs/tiny.py:full": (*ONE, "--sweep.sizes=24", "--sweep.ratios=16"),
    "sweep --config=configs/paradox.py:bases=0.5": (
        *ONE,
        "--sweep.sizes=24",
        "--pretrain.optim.steps=2",
    ),
}
# What the README's commands need of the guides that it links to.
BEFORE = {
    "eval --run=runs/one --all --checkpoints=all": (
        "train --config=configs/tiny.py --compressor=llama/24 --memory.ratio=16 "
        "--train.checkpoint_every=1 --train.keep_checkpoints=9 --workdir=runs/one",
        *FEW,
    ),
}


@pytest.mark.slow
def test_the_commands_of_the_readme_run_beside_the_configs(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")

    def run(words):
        command = [sys.executable, "-m", "jaxcomp.cli.main", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"

    said = [
        shlex.join(c) for c in commands((ROOT / "README.md").read_text("utf-8")) if c != ["..."]
    ]
    assert len(said) >= 6
    assert SHORT.keys() | BEFORE.keys() <= set(said)
    for line in said:
        if line in BEFORE:
            first, *few = BEFORE[line]
            run([*shlex.split(first), *few])
        run([*shlex.split(line), *SHORT.get(line, ())])


@pytest.mark.parametrize("file", ["jaxcomp", "configs", "tests", "tpu_scripts"])
def test_pages_that_the_code_names_exist(file):
    for source in (ROOT / file).rglob("*"):
        if source.suffix not in (".py", ".txt", ".sh", ".yaml", ".sbatch"):
            continue
        for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", source.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{source.relative_to(ROOT)} names {name}"
