"""The size-fidelity sweep on real text, with edit survival in place of the world's facts.

    configs/text.py:path=FILE    a .jsonl[.gz] (field "text", or field=NAME), .parquet or .txt file,
                                 or a glob

A byte pair tokenizer is trained on it and cached. Base models and decoder are pretrained on that
text first, in the workdir: nothing ships for it. The recipe is that of configs/tiny.py, on wider
towers, for a vocabulary of 1024 needs wider codes.
"""

from ml_collections import ConfigDict

from jaxcomp.config import parse_arg

T = 64  # context tokens of a segment: ratio 64 leaves one vector


def shape(width: int) -> dict:
    return dict(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        intermediate_size=2 * width,
        max_position_embeddings=256,
    )


def optim(steps: int, lr: float = 3e-3, b2: float = 0.95) -> dict:
    return dict(steps=steps, batch=16, lr=lr, embed_lr=0.09 / lr, final_lr=0.02, warmup=100, b2=b2)


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, path="", field="text")
    rebuild = dict(objective="coin", p_reconstruct=0.9)
    return ConfigDict(
        dict(
            name="text",
            families=dict(llama={f"{w}": shape(w) for w in (32, 56, 96)}),
            data=dict(
                source="text",
                path=given.path,
                text_field=given.field,
                vocab_size=1024,
                segment=T,
                target=T + 8,
            ),
            pretrain=dict(optim=optim(500), seq_len=2 * T, copy_fraction=0.5),
            decoder=dict(
                model=shape(96),
                reference=shape(80),  # a size outside the grid
                pretrain=dict(optim=optim(0), seq_len=2 * T),
                adapt=dict(
                    optim=optim(2500),
                    ratios=[4, 4, 4, 4, 4, 16],
                    p_blank=0.1,
                    word_dropout=0.25,
                    checkpoint_every=2000,
                    **rebuild,
                ),
            ),
            memory=dict(positions="spread", marker_steps=0),
            train=dict(optim=optim(700, lr=2e-3, b2=0.99), **rebuild),
            sweep=dict(ratios=[4, 16, 64]),
        )
    )
