"""The size-fidelity sweep on real text, with edit survival in place of the world's facts.

    configs/text.py:path=FILE    a .jsonl[.gz] (field "text", or field=NAME), .parquet or .txt file,
                                 or a glob
    ...:models=english           base models and decoder of English prose (default where they ship)
    ...:models=own               a tokenizer, base models and a decoder of that text, made first in
                                 the workdir (default where none ship)
    ...:seeds=3                  pretraining seeds

The recipe is that of configs/tiny.py, on wider towers, for a larger vocabulary needs wider codes.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

import jaxcomp
from jaxcomp.config import ConfigError, parse_arg

T = 64  # context tokens of a segment: ratio 64 leaves one vector
ENGLISH = Path(jaxcomp.__file__).parent / "assets" / "decoders" / "decoder-s0-english"


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
    given = parse_arg(arg, path="", field="text", models="", seeds=1)
    models = given.models or ("english" if ENGLISH.is_dir() else "own")
    if models not in ("english", "own"):
        raise ConfigError(f"config argument models={models}: expected english or own")
    rebuild = dict(objective="coin", p_reconstruct=0.9)
    cfg = dict(
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
        sweep=dict(ratios=[4, 16, 64], base_seeds=list(range(given.seeds))),
    )
    if models == "english":
        english(cfg)
    return ConfigDict(cfg)


def english(cfg: dict) -> None:
    """The settings of the models that ship: a change of them needs new ones (CONTRIBUTING.md)."""
    cfg["name"] = "english"
    cfg["data"] |= dict(vocab_size=2048, eval_passages=1024)
    cfg["pretrain"] |= dict(optim=optim(4000))
    cfg["decoder"]["adapt"] |= dict(optim=optim(15_000))
    cfg["train"] |= dict(optim=optim(4000, lr=2e-3, b2=0.99), curriculum=[4], curriculum_share=0.3)
    cfg["sweep"] |= dict(ratios=[4, 16])
    cfg["eval"] = dict(edits_per_kind=80)
    if ENGLISH.is_dir():  # else they are made of the text of data.path
        card = json.loads((ENGLISH / "card.json").read_text())
        text = card["identity"]["lm"]["data"]["documents"]
        cfg["data"] |= dict(tokenizer=str(ENGLISH))
        cfg["pretrain"] |= dict(text=text)
        cfg["decoder"]["pretrain"] |= dict(text=text)
