"""A real pretrained pair: SmolLM2-135M as the frozen decoder and, through LoRA, as the compressor.

    configs/smollm2.py:dir=DIR            DIR holds smollm2-135m (without dir: from the hub)
    configs/smollm2.py:dir=DIR,path=FILE  other text than ../shared/data/prose.jsonl.gz
    configs/smollm2.py:...,steps=20       that many steps instead of 300
    configs/smollm2.py:...,segment=64     segments of so many tokens instead of 16

A step has 256 tokens of context, so that two cores make some seven a minute (PCC has batches of 256
segments of 256 tokens). Short segments and a curriculum from ratio 1: with them a pair begins to
learn within an hour. Nothing is tuned, nor compared with longer ones (docs/results/smollm2.md).
"""

from ml_collections import ConfigDict

from jaxcomp.config import parse_arg, to_dict
from jaxcomp.models.registry import published

NAME = "smollm2-135m"
TOKENS = 256  # of context in a step
PROSE = "../shared/data/prose.jsonl.gz"


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, dir="", path=PROSE, field="text", steps=300, segment=16)
    model, T = published(NAME), given.segment
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
                target=T + T // 4,
                eval_passages=64,
                val_passages=64,
            ),
            memory=dict(
                ratio=4,
                positions="spread",
                marker_steps=300,
                lora=dict(rank=64, alpha=32.0, dropout=0.0),
            ),
            train=dict(
                optim=dict(
                    steps=given.steps,
                    batch=max(1, TOKENS // T),
                    lr=1e-3,
                    warmup=min(20, given.steps // 4),
                    b2=0.95,
                    clip=0.5,
                ),
                objective="coin",
                p_reconstruct=0.9,
                curriculum=(1, 2),
                curriculum_share=0.6,
                log_every=10,
                checkpoint_every=100,
            ),
            eval=dict(batch=16, sampled_passages=8, edits_per_kind=16),
            sweep=dict(ratios=[ratio for ratio in (4, 16, 64) if T % ratio == 0]),
        )
    )
