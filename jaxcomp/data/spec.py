"""What the parts of a `tokenizer.json` say, as far as `tokenizer.py` must know it."""

from __future__ import annotations

from typing import Any


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
