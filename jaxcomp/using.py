"""What the commands that use a trained pair do: compress, reconstruct, ask, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcomp import storage
from jaxcomp.commands import Flags
from jaxcomp.config import ConfigError


def compress(flags: Flags) -> int:
    """Texts into memory files."""
    from jaxcomp.use import documents

    no_fields(flags)
    at_least(flags, part=1, batch=1)
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
    """Memory files into texts."""
    memories = list(_memories(flags))
    pair = pair_of(flags)
    several = len(memories) > 1 or len(memories[0]) > 1
    for memory in memories:
        for start in range(0, len(memory), flags.batch):
            part = memory[start : start + flags.batch]
            for name, text in zip(
                part.ids, pair.reconstruct(part, max_new=flags.max_new), strict=True
            ):
                _print({"id": name, "text": text}, several, "text")
    return 0


def ask(flags: Flags) -> int:
    """Questions answered from memory files."""
    memories = list(_memories(flags))
    given = [flags.question] if flags.question else _lines()
    questions = [q for q in given if q.strip()]
    if not questions:
        raise ConfigError("no question; expected --question=TEXT, or one a line on standard input")
    pair = pair_of(flags)
    several = len(questions) > 1 or len(memories) > 1 or len(memories[0]) > 1
    for memory in memories:
        for question in questions:
            answers = pair.ask(memory, question, max_new=flags.max_new or 64)
            for name, answer in zip(memory.ids, answers, strict=True):
                _print({"id": name, "question": question, "answer": answer}, several, "answer")
    return 0


def inspect(flags: Flags) -> int:
    """Where every word of a rebuilt text came from."""
    from jaxcomp.dissect import inspect as write

    no_fields(flags)
    shown = {"limit": flags.limit, "batch": flags.batch, "out": flags.out}
    found = write(flags.run, **shown, say=tell, **places_of(flags))
    for name, counts in found.counts.items():
        print(json.dumps({"set": name, **counts}))
    return 0


def export(flags: Flags) -> int:
    """A run as a folder to hand on, or a memory as prompt embeddings."""
    from jaxcomp.use import Memory, prompt_embeds
    from jaxcomp.use import export as write

    no_fields(flags)
    if flags.prompt_embeds:
        memory = Memory.load(here(flags.prompt_embeds))
        prompt_embeds(pair_of(flags), memory, here(flags.out), question=flags.question)
        tell(f"{len(memory)} prompts in {flags.out}")
        return 0
    for name in ("question", "ratio"):
        if getattr(flags, name):
            raise ConfigError(f"--{name} goes with --prompt_embeds; a run is exported as it is")
    made = write(storage.path(flags.run), here(flags.out), **places_of(flags))
    tell(f"{flags.out} {'is written' if made else 'is there already: nothing to do'}")
    return 0


def pair_of(flags: Flags) -> Any:
    from jaxcomp.use import load

    return load(flags.run, ratio=flags.ratio, batch=flags.batch, **places_of(flags))


def places_of(flags: Flags) -> dict[str, Any]:
    """Where the base models of --run are, if they have moved."""
    return {"compressor": flags.compressor, "decoder": flags.decoder}


def _memories(flags: Flags) -> Iterator[Any]:
    from jaxcomp.use import Memory, MemoryFileError

    no_fields(flags)
    at_least(flags, batch=1, max_new=0)
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
    from jaxcomp.data.sources import decode

    return decode(Path("standard input"), sys.stdin.buffer.read()).splitlines()


def here(name: str) -> Path:
    """A file or folder of this machine. Raises ConfigError for one in a bucket."""
    if storage.is_remote(name):
        raise ConfigError(
            f"{name}: expected a file or folder of this machine (only --run may be gs://); copy "
            f"it with `gcloud storage cp -r {name} DIR`"
        )
    return storage.path(name)


def no_fields(flags: Flags) -> None:
    if flags.overrides:
        raise ConfigError(
            f"--{flags.overrides[0][0]} is no flag of {flags.command.name}; see "
            f"jaxcomp {flags.command.name} --help"
        )


def at_least(flags: Flags, **least: int) -> None:
    for name, low in least.items():
        if getattr(flags, name) < low:
            raise ConfigError(f"--{name}={getattr(flags, name)}; expected at least {low}")


def _print(record: dict[str, str], several: bool, only: str) -> None:
    escaped = sys.stdout.encoding.lower() != "utf-8"
    print(json.dumps(record, ensure_ascii=escaped) if several else record[only], flush=True)


def tell(text: str) -> None:
    """On stderr: standard output is for results."""
    print(text, file=sys.stderr, flush=True)
