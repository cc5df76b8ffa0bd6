"""Commands that use a trained pair: compress, reconstruct, ask, inspect, export."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcomp.cli.common import Command, Flags
from jaxcomp.cli.overrides import number
from jaxcomp.config import ConfigError
from jaxcomp.runtime import live, paths


def compress(flags: Flags) -> int:
    from jaxcomp.inference import documents

    no_fields(flags)
    texts = documents.read([str(here(name)) for name in flags.inputs], flags.field)
    done = documents.compress(
        pair_of(flags), texts, here(flags.out), part=flags.part, dtype=flags.dtype, say=tell
    )
    if not done.texts:
        tell(f"nothing to do: {done.before} texts are in {flags.out} already")
    else:
        found = f" ({done.before} more were there)" if done.before else ""
        tell(f"{done.texts} texts in {len(done.files)} file(s) of {flags.out}{found}")
    return 0


def reconstruct(flags: Flags) -> int:
    memories = list(_memories(flags))
    pair = pair_of(flags)
    several = len(memories) > 1 or len(memories[0]) > 1
    with live.line("rebuilding", sum(map(len, memories)), "texts") as row:
        for memory in memories:
            for start in range(0, len(memory), flags.batch):
                part = memory[start : start + flags.batch]
                texts = pair.reconstruct(part, max_new=flags.max_new)
                for name, text in zip(part.ids, texts, strict=True):
                    _print({"id": name, "text": text}, several, "text")
                row.done += len(part)
    return 0


def ask(flags: Flags) -> int:
    memories = list(_memories(flags))
    given = [flags.question] if flags.question else _lines()
    questions = [q for q in given if q.strip()]
    if not questions:
        raise ConfigError("no question; expected --question=TEXT, or one a line on standard input")
    pair = pair_of(flags)
    several = len(questions) > 1 or len(memories) > 1 or len(memories[0]) > 1
    with live.line("asking", len(memories) * len(questions), "questions") as row:
        for memory, question in itertools.product(memories, questions):
            answers = pair.ask(memory, question, max_new=flags.max_new or 64)
            for name, answer in zip(memory.ids, answers, strict=True):
                _print({"id": name, "question": question, "answer": answer}, several, "answer")
            row.done += 1
    return 0


def inspect(flags: Flags) -> int:
    from jaxcomp.evals.inspect import inspect as write

    no_fields(flags)
    shown = {"limit": flags.limit, "batch": flags.batch, "out": flags.out}
    found = write(flags.run, **shown, say=tell, **places_of(flags))
    for name, counts in found.counts.items():
        print(json.dumps({"set": name, **counts}))
    return 0


def export(flags: Flags) -> int:
    from jaxcomp.inference import Memory, prompt_embeds
    from jaxcomp.inference import export as write

    no_fields(flags)
    if flags.prompt_embeds:
        memory = Memory.load(here(flags.prompt_embeds))
        prompt_embeds(pair_of(flags), memory, here(flags.out), question=flags.question)
        tell(f"{len(memory)} prompts in {flags.out}")
        return 0
    for name in ("question", "ratio"):
        if getattr(flags, name):
            raise ConfigError(f"--{name} goes with --prompt_embeds; a run is exported as it is")
    out = here(flags.out)
    with live.line("exporting"):
        made = write(paths.path(flags.run), out, dtype=flags.dtype, **places_of(flags))
    tell(f"{flags.out} {'is written' if made else 'is there already: nothing to do'}")
    return 0


def pair_of(flags: Flags) -> Any:
    from jaxcomp.inference import load

    return load(flags.run, ratio=flags.ratio, batch=flags.batch, **places_of(flags))


def places_of(flags: Flags) -> dict[str, Any]:
    """Where the base models of --run are, if they have moved."""
    return {"compressor": flags.compressor, "decoder": flags.decoder}


def _memories(flags: Flags) -> Iterator[Any]:
    from jaxcomp.inference import Memory, MemoryFileError

    no_fields(flags)
    first = None
    for name in flags.memories:
        place = here(name)
        files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
        if not files:
            raise ConfigError(f"{place}: holds no .safetensors file of `jaxcomp compress`")
        for file in files:
            memory = Memory.load(file)
            kind = memory.decoder, memory.ratio, memory.segment
            first = first or kind
            if kind != first:
                raise MemoryFileError(
                    f"{file} is for (decoder, ratio, segment) = {kind}, those before it for "
                    f"{first}; give the memories of one pair at a time"
                )
            yield memory


def _lines() -> list[str]:
    from jaxcomp.data.readers import decode

    return decode(Path("standard input"), sys.stdin.buffer.read()).splitlines()


def here(name: str) -> Path:
    """A file or folder of this machine. Raises ConfigError for one in a bucket."""
    if paths.is_remote(name):
        raise ConfigError(
            f"{name}: expected a file or folder of this machine (only --run may be gs://); copy "
            f"it with `gcloud storage cp -r {name} DIR`"
        )
    return paths.path(name)


def no_fields(flags: Flags) -> None:
    if flags.overrides:
        raise ConfigError(
            f"--{flags.overrides[0][0]} is no flag of {flags.command.name}; see "
            f"jaxcomp {flags.command.name} --help"
        )


def _print(record: dict[str, str], several: bool, only: str) -> None:
    escaped = sys.stdout.encoding.lower() != "utf-8"
    print(json.dumps(record, ensure_ascii=escaped) if several else record[only], flush=True)


def tell(text: str) -> None:
    """On stderr: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        required=True,
        metavar="DIR",
        help="workdir of a finished `jaxcomp train`, a sweep's jobs/JOB, or an exported folder",
    )
    parser.add_argument(
        "--ratio", type=number(1), default=0, metavar="N", help="one of those it was trained at"
    )
    batch_and_places(parser)


