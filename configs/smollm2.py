"""A real pretrained pair: SmolLM2-135M as the frozen decoder and, through LoRA, as the compressor.

    configs/smollm2.py:dir=DIR            DIR holds smollm2-135m (without dir: from the hub)
    configs/smollm2.py:dir=DIR,path=FILE  other text than ../shared/data/prose.jsonl.gz
    configs/smollm2.py:...,steps=20       that many steps instead of 1000

Segments of 64 tokens and batches of 4, so that a step takes some ten seconds on two cores (PCC has
256 tokens and batches of 256). The rates are not tuned.
"""

from ml_collections import ConfigDict

from jaxcomp.config import to_dict
from jaxcomp.llm.registry import published
from jaxcomp.settings import parse_arg

NAME = "smollm2-135m"
T = 64


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, dir="", path="../shared/data/prose.jsonl.gz", field="text", steps=1000)
    model = published(NAME)
    folder = f"{given.dir}/{NAME}" if given.dir else model.hub
    return ConfigDict(
        dict(
            name="smollm2",
            families=dict(smollm2={"135m": to_dict(model.shape)}),
            folders={"smollm2/135m": folder, "decoder": folder},
            compressor="smollm2/135m",
            data=dict(
                source="text",
                path=given.path,
                text_field=given.field,
                segment=T,
                target=T + 16,
                eval_passages=64,
                val_passages=64,
            ),
            memory=dict(
                ratio=4,
                positions="spread",
                marker_steps=300,
                lora=dict(rank=64, alpha=32.0, dropout=0.1),
            ),
            train=dict(
                optim=dict(
                    steps=given.steps,
                    batch=4,
                    lr=5e-4,
                    warmup=min(50, given.steps // 4),
                    b2=0.95,
                    clip=0.5,
                ),
                objective="coin",
                p_reconstruct=0.5,
                log_every=10,
                checkpoint_every=100,
            ),
            eval=dict(batch=16, sampled_passages=8, edits_per_kind=16),
            sweep=dict(ratios=[4, 16, 64]),
        )
    )
