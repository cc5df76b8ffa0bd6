"""A world in which larger models know more: does a larger compressor then overwrite more?

    configs/people.py:quick      one family, 3 sizes, 3 pretraining seeds, ratio 4, from the models in
                                 the package; minutes on two cores
    configs/people.py            9 sizes of two families x ratios 4, 8, 16; hours
    ...:trained=frozen           what is trained of the compressor: frozen (the connector alone), last
                                 (its last layer too), lora or full
    ...:replay=0.1               weight of language modelling while lora, last or full are trained: it
                                 keeps what the pretrained model knows
    ...:decoder=knowing          the decoder's text has favourites (ignorant: its values are uniform)
    ...:text=0.95                P(favourite) in the compressor's training text (0: uniform values)
    ...:seeds=3,first=0          pretraining seeds, from `first` on
    ...:kind=append,layers=4     memory tokens in place of pooled states, and the compressors' depth
    ...:reference=2              decoders of a second seed, which another reference compressor adapted

Sizes are widths. The question, the predictions and the answer: docs/results/paradox.md.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from jaxcomp.config import ConfigError, parse_arg

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
T = 64  # context tokens of a segment
LLAMA, QWEN3 = (16, 24, 40, 64, 96), (16, 32, 48, 80)
TRAINED = {
    "frozen": dict(trained="connector"),
    "last": dict(trained="last_layer"),
    "lora": dict(lora=dict(rank=8, alpha=16.0)),
    "full": dict(),
}
KINDS = {"pool": "mean_pool", "append": "pcc"}
KNOWING = {"ignorant": 0.0, "knowing": 0.95}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(
        arg, quick=False, trained="frozen", replay=0.0, decoder="ignorant", text=0.95, seeds=3,
        first=0, kind="pool", layers=2, reference=1,
    )  # fmt: skip
    for name, known in (("trained", TRAINED), ("decoder", KNOWING), ("kind", KINDS)):
        if getattr(given, name) not in known:
            raise ConfigError(
                f"config argument {name}={getattr(given, name)}: expected {', '.join(known)}"
            )
    second = given.reference == 2
    rebuild = dict(objective="coin", p_reconstruct=0.9)
    memory = dict(recipe=KINDS[given.kind], kind=given.kind, positions="spread", marker_steps=0)
    return ConfigDict(
        dict(
            name=name_of(given),
            families=dict(
                llama={f"{w}": shape("llama", w, given.layers) for w in LLAMA},
                qwen3={f"{w}": shape("qwen3", w, given.layers) for w in QWEN3},
            ),
            people=dict(
                prior_strength=0.95,
                train_prior_strength=given.text,
                decoder_prior_strength=KNOWING[given.decoder],
            ),
            data=dict(
                source="people", segment=T, target=T + 1, train_passages=65_536, eval_passages=512
            ),
            pretrain=dict(optim=TINY["optim"](3200), seq_len=2 * T, copy_fraction=0.5),
            decoder=dict(
                model=shape("llama", 64),
                reference=shape("llama", 72 if second else 56),
                seed=1 if second else 0,
                pretrain=dict(optim=TINY["optim"](0), seq_len=2 * T),
                adapt=dict(
                    optim=TINY["optim"](5000),
                    ratios=[4, 4, 4, 8, 16],
                    p_blank=0.1,
                    word_dropout=0.25,
                    checkpoint_every=2500,
                    **rebuild,
                ),
            ),
            memory=memory | TRAINED[given.trained],
            # Higher ratios do not train from scratch.
            train=dict(
                optim=TINY["optim"](3000, lr=2e-3, b2=0.99),
                curriculum=[4],
                curriculum_share=0.3,
                replay=given.replay,
                **rebuild,
            ),
            sweep=dict(
                families=["llama"] if given.quick else ["llama", "qwen3"],
                sizes=["16", "40", "96"] if given.quick else [],
                ratios=[4] if given.quick else [4, 8, 16],
                base_seeds=list(range(given.first, given.first + given.seeds)),
                primary_ratio=4,
                smallest_effect=0.03,
            ),
        )
    )


def shape(model_type: str, width: int, layers: int = 2) -> dict:
    return TINY["shape"](model_type, width) | dict(num_hidden_layers=layers)


def name_of(given) -> str:
    parts = ["people-quick" if given.quick else "people", given.trained]
    parts += [f"replay{given.replay:g}"] if given.replay else []
    parts += [given.decoder] if given.decoder != "ignorant" else []
    parts += [f"text{given.text:g}"] if given.text != 0.95 else []
    parts += [f"{given.kind}{given.layers}"] if (given.kind, given.layers) != ("pool", 2) else []
    return "-".join(parts) + ("-2" if given.reference == 2 else "")
