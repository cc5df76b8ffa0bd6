"""`jaxcomp demo --serve`: the same as a web page, on this machine (gradio, extra `demo`)."""

from __future__ import annotations

import functools
import socket
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxcomp.cli.inference import tell
from jaxcomp.config import ConfigError
from jaxcomp.evals import demo
from jaxcomp.evals.demo import MEANING, Shown, Span
from jaxcomp.inference.load import DEMO, config_at, load

# Text and background, WCAG AA on white; the meaning also stands in each word's title.
_COLOURS = {
    "preserved": ("#14532d", "#dcfce7"),
    "overwritten": ("#ffffff", "#b91c1c"),
    "swapped": ("#ffffff", "#86198f"),
    "substituted": ("#422006", "#fde68a"),
    "omitted": ("#4b5563", "#e5e7eb"),
    "added": ("#164e63", "#cffafe"),
}
# Gradio's own orange and grey are under 4.5 to 1.
_STYLE = (
    "<style>button.primary { background: #1d4ed8 !important; color: #fff !important }"
    " footer, footer * { color: inherit !important; opacity: 1 !important }</style>"
)


def serve(names: Sequence[str], places: dict[str, Any], port: int) -> int:
    """Serve the page until it is stopped.

    Args:
      names: the pairs to choose from, as `load` takes them.
      places: where their base models are, if they have moved.
      port: of this machine.

    Raises:
      ConfigError: gradio is not installed, or the port is in use.
    """
    try:
        import gradio as gr  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ConfigError(
            "--serve needs gradio: uv run --extra demo jaxcomp demo --serve"
        ) from error
    check_port(port)

    @functools.cache
    def pair_of(name: str) -> tuple[Any, Any]:
        return config_at(name, **places), load(name, **places)

    def rebuild(text: str, size: str, ratio: str) -> tuple[str, str, str]:
        try:
            (shown,) = demo.show(*pair_of(f"{size}-r{ratio}" if ratio else size), [text])
        except ValueError as error:
            return f"<p role='alert'>{escape(str(error))}</p>", "", ""
        source, rebuilt = html_of(shown.source), html_of(shown.rebuilt)
        return f"<h3>Source</h3>{source}", f"<h3>Rebuilt</h3>{rebuilt}", facts_of(shown)

    sizes, ratios = axes(names)
    texts = demo.default_texts(config_at(names[0], **places))
    with gr.Blocks(title="jaxcomp demo", analytics_enabled=False) as page:
        gr.Markdown(
            "# jaxcomp demo\nA compressor turns the passage into memory vectors; a frozen decoder "
            "rebuilds it from these alone. Edit the passage, choose a pair, hover over a word."
        )
        text = gr.Textbox(texts[0], label="Passage", lines=4)
        gr.Examples([[t] for t in texts], [text])
        with gr.Row():
            size = gr.Radio(sizes, value=sizes[-1], label="Compressor")
            ratio = gr.Radio(ratios, value=ratios[len(ratios) // 2], label="Tokens a memory vector")
        go = gr.Button("Rebuild", variant="primary")
        with gr.Row():
            source = gr.HTML(container=True)
            rebuilt = gr.HTML(container=True)
        gr.HTML(legend() + _STYLE)
        facts = gr.HTML()
        gr.on(
            [page.load, go.click, size.change, ratio.change],
            rebuild,
            [text, size, ratio],
            [source, rebuilt, facts],
        )
    tell(f"http://127.0.0.1:{port} (Ctrl-C stops it)")
    page.launch(server_name="127.0.0.1", server_port=port, quiet=True)
    return 0


def axes(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The compressors and the ratios of shipped pairs; of a single run, itself and no ratio."""
    parts = [name.rpartition("-r") for name in names]
    if not all(name.startswith(DEMO) for name in names):
        return list(names), [""]
    return sorted({p[0] for p in parts}), sorted({p[2] for p in parts}, key=int)


def check_port(port: int) -> None:
    """Raises ConfigError where a port of this machine is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"--port={port} cannot be opened ({error.strerror}); choose another --port"
            ) from error


def html_of(spans: Sequence[Span]) -> str:
    """A text with what became of each word; a rebuilt word's probabilities are in its title."""
    return f"<span style='line-height:1.9'>{''.join(map(_span, spans))}</span>"


def _span(span: Span) -> str:
    if not span.outcome and span.p is None:
        return str(escape(span.text))
    title = [span.outcome] if span.outcome else []
    if span.p is not None and span.p_no_memory is not None:
        title.append(f"p = {span.p:.2f} with the memory, {span.p_no_memory:.2f} without")
    style = ""
    if span.outcome:
        text, background = _COLOURS[span.outcome]
        style = f" style='color:{text};background:{background};border-radius:3px;padding:1px 3px'"
    return f"<span title='{escape('; '.join(title))}'{style}>{escape(span.text)}</span>"


def facts_of(shown: Shown) -> str:
    """A table of the facts of a text of the controlled world; "" where there is none."""
    rows = [
        f"<tr><td>{escape(f.about)}</td><td>{escape(f.value)}</td>"
        f"<td>{escape(f.rebuilt or '–')}</td><td>{escape(f.outcome)}</td></tr>"
        for f in shown.facts
    ]
    head = "<tr><th>fact</th><th>source</th><th>rebuilt</th><th>outcome</th></tr>"
    plural = "s" * (shown.vectors != 1)
    size = f"<p>{shown.tokens} tokens, {shown.vectors} memory vector{plural}</p>"
    if not rows:
        return size
    return f"{size}<div style='overflow-x:auto'><table>{head}{''.join(rows)}</table></div>"


def legend() -> str:
    return " ".join(html_of([Span(f"{name}: {MEANING[name]}", name)]) for name in _COLOURS)
