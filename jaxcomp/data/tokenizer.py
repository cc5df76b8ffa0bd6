"""Tokenizers: a Hugging Face folder, one trained on the text, or the controlled world's.

A folder holds `tokenizer.json` and `tokenizer_config.json`, so transformers can load what is
written here, and what transformers wrote can be loaded here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxcomp.data import spec as parts
from jaxcomp.data.spec import EOS, PAD, UNK, TokenizerError
from jaxcomp.runtime import live, paths, strict_json

_SPACE = "\u2581"  # how Metaspace writes a space
LONGEST_WORD = 1000  # characters of a word that a tokenizer is trained on
_LONG_RUN = re.compile(rf"\S{{{LONGEST_WORD + 1}}}|\s{{{LONGEST_WORD + 1}}}")
_WORD_SCORE, _CHAR_SCORE = -1.0, -50.0  # log-weights: a whole word always beats its characters
Encoded = tuple[list[int], list[tuple[int, int]]]  # ids; of each the characters it stands for


class Tokenizer:
    """A thin wrapper of one `tokenizer.json`; never adds special tokens on its own.

    `name` is a stable hash of the file's content, however it is laid out, so caches and checkpoints
    can say which tokenizer made them. Special tokens that stand in a text as ordinary characters
    are read as characters, and the end token's id never is in an encoded text.
    """

    def __init__(self, spec: str, config: dict[str, Any] | None = None, where: str = "tokenizer"):
        parsed = strict_json.parse(spec, "tokenizer.json", dict)
        if not isinstance(parsed.get("model"), dict):
            raise ValueError("it holds no model")
        content = json.dumps(parsed, indent=2, ensure_ascii=False)
        self.name = hashlib.sha256(content.encode()).hexdigest()[:12]
        both = parts.components([parsed.get("pre_tokenizer"), parsed.get("decoder")])
        self._by_bytes = any(part.get("type") == "ByteLevel" for part in both)
        self.byte_level = self._by_bytes or bool(parsed["model"].get("byte_fallback"))
        self._metaspace = parts.drops_leading_space(parsed.get("pre_tokenizer"))
        for part in parts.components(parsed.get("post_processor")):
            if "trim_offsets" in part:  # " word" includes its space: a cut loses no character
                part["trim_offsets"] = False
        parsed["truncation"] = parsed["padding"] = None
        self._inner = tokenizers.Tokenizer.from_str(json.dumps(parsed))
        self._inner.encode_special_tokens = True
        vocab = self._inner.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        symbols = parts.byte_symbols() if self._by_bytes else [f"<0x{b:02X}>" for b in range(256)]
        # Published vocabularies lack bytes that their training text did not hold (SmolLM2: 0x13).
        self._missing = bytes(b for b, s in enumerate(symbols) if s not in vocab)
        self._where, config = where, config or {}
        self.eos_id = parts.special(vocab, config, "eos_token", parts.KNOWN_EOS, where)
        self.pad_id = parts.special(vocab, config, "pad_token", (PAD,), where, default=self.eos_id)
        self._unk_id = parts.unk_id(parsed["model"], vocab)
        self._space_id = vocab.get(_SPACE)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises TokenizerError where a character has no token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once; several times faster than one by one."""
        return [ids for ids, _ in self.encode_batch_with_offsets(texts, offsets=False)]

    def encode_with_offsets(self, text: str) -> Encoded:
        """Token ids, and for each the characters [start, end) of `text` it stands for.

        Tokens that share a character (a byte-level tokenizer splits 😀 into several) all have
        that whole character in their range.
        """
        return self.encode_batch_with_offsets([text])[0]

    def encode_batch_with_offsets(
        self, texts: Sequence[str], offsets: bool = True
    ) -> list[Encoded]:
        """`encode_with_offsets` of many texts at once; empty offsets where not asked for."""
        try:
            with parts.library(self._where):
                found = self._inner.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise TokenizerError(
                f"a text is not valid Unicode ({error}); expected str without lone surrogates"
            ) from error
        out = []
        for text, encoding in zip(texts, found, strict=True):
            ids = encoding.ids
            self._check(text, ids, encoding)
            spans = encoding.offsets if offsets else []
            if self._metaspace and text.startswith(" "):
                ids, spans = self._with_leading_space(text, offsets)
            out.append((ids, spans))
        return out

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out. Exact inverse of `encode`, but for a
        tokenizer that normalises (`respell`)."""
        with parts.library(self._where):
            return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def respell(self, texts: Sequence[str]) -> list[str]:
        """The texts in the Unicode form in which this tokenizer's tokens say them.

        Most say every text as it is. Qwen's normalise to NFC: as a decoder's they can never say a
        decomposed "é", though they say the composed one, which is the same text to every reader.

        Raises:
          TokenizerError: a text would come back as other characters, not in another form only.
        """
        if self._inner.normalizer is None:
            return list(texts)
        _, said = self._there_and_back(texts)
        for text, form in zip(texts, said, strict=True):
            if _nfc(form) != _nfc(text):
                raise self._says(form, text)
        return said

    def encode_exactly(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch` for labels: TokenizerError where the tokens do not say the very text."""
        rows, every = self._there_and_back(texts)
        for text, said in zip(texts, every, strict=True):
            if said != text:
                raise self._says(said, text)
        return rows

    def _there_and_back(self, texts: Sequence[str]) -> tuple[list[list[int]], list[str]]:
        rows = self.encode_batch(texts)
        with parts.library(self._where):
            return rows, self._inner.decode_batch(rows)

    def _with_leading_space(self, text: str, offsets: bool):
        # Metaspace puts its mark before a text only where none stands: " a" and "a" would be the
        # same tokens. One mark more keeps them apart, and decoding drops exactly one.
        if self._space_id is None:
            raise TokenizerError(
                f"{text[:20]!r} begins with a space, for which this tokenizer has no token; "
                "strip the text"
            )
        ids, spans = self.encode_batch_with_offsets([text[1:]], offsets)[0]
        marks = [self._space_id] if ids else [self._space_id] * 2
        if not offsets:
            return [*marks, *ids], []
        return [*marks, *ids], [*((0, 1) for _ in marks), *((a + 1, b + 1) for a, b in spans)]

    def _check(self, text: str, ids: list[int], encoding) -> None:
        if self.eos_id in ids and self.eos_id != self._unk_id:
            raise TokenizerError(
                f"{self._where}: the end token {self._inner.id_to_token(self.eos_id)!r} stands in "
                f"{text[:40]!r}... and would be read as an end; mark it as special in "
                "tokenizer.json, or change the text"
            )
        if self.byte_level and not self._missing:
            return
        if self._metaspace and _SPACE in text:
            raise TokenizerError(
                f"{_SPACE!r} stands in {text[:40]!r}; this tokenizer uses it for spaces: replace it"
            )
        if self._unk_id is not None:
            if self._unk_id in ids:
                start, end = encoding.offsets[ids.index(self._unk_id)]
                raise self._lost(text, start, end)
            return
        # Without an unknown token, what is outside the vocabulary vanishes without a word.
        if self._by_bytes:
            said = self._inner.normalizer.normalize_str(text) if self._inner.normalizer else text
            raw = said.encode()
            if len(raw.translate(None, self._missing)) < len(raw):
                lost = set(self._missing)
                at = next(i for i, c in enumerate(said) if lost.intersection(c.encode()))
                raise self._lost(said, at, at + 1)
            return
        at = 0
        for start, end in [*encoding.offsets, (len(text), len(text))]:
            if text[at:start].strip():
                raise self._lost(text, at, start)
            at = max(at, end)

    def _lost(self, text: str, start: int, end: int) -> TokenizerError:
        return TokenizerError(
            f"{text[start:end]!r} at character {start} of {text[:40]!r}... has no token in "
            f"tokenizer {self.name}; use a byte-level tokenizer (data.tokenizer) or change the text"
        )

    def _says(self, said: str, text: str) -> TokenizerError:
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, text, strict=False))
        at = sum(1 for _ in same)
        return TokenizerError(
            f"{self._where}: its tokens say {said[at : at + 12]!r} for {text[at : at + 12]!r} at "
            f"character {at} of {text[:40]!r}..., so labels would not be the text; expected a "
            "decoder's tokenizer that keeps every character (or changes the Unicode form to NFC "
            "only); use another decoder or change the text"
        )


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`).

    Raises:
      TokenizerError: no readable tokenizer.json there, or no end-of-text token is known.
    """
    folder = Path(folder).expanduser()
    file = folder / "tokenizer.json"
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*"))[:8]) or "nothing"
        raise TokenizerError(
            f"{file}: no such file (found: {found}); expected a Hugging Face tokenizer folder; "
            "transformers' AutoTokenizer writes one with save_pretrained"
        )
    about = folder / "tokenizer_config.json"
    try:
        config = strict_json.read(about, dict) if about.is_file() else {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{error}; copy the file again") from error
    try:
        return Tokenizer(file.read_text("utf-8"), config, where=str(folder))
    except TokenizerError:
        raise
    except BaseException as error:  # of any kind where the file is malformed
        if not isinstance(error, Exception) and not parts.is_panic(error):
            raise
        with file.open("rb") as opened:
            begins = opened.read(24)
        raise TokenizerError(
            f"{file}: not a readable tokenizer ({error}); it begins with {begins!r}; expected the "
            "whole file as published, no Git LFS pointer; copy it again"
        ) from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike) -> Tokenizer:
    """A byte-level BPE of `vocab_size` tokens (with <pad> = 0 and <eos> = 1), written to `folder`.

    Any Unicode text is representable and decodes exactly. A folder that is already complete is
    loaded as it is: its name should carry the hash of the data and of the size.

    Raises:
      TokenizerError: fewer than 258 tokens (256 bytes and two special ones), or no text.
    """
    if (Path(folder) / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    if vocab_size < 258:
        raise TokenizerError(
            f"data.vocab_size = {vocab_size}: a byte-level tokenizer needs at least 258"
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = 0
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with live.phase(f"training a tokenizer of {vocab_size:,} tokens: reading text") as progress:

        def counted():
            nonlocal seen
            for text in texts:
                seen += bool(text)
                progress.done += len(text)
                yield from _short_words(text, splitter)
            progress.what = f"training a tokenizer of {vocab_size:,} tokens: merging"

        inner.train_from_iterator(counted(), trainer)
    if not seen:
        raise TokenizerError("no text to train a tokenizer on; expected at least one document")
    return _write(inner, folder, {"pad_token": PAD, "eos_token": EOS})


def _short_words(text: str, splitter: pre_tokenizers.PreTokenizer) -> Iterator[str]:
    """`text`, cut within words of more than LONGEST_WORD characters, and only there: the trainer
    takes time that grows with the square of a word's length."""
    start = 0
    if _LONG_RUN.search(text):
        for _, (first, last) in splitter.pre_tokenize_str(text):
            for at in range(first + LONGEST_WORD, last, LONGEST_WORD):
                yield text[start:at]
                start = at
    yield text[start:] if start else text


def world_tokenizer(texts: Iterable[str], folder: str | os.PathLike) -> Tokenizer:
    """The controlled world's tokenizer: every word of `texts` (words or passages) is one token.

    Spaces belong to the word after them. Any other printable ASCII text is spelled in characters,
    so that a user's own sentence is compressed too; anything beyond raises TokenizerError.
    """
    if (Path(folder) / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    words = sorted({piece for text in texts for piece, _ in pre.pre_tokenize_str(text)})
    chars = sorted({*string.printable.replace("\r\x0b\x0c", ""), _SPACE} - {" "} - set(words))
    vocab = [(token, 0.0) for token in (PAD, EOS, UNK)]
    vocab += [(w, _WORD_SCORE) for w in words if len(w) > 1]
    vocab += [(w, _CHAR_SCORE) for w in [*(w for w in words if len(w) == 1), *chars]]
    inner = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    inner.pre_tokenizer = pre
    inner.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    inner.add_special_tokens([PAD, EOS, UNK])
    return _write(inner, folder, {"pad_token": PAD, "eos_token": EOS, "unk_token": UNK})


def _write(inner: tokenizers.Tokenizer, folder, special: dict[str, str]) -> Tokenizer:
    folder = Path(folder)
    config = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}, indent=1)
    paths.write_bytes(folder / "tokenizer_config.json", config.encode())
    # Last: where it is, the tokenizer is whole.
    paths.write_bytes(folder / "tokenizer.json", inner.to_str(pretty=False).encode())
    return load_tokenizer(folder)


def _nfc(text: str) -> str:
    """Equal of texts that differ in their Unicode form only (UAX #15): "é" in one or in two."""
    return unicodedata.normalize("NFC", text)
