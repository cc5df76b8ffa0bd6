"""The paper's sweep in miniature, on the controlled world, from the base models in the package.

    configs/tiny.py        one family, 3 sizes x 3 ratios; minutes on two cores
    configs/tiny.py:full   two families (without and with QK-norm), 4 + 5 sizes x 3 ratios = 27
                           setups, each with three base seeds; hours
    ...:full,reference=2   the same against the second decoder, which another reference compressor
                           taught: a size effect counts only if both agree on the order of sizes

A size is named by its width. How these numbers were found: docs/explanation/controlled-world.md.
"""

from ml_collections import ConfigDict

from jaxcomp.config import parse_arg

T = 64  # context tokens of a segment: ratio 64 leaves one vector


def shape(model_type: str, width: int) -> dict:
    # Four heads with values of their own, at every width: a vector of ratio 4 holds four tokens, and
    # with shared values (grouped queries) the pair took several times as long to keep them apart.
    return dict(
        model_type=model_type,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        intermediate_size=2 * width,
        max_position_embeddings=256,
    )


def optim(steps: int, lr: float = 3e-3, b2: float = 0.95) -> dict:
    # A word is in few passages of a batch and has to become its own code: the embeddings' rate is
    # 0.09 while that of the matrices is a thirtieth of it or less.
    return dict(steps=steps, batch=16, lr=lr, embed_lr=0.09 / lr, final_lr=0.02, warmup=100, b2=b2)


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, full=False, reference=1)
    full, second = args.full, args.reference == 2
    llama, qwen3 = (24, 40, 64, 80), (16, 24, 40, 64, 80)
    rebuild = dict(objective="coin", p_reconstruct=0.9)
    return ConfigDict(
        dict(
            name=("tiny-full" if full else "tiny") + ("-2" if second else ""),
            families=dict(
                llama={f"{w}": shape("llama", w) for w in llama},
                qwen3={f"{w}": shape("qwen3", w) for w in qwen3},
            ),
            world=dict(prior_strength=0.95, train_prior_strength=0.5),
            data=dict(source="world", segment=T, target=T + 1, train_passages=65_536),
            pretrain=dict(optim=optim(800), seq_len=2 * T, copy_fraction=0.5),
            decoder=dict(
                model=shape("llama", 64),
                reference=shape("llama", 72 if second else 56),
                seed=1 if second else 0,
                # From scratch, together: a pretrained decoder was slower to be steered, not faster.
                pretrain=dict(optim=optim(0), seq_len=2 * T),
                adapt=dict(
                    optim=optim(4000),
                    ratios=[4, 4, 4, 4, 4, 16],
                    p_blank=0.1,
                    word_dropout=0.25,
                    checkpoint_every=2000,
                    **rebuild,
                ),
            ),
            memory=dict(positions="spread", marker_steps=0),
            train=dict(optim=optim(1200, lr=2e-3, b2=0.99), **rebuild),
            sweep=dict(
                families=["llama", "qwen3"] if full else ["llama"],
                sizes=[] if full else ["24", "40", "64"],
                ratios=[4, 16, 64],
                base_seeds=[0, 1, 2] if full else [0],
                lr_grid=[0.5, 1.0, 2.0],
            ),
        )
    )
