"""Tiny tokenizer folders with the traits of published ones, so that no test needs the real files.

Like Qwen3's: NFC, one digit a token, `<think>` as an added token that is not special. Like
Llama-3's: up to three digits a token, whole words before merges, a begin token and trimmed offsets
in the post-processor. All ids of merged tokens lie
beyond 16 bits, as most of the real vocabularies do.
"""

import json
import random

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEYOND = 1 << 17  # the first id of a merged token
TEXT = "the of and word in a memory vector is red 中文 字 한국 don't é Å 😀 1234567 1911"


def qwen3(folder):
    inner = _inner(r"\p{N}")
    inner.normalizer = normalizers.NFC()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return _write(inner, folder, special, ("<think>", "</think>"), eos_token="<|im_end|>",
                  pad_token="<|endoftext|>")  # fmt: skip


def llama3(folder):
    inner = _inner(r"\p{N}{1,3}", ignore_merges=True)
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    return _write(inner, folder, special, begin=special[0], eos_token="<|eot_id|>")


def _inner(digits, ignore_merges=False):
    inner = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    split = pre_tokenizers.Split(Regex(PATTERN % digits), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    _learn(inner)
    return inner


def _learn(inner):
    rng = random.Random(0)
    texts = [" ".join(rng.choices(TEXT.split(), k=30)) + "\n" * (i % 3) for i in range(60)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.decoder = decoders.ByteLevel()


def _write(inner, folder, special, added=(), begin=None, **config):
    spec = json.loads(inner.to_str())
    vocab = spec["model"]["vocab"]
    symbols = [t for t in vocab if len(t) == 1]
    merged = [t for t in vocab if len(t) > 1]
    ids = {t: i for i, t in enumerate(symbols)} | {t: BEYOND + i for i, t in enumerate(merged)}
    spec["model"]["vocab"] = ids
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    spec["added_tokens"] = [
        {"id": len(ids) + i, "content": t, "special": t in special, **flags}
        for i, t in enumerate((*special, *added))
    ]
    if begin:
        sequence = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
        first = {"SpecialToken": {"id": begin, "type_id": 0}}
        known = {begin: {"id": begin, "ids": [len(ids)], "tokens": [begin]}}
        yes = dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), True)
        template = {"type": "TemplateProcessing", "single": [first, sequence[0]],
                    "pair": [first, *sequence], "special_tokens": known}  # fmt: skip
        spec["post_processor"] = {
            "type": "Sequence",
            "processors": [{"type": "ByteLevel"} | yes, template],
        }
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder
