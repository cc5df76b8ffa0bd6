"""The parts of a `tokenizer.json` that `tokenizer.py` needs."""

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


def components(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a (nested) component of a tokenizer.json."""
    if isinstance(node, dict):
        yield node
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in inside:
        yield from components(value)


def drops_leading_space(pre_tokenizer: Any) -> bool:
    return any(
        part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never"
        for part in components(pre_tokenizer)
    )


def byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table): itself
    where it is printable, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def unk_id(model: dict[str, Any], vocab: dict[str, int]) -> int | None:
    if model.get("type") == "Unigram":
        return model.get("unk_id")
    return vocab.get(model.get("unk_token") or "")


def special(vocab, config, field: str, known, where: str, default: int | None = None) -> int:
    """The id of a token that tokenizer_config.json names, or of the first of `known` there is."""
    token = config.get(field)
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and not isinstance(token, str):
        raise TokenizerError(
            f"{where}: {field} in tokenizer_config.json is {token!r}; expected text"
        )
    if token is not None and token not in vocab:
        raise TokenizerError(f"{where}: {field} {token!r} is not in the vocabulary")
    for name in known if token is None else [token]:
        if name in vocab:
            return vocab[name]
    if default is not None:
        return default
    raise TokenizerError(
        f"{where}: no {field} in tokenizer_config.json and none of {', '.join(known)} in the "
        f"vocabulary; name the token in tokenizer_config.json"
    )
