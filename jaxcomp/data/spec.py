"""What the parts of a `tokenizer.json` say, as far as `tokenizer.py` must know it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
# Names of the end token in published folders whose tokenizer_config.json does not say.
KNOWN_EOS = (EOS, "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "</s>")


class TokenizerError(ValueError):
    """A tokenizer folder cannot be used, or a text cannot be represented by it."""


def is_panic(error: BaseException) -> bool:
    """Whether the Rust code of `tokenizers` gave up: no Exception to Python, but an error to us."""
    return type(error).__module__ == "pyo3_runtime"


@contextlib.contextmanager
def library(where: str) -> Iterator[None]:
    """Raise TokenizerError for what `tokenizers` raises at work: bare Exceptions, and panics."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and not is_panic(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise TokenizerError(
            f"{where}: the tokenizers library fails with it ({said}); copy the folder again"
        ) from error


def types(node) -> list[str]:
    """Every "type" in a (nested) component of a tokenizer.json."""
    if isinstance(node, dict):
        own = [node["type"]] if "type" in node else []
        return own + [t for v in node.values() for t in types(v)]
    if isinstance(node, list):
        return [t for v in node for t in types(v)]
    return []


def untrim(node) -> None:
    """Makes the offsets of " word" include its space: a cut may never lose a character."""
    if isinstance(node, dict):
        if "trim_offsets" in node:
            node["trim_offsets"] = False
        for value in node.values():
            untrim(value)
    elif isinstance(node, list):
        for value in node:
            untrim(value)


def drops_leading_space(node) -> bool:
    if isinstance(node, dict):
        if node.get("type") == "Metaspace":
            return node.get("prepend_scheme", "always") != "never"
        return any(drops_leading_space(v) for v in node.values())
    if isinstance(node, list):
        return any(drops_leading_space(v) for v in node)
    return False


def byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table): itself
    where it is printable, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def unk_id(model: dict[str, Any], vocab: dict[str, int]) -> int | None:
    if model.get("type") == "Unigram":
        return model.get("unk_id")
    unk = model.get("unk_token")
    return vocab.get(unk) if unk else None


def special(vocab, config, field: str, known, where: str, default: int | None = None) -> int:
    token = config.get(field)
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise TokenizerError(
            f"{where}: {field} in tokenizer_config.json is {token!r}; expected text"
        )
    if token is not None:
        if token not in vocab:
            raise TokenizerError(f"{where}: {field} {token!r} is not in the vocabulary")
        return vocab[token]
    for name in known:
        if name in vocab:
            return vocab[name]
    if default is not None:
        return default
    raise TokenizerError(
        f"{where}: no {field} in tokenizer_config.json and none of {', '.join(known)} in the "
        f"vocabulary; name the token in tokenizer_config.json"
    )
