"""Hundreds of broken model folders: each is read, or refused by one sentence. Seeded."""

import json
import random

import pytest
from data import fuzzing
from golden_cases import LLAMA31, QWEN3
from model_folders import folder_of, sharded, vision

from jaxcomp.config import ConfigError
from jaxcomp.models import hf

CASES = 150
MAKE = {
    "llama": lambda path: folder_of(path, LLAMA31),
    "qwen3": lambda path: folder_of(path, QWEN3),
    "vision": vision,
    "shards": sharded(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        *((kind, hf.CONFIG) for kind in ("llama", "qwen3", "vision")),
        ("shards", hf.INDEX),
        ("llama", hf.WEIGHTS),
        ("vision", hf.WEIGHTS),
    ],
)
def test_a_broken_folder_is_read_or_refused_by_one_sentence(kind, file, tmp_path, mesh):
    MAKE[kind](tmp_path)
    whole, read = (tmp_path / file).read_bytes(), 0
    rest, longest = b"", 0
    if file == hf.WEIGHTS:  # a header in JSON, after its length in 8 bytes
        size = 8 + int.from_bytes(whole[:8], "little")
        whole, rest = whole[8:size], whole[size:]
    for seed in range(CASES):
        rng = random.Random(seed)
        content = fuzzing.damaged(rng, json.loads(whole))
        if rest:
            content += b" " * (-len(content) % 8)
            length = len(content) + rng.choice([0] * 8 + [1, 1 << 20, 1 << 60])
            content = length.to_bytes(8, "little") + content + rest
        (tmp_path / file).write_bytes(content)
        try:
            hf.check(tmp_path)
            hf.load(tmp_path)
            read += 1
        except (hf.HfError, ConfigError) as error:
            longest = max(longest, len(str(error).encode()))
    assert read < CASES * 0.6
    assert longest < 1500