def batch_and_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch", type=number(1), default=32, metavar="N", help="rows at once (32)"
    )
    for base in ("compressor", "decoder"):
        parser.add_argument(
            f"--{base}",
            default="",
            metavar="DIR",
            help=f"where the {base}'s base model is, if it is no longer where it was",
        )


def _compress_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help=".txt (one text), .jsonl[.gz] or .parquet (a text a row), a folder of them, or - for "
        "standard input (the default)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="one NAME.safetensors, or a folder for files of --part texts each, which a rerun "
        "completes",
    )
    parser.add_argument(
        "--part", type=number(1), default=256, metavar="N", help="texts a file (256)"
    )
    parser.add_argument("--field", default="text", help="the field of a row that holds the text")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the stored vectors (float32)",
    )


def _memory_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument(
        "memories", nargs="+", metavar="MEMORY", help="files or folders of `jaxcomp compress`"
    )
    parser.add_argument(
        "--max_new", type=number(0), default=0, metavar="N", help="most decoder tokens of an output"
    )


def _ask_flags(parser: argparse.ArgumentParser) -> None:
    _memory_flags(parser)
    parser.add_argument(
        "--question", metavar="TEXT", help="default: standard input, one question a line"
    )


def _inspect_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help="a finished run")
    parser.add_argument(
        "--limit",
        type=number(1),
        default=64,
        metavar="N",
        help="passages of each held-out set (64)",
    )
    batch_and_places(parser)
    parser.add_argument(
        "--out", default="", metavar="FILE", help="the page (default: inspect.html in the run)"
    )


def _export_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument("--out", required=True, metavar="PATH", help="folder to write")
    parser.add_argument(
        "--prompt_embeds",
        metavar="MEMORY",
        help="write the decoder's prompt for each text of that memory file instead, as "
        "embeddings (--out is then a .safetensors file)",
    )
    parser.add_argument(
        "--question", metavar="TEXT", help="with --prompt_embeds: ask it, instead of rebuilding"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of the stored weights (float32)",
    )


COMMANDS = (
    Command(
        "compress",
        "compress texts into memory files",
        "jaxcomp compress --run=demo/llama-64-r16 --out=book.safetensors book.txt",
        "Writes the memory vectors of texts from files, folders or standard input. Long texts\n"
        "become many segments. With a folder as --out, a stopped run goes on where it stopped.",
        _compress_flags,
        compress,
        "",
        "one",
    ),
    Command(
        "reconstruct",
        "rebuild texts from memory files",
        "jaxcomp reconstruct --run=demo/llama-64-r16 book.safetensors",
        "Prints the rebuilt text (greedy, free-running); of several texts one JSON object a line,\n"
        '{"id": ..., "text": ...}.',
        _memory_flags,
        reconstruct,
        "",
        "one",
    ),
    Command(
        "ask",
        "answer questions from memory files alone",
        "jaxcomp ask --run=demo/llama-64-r16 --question='Who lived in Rome?' book.safetensors",
        "Prints the decoder's greedy answer to each question about each text; of several texts or\n"
        "questions one JSON object a line. The decoder answers as well as it was trained to: one\n"
        "that only learned to rebuild and continue is a base model.",
        _ask_flags,
        ask,
        "",
        "one",
    ),
    Command(
        "inspect",
        "write a page that shows where every rebuilt word came from",
        "jaxcomp inspect --run=runs/one",
        "Rebuilds held-out passages of a finished run and writes one HTML page: source and\n"
        "rebuilt text side by side, every word copied, overwritten by the prior, replaced, lost\n"
        "or invented, with the decoder's entropy under it; of the controlled world also what a\n"
        "linear probe reads from the memory. Definitions:\n"
        "python -m jaxcomp.analysis.metrics_page. The same command again writes nothing.",
        _inspect_flags,
        inspect,
        "",
        "one",
    ),
    Command(
        "export",
        "write a finished run as a folder to share",
        "jaxcomp export --run=runs/one --out=exported",
        "Writes a compressor: a PEFT adapter or a Hugging Face folder, connector and markers as\n"
        "safetensors, and a card. `jaxcomp.load(DIR)` reads it.",
        _export_flags,
        export,
        "",
        "one",
    ),
)
