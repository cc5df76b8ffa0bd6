"""Text that tokenizers stumble over, and a pair of unlike tokenizers like published ones."""

import json
import random
import unicodedata
from pathlib import Path
from typing import NamedTuple

import published
from hypothesis import strategies as st

from jaxcomp.data.tokenizer import Tokenizer, load_tokenizer

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
    special: list[dict[str, int]]  # special tokens of each


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


def pair_in(folder):
    folders = published.qwen3(folder / "comp"), published.llama3(folder / "dec")
    specs = [json.loads((f / "tokenizer.json").read_text("utf-8")) for f in folders]
    special = [{t["content"]: t["id"] for t in s["added_tokens"] if t["special"]} for s in specs]
    comp, dec = map(load_tokenizer, folders)
    return Pair(comp, dec, folders, special)


def change(folder, **fields):
    """Edits the tokenizer.json of `folder`."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")
