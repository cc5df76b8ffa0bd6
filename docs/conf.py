"""The documentation site: `uv run --group docs sphinx-build -W docs docs/_build`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import generate

generate.write_all(Path(__file__).parent / "reference")

project = "jaxcomp"
author = "the jaxcomp authors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results/rows/README.md"]
html_theme = "furo"
html_title = "jaxcomp"
templates_path: list[str] = []

# Headings get anchors, so that pages can link to sections.
myst_heading_anchors = 3
myst_enable_extensions = ["substitution"]

# Tutorials run while the site is built. `-D nb_execution_mode=off` skips them.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_merge_streams = True
# A notebook that was not run names no lexer, and `!` is not Python.
suppress_warnings = ["myst-nb.lexer", "misc.highlighting_failure"]

# Docstrings are Google style, with code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
add_module_names = False

# GitHub Actions names the repository; elsewhere the site has no links to it.
repository = os.environ.get("GITHUB_REPOSITORY")
myst_substitutions = {"colab": ""}
if repository:
    notebook = f"{repository}/blob/main/docs/tutorials/first-compressor.ipynb"
    myst_substitutions["colab"] = (
        "[![Open the first tutorial in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{notebook})"
    )
    html_theme_options = {
        "source_repository": f"https://github.com/{repository}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }
