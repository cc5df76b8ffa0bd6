"""Imports point only downward, in the order of packages of docs/explanation/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxcomp"
LAYERS = (
    ("config",),
    ("runtime",),
    ("data", "models"),
    ("compress",),
    ("training",),
    ("inference",),
    ("evals",),
    ("sweep",),
    ("analysis",),
    ("cli",),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS)  # __init__ and __main__ stand above all


def name_of(file):
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for file in ROOT.rglob("*.py")}


def imports(name):
    """The modules of jaxcomp that a module imports anywhere: also in functions and for types."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [each if each in FILES else node.module for each in whole]
        else:
            continue
        yield from (each for each in found if each and each.split(".")[0] == "jaxcomp")


def layer(name):
    package = name.split(".")[1] if "." in name else ""
    return LAYER.get(package, TOP)


GRAPH = {name: set(imports(name)) - {name} for name in FILES}


def test_every_package_has_a_floor_and_the_root_holds_three_modules():
    assert {f.stem for f in ROOT.glob("*.py")} == {"__init__", "__main__", "config"}
    packages = {f.parent.name for f in ROOT.glob("*/*.py")}
    assert packages | {"config"} == LAYER.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_module_imports_nothing_from_above_or_beside(name):
    package = name.split(".")[1:2]
    for other in GRAPH[name]:
        below = layer(other) < layer(name)
        assert below or other.split(".")[1:2] == package, f"{name} imports {other}"


def test_no_imports_form_a_circle():
    left = {name: set(others) for name, others in GRAPH.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left
