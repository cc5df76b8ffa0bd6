"""Self-contained HTML pages from the templates in `jaxcomp/templates`."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

# Colours by role. Series are Okabe and Ito's, darkened or lightened until text in them is readable.
LIGHT = {
    "paper": "#ffffff", "ink": "#1f2328", "soft": "#59636e", "grid": "#e3e6ea", "link": "#0757a8",
    "c0": "#0060a0", "c1": "#b84e00", "c2": "#00705a", "c3": "#93407a", "c4": "#806000",
    "c5": "#31688e", "c6": "#8c2d04",
    "preserved": "#0072b2", "overwritten": "#d55e00", "swapped": "#cc79a7",
    "substituted": "#e69f00", "omitted": "#b8bec6", "reverted": "#d55e00",
}  # fmt: skip
DARK = LIGHT | {
    "paper": "#0d1117", "ink": "#e6edf3", "soft": "#9da7b3", "grid": "#2a313a", "link": "#6cb6ff",
    "c0": "#58b1ee", "c1": "#ff9a57", "c2": "#3fcfa5", "c3": "#e59ac8", "c4": "#e6bd3f",
    "c5": "#8ac6e8", "c6": "#f2a37e", "omitted": "#59636e",
}  # fmt: skip


def render(
    template: str, *, scripts: Sequence[str] = (), evals: bool = False, **values: Any
) -> str:
    """Fill a template of a page. All text in it is escaped.

    Args:
      template: name of a file in `jaxcomp/templates`.
      scripts: the only JavaScript that the page's policy lets run.
      evals: may these scripts compile expressions, as Vega does?
      values: what the template names.
    """
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = [*(f"'sha256-{h}'" for h in hashes), *(["'unsafe-eval'"] if evals else [])]
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {' '.join(allowed) or chr(39) + 'none' + chr(39)}"
    )
    themes = {"light": LIGHT, "dark": DARK}
    page = templates().get_template(template)
    text = page.render(scripts=scripts, policy=policy, themes=themes, **values)
    return text.replace("\0", "\ufffd")  # HTML knows no NUL


def source(name: str) -> str:
    """A file of `jaxcomp/templates` as it is."""
    return (resources.files("jaxcomp") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
