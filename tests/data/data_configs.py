"""Small data sets and their configs, shared by the tests of this package."""

import dataclasses
import json

import numpy as np

from jaxcomp.config import (
    Config,
    DataConfig,
    MemoryConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)
from jaxcomp.data.world import World

BATCH = 8


def world_config(objective="coin", steps=20, p=0.5, seed=0, **data):
    small = DataConfig(segment=32, target=40, train_passages=96, eval_passages=10, val_passages=6)
    return Config(
        seed=seed,
        data=dataclasses.replace(small, **data),
        memory=MemoryConfig(ratio=4),
        train=TrainConfig(
            optim=OptimConfig(steps=steps, batch=BATCH), objective=objective, p_reconstruct=p
        ),
        pretrain=PretrainConfig(optim=OptimConfig(steps=steps, batch=BATCH), seq_len=70),
    )


def text_config(prose, segment=16, target=64, objective="coin", p=0.5):
    data = {"source": "text", "path": prose, "vocab_size": 400}
    return world_config(objective, p=p, segment=segment, segments=2, target=target, **data)


def write_prose(folder):
    """120 numbered documents of real words, some short, some with emoji and Chinese; their file."""
    rng = np.random.default_rng(0)
    words = [w for w in World().words() if w.isalpha()]
    file = folder / "prose.jsonl"
    with file.open("w") as f:
        for i in range(120):
            text = " ".join(rng.choice(words, 6 if i % 10 == 0 else 60 + i))
            text += " 😀 中文 字" * (i % 3)
            f.write(json.dumps({"id": f"s-{i}", "source": "s", "text": text}) + "\n")
    return str(file)


def draw(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
