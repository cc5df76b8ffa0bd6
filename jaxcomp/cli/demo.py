"""The command `demo`: source and rebuilt texts side by side in the terminal."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxcomp.cli.common import Command, Flags
from jaxcomp.cli.inference import batch_and_places, no_fields, places_of, tell
from jaxcomp.cli.overrides import number
from jaxcomp.config import ConfigError
from jaxcomp.runtime import compiled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from jaxcomp.evals.demo import Fact, Shown, Span

STYLES = {
    "preserved": "green",
    "overwritten": "bold white on red",
    "swapped": "bold white on magenta",
    "substituted": "bold black on yellow",
    "omitted": "strike dim",
    "added": "cyan",
}
MARKS = {"overwritten": "*", "swapped": "~", "substituted": "?", "omitted": "-", "added": "+"}


def demo(flags: Flags) -> int:
    """Shows texts beside what is rebuilt from their memory."""
    from rich.console import Console

    from jaxcomp.inference.load import shipped

    no_fields(flags)
    compiled.keep()
    if flags.serve:
        from jaxcomp.cli import demo_page

        return demo_page.serve(
            [flags.run] if flags.run else shipped(), places_of(flags), flags.port
        )
    console = Console()
    marked = console.no_color or console.color_system is None
    if flags.run and flags.size:
        raise ConfigError("--size chooses a shipped pair; leave it away with --run")
    names = [flags.run] if flags.run else _chosen(shipped(), flags.size or 64, flags.ratio)
    tables = _tables(flags, names, marked)
    console.print(*tables, _legend(marked), sep="\n")
    if not flags.run:
        _print_measured(console, names)
    return 0


def _tables(flags: Flags, names: Sequence[str], marked: bool) -> list[Table]:
    """A table a text, a row a pair."""
    from rich.table import Table

    from jaxcomp.evals import demo
    from jaxcomp.inference.load import config_at, load

    tables: list[Table] = []
    for name in names:
        cfg = config_at(name, **places_of(flags))
        texts = flags.texts or demo.default_texts(cfg)
        demo.check(cfg, texts)
        tell(f"{name}: loading")
        pair = load(name, ratio=flags.ratio if flags.run else 0, **places_of(flags))
        found = demo.show(cfg, pair, texts)
        if not tables:
            if any(shown.facts and shown.tokens < cfg.data.segment // 2 for shown in found):
                tell(
                    "pairs of the controlled world are trained on passages of 50 to 64 words that "
                    "begin with where people talked; a shorter text is rebuilt badly"
                )
            tables = [Table(show_lines=True, expand=True) for _ in found]
            for table in tables:
                table.add_column("")
                table.add_column("source", ratio=1)
                table.add_column("rebuilt", ratio=1)
        for table, shown in zip(tables, found, strict=True):
            label = f"{name.rpartition('/')[2]}\n{shown.tokens} tokens in\n{_vectors(shown)}"
            rebuilt = _coloured(shown.rebuilt, marked)
            for fact in shown.facts:
                if fact.outcome != "preserved":
                    rebuilt.append(f"\n{_told(fact)}", "dim")
            table.add_row(label, _coloured(shown.source, marked), rebuilt)
    return tables


def _print_measured(console: Console, names: Sequence[str]) -> None:
    """What became of the facts of held-out passages, by the cards of shipped pairs."""
    from rich.table import Table

    from jaxcomp.data.facts import OUTCOMES
    from jaxcomp.inference.load import place_of, read_about

    metrics = {name: read_about(place_of(name)).metrics for name in names}
    passages = metrics[names[0]]["counterfactual/passages"]
    console.print(f"Facts against the models' prior in {passages} held-out passages (%):")
    table = Table("")
    for name in names:
        table.add_column(name.removeprefix("demo/"), justify="right")
    for each in OUTCOMES:
        rates = (100 * m[f"counterfactual/nonfavourite/all/{each}"] for m in metrics.values())
        table.add_row(each, *(f"{rate:.1f}" for rate in rates))
    console.print(table)


def _chosen(names: Sequence[str], size: int, ratio: int) -> list[str]:
    """The shipped pairs of a size and a ratio. Raises ConfigError where there is none."""
    wanted = f"-{size}-r{ratio or ''}"
    found = [n for n in names if (n.endswith(wanted) if ratio else wanted in n)]
    if not found:
        raise ConfigError(
            f"no pair of --size={size}{f' --ratio={ratio}' * (ratio > 0)} ships with jaxcomp; "
            f"expected one of: {', '.join(names)}"
        )
    return sorted(found, key=lambda name: int(name.rpartition("-r")[2]))


def _vectors(shown: Shown) -> str:
    return f"{shown.vectors} vector{'s' * (shown.vectors != 1)}"


def _coloured(spans: Sequence[Span], marked: bool) -> Text:
    """A text in colours; `marked`: between marks, for who sees no colours."""
    from rich.text import Text

    # What stands between two words of one outcome belongs to them.
    outcomes = [span.outcome for span in spans]
    for k in range(1, len(spans) - 1):
        if spans[k].text.isspace() and outcomes[k - 1] == outcomes[k + 1]:
            outcomes[k] = outcomes[k - 1]
    out = Text()
    pairs = zip(outcomes, spans, strict=True)
    for outcome, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        mark = MARKS.get(outcome, "") if marked else ""
        out.append(f"{mark}{''.join(span.text for _, span in group)}{mark}", STYLES.get(outcome))
    return out


def _told(fact: Fact) -> str:
    return f"{fact.about}: {fact.value} → {fact.rebuilt or '–'} ({fact.outcome})"


def _legend(marked: bool) -> Text:
    from rich.text import Text

    from jaxcomp.evals.demo import MEANING, Span

    lines = [
        Text.assemble(_coloured([Span(name, name)], marked), f": {meaning}")
        for name, meaning in MEANING.items()
    ]
    return Text("\n").join([*lines, Text()])


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: two passages")
    parser.add_argument(
        "--size", type=number(1), default=0, metavar="N", help="width of the compressor (64)"
    )
    parser.add_argument(
        "--ratio",
        type=number(1),
        default=0,
        metavar="N",
        help="tokens a vector (default: 4, 16, 64)",
    )
    parser.add_argument("--run", default="", metavar="DIR", help="a pair of your own instead")
    parser.add_argument("--serve", action="store_true", help="a web page (extra `demo`)")
    parser.add_argument(
        "--port", type=number(1, 65535), default=7860, metavar="N", help="of the page (7860)"
    )
    batch_and_places(parser)


COMMANDS = (
    Command(
        "demo",
        "see what trained compressors preserve, overwrite and omit",
        "jaxcomp demo --size=24 --ratio=4",
        "Compresses texts, rebuilds them from the memory vectors alone, and shows both side by\n"
        "side, with what became of every fact. Needs no training and no download.\n"
        "The pairs that ship were trained on the controlled world and know its words only; --run\n"
        "shows a pair of your own.",
        _flags,
        demo,
        "",
        "one",
    ),
)
