"""Configs of small data sets, shared by the tests of this room."""

import dataclasses

from jaxcomp.config import (
    Config,
    DataConfig,
    MemoryConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
)

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
