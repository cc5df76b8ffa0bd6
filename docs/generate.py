"""Write the generated pages of the reference: metrics, config fields, commands, Python API."""

import ast
import inspect
import os
import re
from pathlib import Path

import jaxcomp
from jaxcomp import config
from jaxcomp.analysis import metrics_page
from jaxcomp.cli import main as cli

CONFIG = """# Config fields

Every field is a flag: `--train.optim.lr=3e-4`. An unknown field is an error that suggests the
nearest one. A config file is a Python file whose `get_config()` returns the fields that differ from
these defaults. A field whose type is another section (`train.optim`) has that section's fields.

Types: `Count` is an integer of at least 0, `Size` and `Devices` of at least 1 (-1 for all devices),
`Share` a number from 0 to 1, `Fraction` one below 1, `Positive` above 0, `NotNegative` at least 0.
"""
COMMANDS = """# Commands

Each command prints this text with `--help` and exits with 0 only on success.
"""
API = """# Python API

Import these names from `jaxcomp`.
"""


def write_all(folder: Path) -> None:
    """Write every generated page into `folder`; a page that did not change keeps its time."""
    pages = {
        "metrics": metrics_page.page(),
        "config": config_page(),
        "commands": commands_page(),
        "api": api_page(),
    }
    for name, text in pages.items():
        file = folder / f"{name}.md"
        if not file.is_file() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def config_page() -> str:
    """Return a table for each dataclass of `jaxcomp.config`."""
    source = inspect.getsource(config)
    lines, parts = source.splitlines(), [CONFIG]
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or not node.name.endswith(("Config", "Scaling")):
            continue
        about = (ast.get_docstring(node) or "").partition("\n\n")[0]
        rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
        rows += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in _fields(node, lines)
        ]
        parts += [f"## {node.name}", about.replace("\n", " "), "\n".join(rows)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _fields(node: ast.ClassDef, lines: list[str]):
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            default = one.value
            if isinstance(default, ast.Call):  # field(...)
                named = {word.arg: word.value for word in default.keywords}
                default = named.get("default", named.get("default_factory"))
            shown = ast.unparse(default) if default else ""
            shown = re.sub(r"^lambda: |\(\)$", "", shown) if shown != "()" else shown
            kind = re.sub(r"^Annotated\[(\w+), .*\]$", r"\1", ast.unparse(one.annotation))
            yield f"`{one.target.id}`", f"`{kind}`", f"`{shown}`", _comment(one, lines)


def _comment(node: ast.AnnAssign, lines: list[str]) -> str:
    """Return the comment lines before a field and the comment at its end."""
    found, at = [], node.lineno - 2
    while lines[at].lstrip().startswith("# "):
        found.insert(0, lines[at].strip()[2:])
        at -= 1
    for line in lines[node.lineno - 1 : node.end_lineno]:
        _, mark, text = line.partition("  # ")
        found += [text] if mark else []
    return " ".join(found).replace("<", "&lt;")


def commands_page() -> str:
    """Return the `--help` of every command."""
    os.environ["COLUMNS"] = "100"
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if a.dest == "command" or a.choices)
    parts = [COMMANDS.strip()]
    for name, sub in (commands.choices or {}).items():
        parts.append(f"## {name}\n\n```text\n{sub.format_help().strip()}\n```")
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """Return a table of contents and autodoc directives for `jaxcomp.__all__`."""
    rows = ["| name | |", "|---|---|"]
    for name in jaxcomp.__all__:
        first = (inspect.getdoc(getattr(jaxcomp, name)) or "").partition("\n")[0]
        rows.append(f"| [`{name}`](#{name.lower()}) | {first} |")
    parts = [API.strip(), "\n".join(rows)]
    for name in jaxcomp.__all__:
        one = getattr(jaxcomp, name)
        kind, options = "autofunction", []
        if inspect.isclass(one):
            kind = "autoexception" if issubclass(one, Exception) else "autoclass"
            options = ["   :members:"]
        body = "\n".join([f".. {kind}:: jaxcomp.{name}", *options])
        parts.append(f"## {name}\n\n```{{eval-rst}}\n{body}\n```")
    return "\n\n".join(parts) + "\n"
