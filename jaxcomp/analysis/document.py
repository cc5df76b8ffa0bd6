"""A document as blocks, and its two forms: Markdown, and an HTML page that holds its pictures and
links to nothing. Both are made of the same blocks, so they cannot disagree."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple


class Head(NamedTuple):
    text: str


class Para(NamedTuple):
    text: str


class Items(NamedTuple):
    items: list[str]


class Table(NamedTuple):
    header: list[str]
    rows: list[list[str]]


class Picture(NamedTuple):
    name: str
    png: bytes


Block = Head | Para | Items | Table | Picture


def markdown(title: str, blocks: Sequence[Block]) -> str:
    out = [f"# {title}"]
    for b in blocks:
        if isinstance(b, Head):
            out.append(f"## {b.text}")
        elif isinstance(b, Para):
            out.append(b.text)
        elif isinstance(b, Items):
            out.append("\n".join(f"- {i}" for i in b.items))
        elif isinstance(b, Table):
            lines = [b.header, ["---"] * len(b.header), *b.rows]
            out.append(
                "\n".join(f"| {' | '.join(c.replace('|', '/') for c in r)} |" for r in lines)
            )
        else:
            out.append(f"![{b.name.removesuffix('.png')}]({b.name})")
    return "\n\n".join(out) + "\n"


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
div.wide{overflow-x:auto} img{max-width:100%;margin:.3rem} h2{margin-top:2rem}
"""


def page(title: str, blocks: Sequence[Block]) -> str:
    e = html.escape
    out = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{e(title)}</title><style>{STYLE}</style><h1>{e(title)}</h1>"
    ]
    for b in blocks:
        if isinstance(b, Head):
            out.append(f"<h2>{e(b.text)}</h2>")
        elif isinstance(b, Para):
            out.append(f"<p>{e(b.text)}</p>")
        elif isinstance(b, Items):
            out.append("<ul>" + "".join(f"<li>{e(i)}</li>" for i in b.items) + "</ul>")
        elif isinstance(b, Table):
            rows = [("th", b.header), *(("td", r) for r in b.rows)]
            body = "".join(
                "<tr>" + "".join(f"<{tag}>{e(c)}</{tag}>" for c in row) + "</tr>"
                for tag, row in rows
            )
            out.append(f"<div class=wide><table>{body}</table></div>")
        else:
            data = base64.b64encode(b.png).decode()
            out.append(f'<img alt="{e(b.name)}" src="data:image/png;base64,{data}">')
    return "\n".join(out) + "\n"
