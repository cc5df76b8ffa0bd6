"""The metrics page, generated from declarations: `python -m jaxcomp.analysis.metrics_page`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

from jaxcomp.evals import evaluation
from jaxcomp.evals.metric import PLACEHOLDERS, WITHOUT, Measure
from jaxcomp.evals.metrics import every

TITLE = "# Metrics"
# The order of sections; a module that is not named comes after these.
FIRST = (
    "reconstruction",
    "facts",
    "favourites",
    "prior_conflict",
    "edits",
    "geometry",
    "uncertainty",
)
LAST = ("knowledge", "pairs", "training")
INSPECT = ("jaxcomp.evals.attribution", "jaxcomp.evals.linear_probe")
HEAD = """
Each name in a table is a column of `report/results.csv` and a key of `eval.json`. A number is
declared in the file that measures it ([how to add one](../how-to/add-a-metric.md)); this page is
made of these declarations. How means, intervals, trends and the verdict come about:
[Statistics](../explanation/statistics.md).

**Conventions.**

- An empty value (None) means that the denominator is zero or that the number cannot be measured; it
  is never a zero in disguise.
- *Tokens* are the decoder's. *Target tokens* are a passage's tokens and one end token; *source
  tokens* are without it. A passage that does not fit `data.segment` × `data.segments` or
  `data.target` is left out whole and counted, so source, target and reference are the same text.
- *TF* (teacher-forced): the decoder reads the true tokens before each position. *FR*
  (free-running): it reads its own, greedy, until its end token or `data.target` tokens.
- *Nats* are natural logarithms, *bits* base 2; *bytes* are of the UTF-8 of the source text.
- *Ratio of sums*: every token, byte or fact weighs the same. *Mean over passages*: every passage.
- *Memory vectors* are those after the connector, in the decoder's width D (memory kind `kv`: its
  keys and values, D = 2 Y K H numbers, those of the first layer included). A segment of t tokens
  has ceil(t / ratio) valid ones, and only these count.
- **{without}**: the same decoder without memory, with the same positions, markers and prompts; all
  memory vectors are hidden from attention. Every section names the metrics that are measured so
  too, as `<set>/{without}/...`.
- *95% intervals* of one trained pair: percentiles of 1,000 bootstrap draws of its passages, of
  metrics that are ratios of sums.
"""
MEANINGS = {
    "set": "a held-out set: of a controlled world (`ordinary`: facts drawn as in pretraining text; "
    "`counterfactual`: each fact off its favourite value with probability 1/2; people only, "
    "`erased`: one value left out), or of a real text (`test`: held-out works)",
    "world": "a set of a controlled world",
    "group": "a group of facts of the people world",
    "kind": "of a fact, or its group",
    "edit": "of an edit",
    "dimension": "of a minimal pair",
    "i": "a number",
}


def page() -> str:
    """The whole page."""
    said = [TITLE, HEAD.strip().format(without=WITHOUT)]
    used = sorted({key for m in every() for x in m.metrics for key in _keys(x.name)}, key=_place)
    said.append("**Placeholders.**\n")
    said[-1] += "".join(f"\n- `<{key}>`, {MEANINGS[key]}: {_values(key)}." for key in used)
    for module, measures in _sections():
        said += _said(module)
        lines = ["| name | unit | run | average | better | definition |", "|---" * 6 + "|"]
        lines += [
            f"| `{x.name}` | {x.unit} | {x.run} | {x.average} | {x.better or '–'} | "
            f"{x.definition} |"
            for measure in measures
            for x in measure.metrics
        ]
        said.append("\n".join(lines))
        bare = [name for measure in measures for name in measure.without]
        if bare:
            said.append(f"With `{WITHOUT}/` too: {', '.join(f'`{name}`' for name in bare)}.")
    for module in (*evaluation.shipped().values(), *INSPECT):
        said += _said(module)
    return "\n\n".join(said) + "\n"


def _said(module: str) -> list[str]:
    """A module's docstring as a section."""
    doc = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    title, _, text = doc.partition("\n")
    return [f"## {title.rstrip('.')}", *([text.strip()] if text else [])]


def _sections() -> Iterator[tuple[str, list[Measure]]]:
    found: dict[str, list[Measure]] = {}
    for measure in every():
        found.setdefault(measure.module, []).append(measure)

    def place(module: str) -> tuple[int, str]:
        name = module.rpartition(".")[2]
        if name in FIRST:
            return FIRST.index(name), name
        return len(FIRST) + (LAST.index(name) + 1 if name in LAST else 0), name

    for module in sorted(found, key=place):
        yield module, found[module]


def _keys(name: str) -> list[str]:
    return re.findall("<([a-z]+)>", name)


def _place(key: str) -> int:
    return list(PLACEHOLDERS).index(key)


def _values(key: str) -> str:
    values = PLACEHOLDERS[key]
    return f"{values[0]} to {values[-1]}" if key == "i" else ", ".join(f"`{v}`" for v in values)


if __name__ == "__main__":
    print(page(), end="")
