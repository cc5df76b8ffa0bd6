"""Text that tokenizers stumble over, and pairs of unlike tokenizers: small, and as published."""

import json
import os
import random
import unicodedata
from pathlib import Path
from typing import NamedTuple

import published
from hypothesis import strategies as st

from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

# Where the published files themselves lie, on machines that have them: more to compare with.
ASSETS = Path(os.environ.get("JAXCOMP_ASSETS", "~/.cache/jaxcomp-assets")).expanduser()
REAL = [ASSETS / "tokenizer-qwen3", ASSETS / "tokenizer-llama3"]
KINDS = ["small", "published", *(["real"] if all(f.is_dir() for f in REAL) else [])]
SPECIAL = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|begin_of_text|>", "<eos>", "<pad>")
DECOMPOSED = ("e\u0301", "A\u030a", "q\u0301\u0327", "\u1112\u1161\u11ab", "\u3066\u3099", "\u212b")
PIECES = (
    *SPECIAL, *DECOMPOSED, "<think>", "😀", "👩‍👩‍👧", "🇫🇷", "🏴\U000e0067\U000e007f", "☺\ufe0f",
    "中文", "字", "한국", "שָׁ", "\U0001d160", "\u0344", "\ufeff", "\ufffd", "\u2028", "\u00a0",
    "\x00", "\r\n", " \n\t  ", "the ", " word", "don't", " 1234567", "ﬁ", "ß", "\u0301",
)  # fmt: skip
TEXT = st.lists(
    st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40
).map("".join)


class Pair(NamedTuple):
    """`comp` normalises to NFC, as Qwen's; `dec` says every text as it is, as Llama's."""

    comp: Tokenizer
    dec: Tokenizer
    folders: tuple[Path, ...]
    special: tuple[dict[str, int], ...]  # special tokens of each


def nfc(text):
    return unicodedata.normalize("NFC", text)


def documents(count, seed=0):
    """Documents of words and of everything above, each of another length."""
    rng = random.Random(seed)
    words = ("the", "of", "and", "word", "in", "compressor", "a", "memory", "vector", "is", "red")
    out = []
    for i in range(count):
        pieces = [rng.choice(PIECES if rng.random() < 0.4 else words) for _ in range(20 + i)]
        out.append(f"{i} " + " ".join(pieces) + rng.choice(["", " ", "."]))
    return out


def write_documents(file, texts):
    rows = [{"id": f"h-{i}", "source": "s", "text": t} for i, t in enumerate(texts)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(file)


def pair_of(kind, folder):
    if kind == "real":
        return _pair(*REAL)
    if kind == "published":
        return _pair(published.qwen3(folder / "qwen3"), published.llama3(folder / "llama3"))
    comp, dec = folder / "comp", folder / "dec"
    train_tokenizer(["the word of the day 中文 é 😀 한국 <|im_end|>", *documents(30, 1)], 420, comp)
    train_tokenizer(["the memory of a vector " * 9], 290, dec)
    end, begin = _added(420, "<|im_end|>"), _added(290, "<|begin_of_text|>")
    change(comp, normalizer={"type": "NFC"}, added=[end])
    (comp / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    change(dec, post_processor=_begins_with(begin), added=[begin])
    return _pair(comp, dec)


def _pair(*folders: Path):
    specs = [json.loads((f / "tokenizer.json").read_text("utf-8")) for f in folders]
    special = [{t["content"]: t["id"] for t in s["added_tokens"] if t["special"]} for s in specs]
    comp, dec = map(load_tokenizer, folders)
    return Pair(comp, dec, folders, tuple(special))


def change(folder, added=(), **fields):
    """Edits the tokenizer.json of `folder`."""
    file = folder / "tokenizer.json"
    spec = json.loads(file.read_text("utf-8")) | fields
    spec["added_tokens"] += added
    file.write_text(json.dumps(spec), "utf-8")


def _added(number, content, special=True):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": special, **flags}


def _begins_with(token):
    """As published Llama folders have it: a begin token before every text."""
    name = token["content"]
    first, text = ({"SpecialToken": {"id": name, "type_id": 0}}, _sequence("A"))
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, _sequence("B")],
        "special_tokens": {name: {"id": name, "ids": [token["id"]], "tokens": [name]}},
    }


def _sequence(name):
    return {"Sequence": {"id": name, "type_id": 0}}
