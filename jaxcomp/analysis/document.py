"""A document as blocks, written as Markdown (for GitHub) and as one self-contained HTML page."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from jaxcomp.analysis import charts
from jaxcomp.analysis.charts import Chart
from jaxcomp.runtime import pages
from jaxcomp.sweep.store import write_bytes, write_text


class Head(NamedTuple):
    text: str


class Para(NamedTuple):
    """`page`: what is said more on the HTML page, which has colours, tooltips and links."""

    text: str
    page: str = ""


class Items(NamedTuple):
    items: Sequence[str]


class Alert(NamedTuple):
    """What a reader must know before all else."""

    text: str
    items: Sequence[str] = ()


class Answer(NamedTuple):
    """The answer to a question: yes, no or inconclusive, and what it rests on."""

    question: str
    sign: str
    why: str
    numbers: str = ""
    settle: str = ""
    others: str = ""

    @property
    def sentence(self) -> str:
        said = (f"{self.question} {self.sign}.", self.why, self.numbers, self.settle, self.others)
        return " ".join(x for x in said if x)


class Link(NamedTuple):
    text: str
    href: str


class Table(NamedTuple):
    """`left` columns of words come first; `ids` are anchors of the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | list[Link]]]
    caption: str = ""
    left: int = 2
    ids: Sequence[str] = ()


class Part(NamedTuple):
    """A piece of a text; `outcome` names what became of the fact that it states, if any."""

    text: str
    outcome: str = ""


class Example(NamedTuple):
    title: str
    source: Sequence[Part]
    rebuilt: Sequence[Part]


class Folded(NamedTuple):
    """Shown on demand; in Markdown, the short form, only where it is `brief`."""

    title: str
    blocks: Sequence[Block]
    brief: bool = False


Block = Head | Para | Items | Alert | Answer | Table | Chart | Example | Folded


def write(
    folder: Path,
    stem: str,
    title: str,
    blocks: Sequence[Block],
    terms: Mapping[str, str] | None = None,
) -> Path:
    """Write `stem`.md, `stem`.html and a PNG a chart; return the page's path.

    Args:
      terms: definitions; where a table's header names one, it links to it.

    Raises:
      OSError: the disk is full.
    """
    for block in blocks:
        if isinstance(block, Chart):
            write_bytes(folder / f"{block.name}.png", charts.png(block))
    write_text(folder / f"{stem}.md", markdown(title, blocks))
    write_text(folder / f"{stem}.html", page(title, blocks, terms))
    return folder / f"{stem}.html"


def page(title: str, blocks: Sequence[Block], terms: Mapping[str, str] | None = None) -> str:
    """The HTML page; Vega is in it only where a chart is."""
    drawn = any(isinstance(b, Chart) for b in _all(blocks))
    scripts = (
        *((_vega(), pages.source("charts.js")) if drawn else ()),
        pages.source("document.js"),
    )
    filters = {
        "kind": lambda block: type(block).__name__,
        "linked": linked,
        "anchor": anchor,
        "prose": prose,
        "page_spec": charts.on_page,
    }
    pages.templates().filters.update(filters)
    return pages.render(
        "document.html.jinja",
        scripts=scripts,
        evals=drawn,
        title=title,
        blocks=blocks,
        terms=terms or {},
    )


def _all(blocks: Sequence[Block]):
    for block in blocks:
        yield block
        if isinstance(block, Folded):
            yield from _all(block.blocks)


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, which draw the charts of a page."""
    import vl_convert

    give = "window.vegaEmbed = vegaEmbed;"
    return vl_convert.javascript_bundle(give).replace("</script", "<\\/script")


def linked(text: str, terms: Mapping[str, str]) -> Markup:
    """The text; the first place of each term in it leads to its definition."""
    names = sorted(terms, key=len, reverse=True)
    if not names:
        return escape(text)
    out, seen = [], set()
    for piece in re.split(f"({'|'.join(map(re.escape, names))})", text):
        if piece in terms and piece not in seen:
            seen.add(piece)
            link = Markup('<a class="term" href="#{}" title="{}">{}</a>')
            out.append(link.format(anchor(piece), terms[piece], piece))
        else:
            out.append(escape(piece))
    return Markup("").join(out)


def prose(text: str) -> Markup:
    """The text, with `code` in backticks."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def anchor(term: str) -> str:
    return "def-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


# --- Markdown ----------------------------------------------------------------------------------


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """All blocks but those of the page alone; without a title where that is empty."""
    head = [f"# {_md(title)}"] if title else []
    return "\n\n".join([*head, *(s for b in blocks if (s := _shown(b)))]) + "\n"


def _shown(b: Block) -> str:
    match b:
        case Head(text):
            return f"## {_md(text)}"
        case Para(text):
            return _with_code(text)
        case Items(items):
            return "\n".join(f"- {_md(i)}" for i in items)
        case Alert(text, items):
            return "\n".join([f"**{_md(text)}**", "", *(f"- {_md(i)}" for i in items)]).strip()
        case Answer():
            lines = [f"**{b.question} {b.sign}.** {b.why}", b.numbers, b.settle, b.others]
            return "\n\n".join(_md(line, "<|") for line in lines if line)
        case Table(header, rows, caption):
            lines = [header, ["---"] * len(header), *rows]
            table = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in lines)
            return f"{table}\n\n{_md(caption)}".strip()
        case Chart(name, _, alt, caption):
            return f"![{_md(alt)}]({name}.png)\n\n{_md(caption)}".strip()
        case Example(title, source, rebuilt):
            return f"### {_md(title)}\n\n- Source: {_plain(source)}\n- Rebuilt: {_plain(rebuilt)}"
        case Folded(title, blocks, True):
            return "\n\n".join([f"## {_md(title)}", *map(_shown, blocks)])
        case _:
            return ""


def _cell(cell: str | list[Link]) -> str:
    return _md(cell if isinstance(cell, str) else " ".join(link.text for link in cell))


def _plain(parts: Sequence[Part]) -> str:
    return _md(" ".join("".join(part.text for part in parts).split()))


def _with_code(text: str) -> str:
    """The text, escaped but for its `code`; all of it where pairs of backticks are in doubt."""
    pieces = [text] if re.search(r"[`\\]`", text) else re.split("(`[^`]+`)", text)
    return "".join(piece if i % 2 else _md(piece, "<|*[") for i, piece in enumerate(pieces))


def _md(text: str, marks: str = "<|*`[") -> str:
    """The text with `marks` escaped; `<` only where HTML begins, so not in `p < 0.001`."""
    if "<" in marks:
        text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
        text = re.sub(r"(?<! )>", "&gt;", text)
    return re.sub(f"([{re.escape(marks.replace('<', ''))}])", r"\\\1", text)
