"""Charts as Vega-Lite panels, rendered as interactive page, PNG and PDF from one description.

A panel names colours by role (`@ink`, `@c0`, ...); a theme of `runtime.pages` gives them values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxcomp.runtime.pages import DARK, LIGHT

__all__ = ["DARK", "LIGHT", "Chart", "lines", "on_page", "pdf", "png", "stacked"]

# The page's style sheet gives the values, so the reader's light or dark mode decides.
PAGE = {name: f"var(--{name})" for name in LIGHT}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
LEGEND = {"title": None, "orient": "bottom", "columns": 4, "symbolOpacity": 1}
SERIES = 7  # colours; more series repeat them

Panel = dict[str, Any]
Point = Mapping[str, Any]


class Chart(NamedTuple):
    """Rows of panels under one file name. `alt` says in words what is to be seen; `legend` names
    what the colours stand for (name -> role); `page`, what the caption says more on a
    page."""

    name: str
    rows: Sequence[Sequence[Panel]]
    alt: str
    caption: str = ""
    legend: Mapping[str, str] = MappingProxyType({})
    page: str = ""


def lines(
    points: Sequence[Point],
    title: str,
    x: str,
    y: str,
    *,
    log: bool = False,
    share: bool = False,
    joined: bool = True,
    ticks: Mapping[float, str] | None = None,
) -> Panel:
    """A panel of values with intervals, a line a series, named at its end (more than four, or
    series that are not joined: in a legend).

    Args:
      points: `x`, `value`, `series` of each; `low` and `high` (or None), and `about`: what the
        tooltip says, by name; `link`: where a click leads.
      title: of the panel.
      x: title of the axis, with its unit.
      y: the same.
      log: is x on a log scale?
      share: are values shares, shown as percentages?
      joined: are points of one series joined?
      ticks: names of places on the x axis.
    """
    names = list(dict.fromkeys(p["series"] for p in points))
    named = joined and len(names) <= 4  # at the ends of the lines; else in a legend
    reach = [p["x"] for p in points]

    def x_of(p: Point) -> float:
        """Side by side, or the intervals of two series would cover each other."""
        aside = names.index(p["series"]) - (len(names) - 1) / 2
        if log:
            return p["x"] * (max(reach) / min(reach)) ** (0.015 * aside)
        return p["x"] + 0.015 * aside * (max(reach) - min(reach))

    number = "~%" if share else "~f"  # as many digits as the ticks need
    domain = _domain(points, share)
    about = list(dict.fromkeys(name for p in points for name in p.get("about", {})))
    rows = [
        {k: p.get(k) for k in ("value", "low", "high", "series", "link")}
        | {"x": x_of(p)}
        # Vega reads dots, brackets and quotes in the name of a field as a path.
        | {f"about{i}": p.get("about", {}).get(name) for i, name in enumerate(about)}
        for p in points
    ]
    color = {
        "field": "series",
        "scale": {"domain": names, "range": [f"@c{i % SERIES}" for i in range(len(names))]},
        "legend": None if named else LEGEND,
    }
    shapes = {"domain": names, "range": [SHAPES[i % len(SHAPES)] for i in range(len(names))]}
    axis = {"title": x, "tickCount": 4, "labelFlush": False, "grid": False}
    axis["format"] = "~s" if max(map(abs, reach)) >= 1000 else "~f"
    if log:
        axis |= {"values": _ticks(reach), "format": f".{_digits(reach)}~s"}
    if ticks:
        texts = {f"{at:g}": text.split() for at, text in ticks.items()}  # a word a line
        axis |= {"values": list(ticks), "labelExpr": f"{json.dumps(texts)}[datum.value]"}
        axis |= {"labelOverlap": False}
    kind = {"type": "log"} if log else {"type": "linear", "zero": False}
    scale = kind | {"nice": False, "padding": 12}
    place = {
        "x": {"field": "x", "type": "quantitative", "scale": scale, "axis": axis},
        "y": {
            "field": "value",
            "type": "quantitative",
            "scale": {"zero": False, "nice": False, "padding": 8} | domain,
            # A label over the top, or a missing title, would push the panel out of its row.
            "axis": {
                "title": y or " ",
                "format": number,
                "tickCount": 5,
                "minExtent": 36,
                "labelFlush": 6,
            },
        },
    }
    hover = [
        {"field": f"about{i}", "type": "nominal", "title": name} for i, name in enumerate(about)
    ]
    tip = {"tooltip": hover} if hover else {}
    bars: Panel = {
        "transform": [{"filter": "datum.low != null"}],
        "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.75},
        "encoding": place | {"y": place["y"] | {"field": "low"}, "y2": {"field": "high"}},
    }
    layers: list[Panel] = [
        *([bars] if any(p.get("low") is not None for p in points) else []),
        {
            "mark": {
                "type": "point",
                "filled": True,
                "size": 64,
                "opacity": 1,
                "cursor": "pointer",
            },
            "encoding": place
            | {"shape": {"field": "series", "scale": shapes, "legend": None if named else LEGEND}}
            | tip,
        },
    ]
    if joined:
        mark = {"type": "line", "strokeWidth": 1.8, "interpolate": "linear"}
        layers.insert(-1, {"mark": mark, "encoding": place | {"order": {"field": "x"}}})
    if named and len(names) > 1:
        mark = {"type": "text", "align": "left", "dx": 9, "fontWeight": 600, "clip": False}
        text = {"text": {"field": "series"}}
        ends = {"values": _ends(rows, names, domain.get("domain"))}
        layers.append({"data": ends, "mark": mark, "encoding": place | text})
    return {
        "title": title,
        "data": {"values": rows},
        "layer": [layer | {"encoding": layer["encoding"] | {"color": color}} for layer in layers],
    }


def stacked(
    points: Sequence[Point], title: str, x: str, colours: Mapping[str, str], order: Sequence[str]
) -> Panel:
    """A panel of horizontal bars in `order`: of each `bar` the `share` of each part, in its
    colour (the name of a part -> a role, such as `c0`)."""
    about = ("bar", "part", "value", "runs")
    return {
        "title": title,
        "height": 20 * len(order),
        "data": {"values": [dict(p) for p in points]},
        "mark": {"type": "bar", "cursor": "pointer"},
        "encoding": {
            "y": {
                "field": "bar",
                "type": "nominal",
                "sort": list(order),
                "axis": {
                    "title": None,
                    "domain": False,
                    "ticks": False,
                    "labelLimit": 140,
                    "minExtent": 64,
                },
            },
            "x": {
                "field": "share",
                "type": "quantitative",
                "stack": "zero",
                "scale": {"domain": [0, 1]},
                "axis": {"title": x, "format": ".0%", "tickCount": 5},
            },
            "color": {
                "field": "part",
                "scale": {
                    "domain": list(colours),
                    "range": [f"@{role}" for role in colours.values()],
                },
                "legend": None,
            },
            "order": {"field": "place", "type": "ordinal"},
            "tooltip": [{"field": name} for name in about if name in points[0]],
        },
    }


def _ticks(xs: Sequence[float]) -> list[float]:
    """1, 2, 5 times powers of ten inside the range, at most four. What is not above 0, as only a
    damaged row has it, has no place on a logarithmic axis."""
    low, high = min((x for x in xs if x > 0), default=1.0), max(*xs, 1.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [
            m * 10.0**k for k in powers for m in steps if low * 0.95 <= m * 10**k <= high / 0.95
        ]
        if len(found) <= 4:
            return found or sorted({low, high})
    return found


def _digits(xs: Sequence[float]) -> int:
    """Digits that tell the ticks of `_ticks` apart."""
    return 3 if 1 < max(xs) / min(xs) < 1.1 else 2


def _domain(points: Sequence[Point], share: bool) -> dict[str, list[float]]:
    """A domain where all values are one, which else has a single tick, of too few digits."""
    low, high = _span(points)
    if high - low > 1e-4 * max(abs(low), abs(high)):
        return {}
    pad = 0.1 * abs(high) or 0.1
    top = min(high + pad, 1.0) if share else high + pad
    return {"domain": [max(low - pad, 0.0) if low >= 0 else low - pad, top]}


def _span(points: Sequence[Point]) -> tuple[float, float]:
    """The least and the greatest value or bound of an interval."""
    found = [v for p in points for k in ("value", "low", "high") if (v := p.get(k)) is not None]
    return min(found), max(found)


def _ends(
    rows: Sequence[dict[str, Any]], names: Sequence[str], domain: Sequence[float] | None
) -> list[dict[str, Any]]:
    """Where the name of each series stands: at its last point, or so far from it that names do not
    cover each other."""
    low, high = domain or _span(rows)
    gap = 0.09 * (high - low)
    last = [max((r for r in rows if r["series"] == name), key=lambda r: r["x"]) for name in names]
    last.sort(key=lambda r: r["value"])
    places = [r["value"] for r in last]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    shift = sum(p - r["value"] for p, r in zip(places, last, strict=True)) / len(places)
    right = max(r["x"] for r in last)
    return [
        {"x": right, "value": place - shift, "series": r["series"]}
        for place, r in zip(places, last, strict=True)
    ]


def themed(panel: Panel, theme: Mapping[str, str]) -> Panel:
    """The panel with the colours of a theme and the look that all panels share."""
    text = {"labelColor": "@soft", "titleColor": "@soft", "labelFontSize": 11, "titleFontSize": 11}
    look = {
        "background": None if theme is PAGE else "@paper",
        "font": "system-ui, sans-serif" if theme is PAGE else "Liberation Sans, sans-serif",
        "view": {"stroke": None},
        "title": {
            "anchor": "start",
            "frame": "group",
            "color": "@ink",
            "fontSize": 13,
            "fontWeight": 600,
            "offset": 10,
        },
        "axis": text
        | {
            "titleFontWeight": "normal",
            "domainColor": "@soft",
            "tickColor": "@soft",
            "gridColor": "@grid",
        },
        "legend": {"labelColor": "@soft", "labelFontSize": 11},
        "text": {"fontSize": 12},
    }
    said = json.dumps(panel | {"config": look})
    for name, value in theme.items():
        said = said.replace(f'"@{name}"', json.dumps(value))
    return json.loads(said)


def on_page(panel: Panel) -> Panel:
    """The panel as wide as its place on a page."""
    size = {"width": "container", "height": panel.get("height", 190), "description": panel["title"]}
    fit = {"autosize": {"type": "fit-x", "contains": "padding"}}
    return themed({"$schema": SCHEMA} | panel | size | fit, PAGE)


def _whole(chart: Chart, theme: Mapping[str, str], size: tuple[int, int]) -> Panel:
    width, height = size
    sized = [
        {
            "hconcat": [
                {"width": width, "height": height} | _keyed(panel, chart.legend) for panel in row
            ],
            "spacing": 28,
        }
        for row in chart.rows
    ]
    return themed({"vconcat": sized, "spacing": 28, "padding": 12}, theme)


def _keyed(panel: Panel, names: Mapping[str, str]) -> Panel:
    """The panel of a chart whose legend stands on a page beside it, with that legend in it."""
    if not names:
        return panel
    legend = LEGEND | {"orient": "top", "columns": len(names), "labelFontSize": 12}
    encoding = panel["encoding"]
    return panel | {"encoding": encoding | {"color": encoding["color"] | {"legend": legend}}}


def png(chart: Chart, theme: Mapping[str, str] = LIGHT, size=(230, 170)) -> bytes:
    import io

    import vl_convert
    from PIL import Image

    found = vl_convert.vegalite_to_png(_whole(chart, theme, size), scale=2)
    out = io.BytesIO()
    # 256 colours are enough for a chart, and a quarter of the bytes.
    Image.open(io.BytesIO(found)).convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def pdf(chart: Chart, size=(230, 170)) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_pdf(_whole(chart, LIGHT, size))
