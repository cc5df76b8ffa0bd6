"""Compress files and standard input into memory files, in resumable parts."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from jaxcomp.config import DataConfig
from jaxcomp.data.documents import DataError
from jaxcomp.data.loading import load
from jaxcomp.data.readers import SUFFIXES, decode
from jaxcomp.data.tokenizer import TokenizerError
from jaxcomp.inference.memory import Memory, MemoryFileError
from jaxcomp.inference.pair import Pair
from jaxcomp.runtime import live, paths

STDIN = "-"
Say = Callable[[str], None]


class Text(NamedTuple):
    id: str
    text: str


class Done(NamedTuple):
    """Texts compressed now, texts found done, and where they are."""

    texts: int
    before: int
    files: list[Path]


def read(inputs: Sequence[str], field: str = "text", stdin: TextIO | None = None) -> Iterator[Text]:
    """The documents of files and folders, in order; standard input (one text, without its last
    newline) for "-" or where nothing is given.

    A .txt file is one document, an empty one too; each row of a .jsonl[.gz] or .parquet with text
    in it is one (`field`). Of a folder every such file below it. Raises DataError: at once where
    an input does not exist or is of another kind, else when its turn comes and it cannot be read.
    """
    places = [name if name == STDIN else paths.path(name) for name in inputs or [STDIN]]
    files = [[place] if isinstance(place, str) else files_of(place) for place in places]
    return _texts([file for some in files for file in some], field, stdin)


def _texts(files: Sequence[Path | str], field: str, stdin: TextIO | None) -> Iterator[Text]:
    for file in files:
        if isinstance(file, str):
            raw = (stdin or sys.stdin).buffer.read()
            text = decode(Path("standard input"), raw)
            yield Text(STDIN, text[:-1] if text.endswith("\n") else text)
        elif file.suffix == ".txt":
            yield Text(_name(file), decode(file, file.read_bytes()))
        else:
            data = DataConfig(source="text", path=escape(str(file)), text_field=field)
            yield from (Text(_name(f"{file}:{d.id}"), d.text) for d in load(data))


def compress(
    pair: Pair,
    texts: Iterable[Text],
    out: Path,
    *,
    part: int = 256,
    dtype: str = "float32",
    say: Say | None = None,
) -> Done:
    """Memories of `texts`: in the one file `out` if its name ends with .safetensors, else in the
    folder `out`, `part` texts a file; parts that are there already are not made again.

    Raises MemoryFileError where `out` holds memories of other texts or of another compressor.
    """
    texts = iter(texts)
    if out.suffix == ".safetensors":
        every = list(texts)
        made = _part(pair, every, out, dtype)
        return Done(len(every) * made, len(every) * (not made), [out])
    done, before, files = 0, 0, []
    began = time.perf_counter()
    while some := list(islice(texts, part)):
        file = out / f"part-{len(files):05d}.safetensors"
        made = _part(pair, some, file, dtype)
        done, before = done + len(some) * made, before + len(some) * (not made)
        files.append(file)
        if say is not None and made:
            rate = done / (time.perf_counter() - began)
            say(f"{file}: {done + before:,} texts, {rate:.1f} texts/s")
    beyond = out / f"part-{len(files):05d}.safetensors"
    if beyond.exists():
        raise MemoryFileError(f"{beyond} holds more texts than these inputs; choose another --out")
    return Done(done, before, files)


def _name(name: Path | str) -> str:
    """As UTF-8 can hold it: bytes of a file's name that are no UTF-8 are spelled out."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _part(pair: Pair, texts: Sequence[Text], file: Path, dtype: str) -> bool:
    """Makes one file; False where it is there already."""
    names = hashlib.sha256()
    for one in texts:
        for word in one:
            names.update(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest())
    note = {"source": names.hexdigest(), "dtype": dtype}
    if file.exists():
        found = Memory.about(file)
        wanted = note | {
            "compressor": pair.traits.compressor,
            "decoder": pair.traits.decoder,
            "ratio": str(pair.traits.ratio),
        }
        differ = [name for name, value in wanted.items() if found.get(name) != value]
        if differ:
            raise MemoryFileError(
                f"{file} is there already, with another {' and '.join(differ)}; choose another "
                "--out or remove it"
            )
        return False
    try:
        with live.phase(f"compressing {len(texts):,} texts", unit="segments") as row:

            def seen(done: int, every: int) -> None:
                row.done, row.total = done, every

            memory = pair.compress([t.text for t in texts], ids=[t.id for t in texts], seen=seen)
    except TokenizerError:
        _check_each(pair, texts)
        raise
    memory.save(file, dtype, note)
    return True


def _check_each(pair: Pair, texts: Sequence[Text]) -> None:
    """Raises TokenizerError naming the text that a tokenizer refuses."""
    for one in texts:
        try:
            pair.comp_tok.encode(one.text)
            pair.dec_tok.encode_exactly(pair.dec_tok.respell([one.text]))
        except TokenizerError as error:
            raise TokenizerError(f"{one.id}: {error}") from error


def files_of(place: Path) -> list[Path]:
    """The text files of a file or folder. Raises DataError where there is none."""
    if place.is_file():
        if not place.name.endswith(SUFFIXES):
            raise DataError(f"{place}: unsupported kind; expected one of {', '.join(SUFFIXES)}")
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such file or folder")
    found = [f for f in sorted(place.rglob("*")) if f.is_file() and f.name.endswith(SUFFIXES)]
    if not found:
        raise DataError(f"{place}: holds no {', '.join(SUFFIXES)} file")
    return found
