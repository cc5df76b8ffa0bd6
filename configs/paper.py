"""The paper's 27 setups (arXiv 2602.09789): 9 compressors x 3 ratios, one frozen decoder.

    configs/paper.py                                   all 27
    configs/paper.py:family=qwen3,size=0.6B,ratio=16   one of them; any of the three may be left out
    ...:tune=full                                      every weight of the compressor, not LoRA
    ...:tune=frozen                                    the connector alone, over pooled states: what the
                                                       compressor knows stays (docs/results/paradox.md)
    ...:path=GLOB[,field=NAME]                         parquet files of FineWeb, gs:// too

Each value is marked: `known` is in the paper's abstract or in notes of its readers, `pcc` the recipe
that it seems to follow, `assumed` our choice (../shared/PROTOCOL.md of this project says why).
"""

from ml_collections import ConfigDict

from jaxcomp.config import ConfigError, parse_arg, to_dict
from jaxcomp.models.registry import published

# assumed: which nine. 14B can be asked for by size=14B. Llama's 11B and 90B are the text towers of
# the Vision models: about 8B and 70B parameters are used.
SIZES = dict(qwen3=("0.6B", "1.7B", "4B", "8B", "32B"), llama=("1B", "3B", "11B", "90B"))
NAMES = dict(qwen3="qwen3-{}", llama="llama3.2-{}")
DECODER = "llama3-8b-instruct"  # known
TUNE = {  # what of the compressor is trained
    "lora": dict(lora=dict(rank=64, alpha=32.0, dropout=0.1)),  # pcc
    "full": dict(),
    "frozen": dict(recipe="mean_pool", kind="pool", trained="connector"),
}
T = 256  # pcc: tokens of a segment
STEPS = 34_688  # assumed: 4.44M reconstruction samples (known) are half (pcc) of all; 256 a step


def get_config(arg: str = "") -> ConfigDict:
    args = parse_arg(arg, family="", size="", ratio=0, tune="lora", path="", field="text")
    families = {
        family: {s: published(NAMES[family].format(s.lower())) for s in (*sizes, *extra)}
        for family, sizes in SIZES.items()
        for extra in [("14B",) if family == "qwen3" else ()]
    }
    asked = [args.family] if args.family else list(SIZES)
    sizes = [args.size] if args.size else [s for family in asked for s in SIZES.get(family, ())]
    chosen = [family for family in asked if set(sizes) & set(families.get(family, ()))]
    if args.tune not in TUNE or not chosen:
        known = ", ".join(f"{f} {' '.join(x)}" for f, x in families.items())
        raise ConfigError(
            f"{arg}: expected tune={', '.join(TUNE)}, and a family and size of {known}"
        )
    return ConfigDict(
        dict(
            name="paper",
            families={f: {s: to_dict(m.shape) for s, m in x.items()} for f, x in families.items()},
            folders={f"{f}/{s}": m.hub for f, x in families.items() for s, m in x.items()}
            | {"decoder": published(DECODER).hub},
            decoder=dict(model=to_dict(published(DECODER).shape)),
            compressor=f"{chosen[0]}/{sizes[0]}" if len(sizes) == 1 else "",
            data=dict(
                source="text" if args.path else "tfds",
                path=args.path,
                text_field=args.field,
                tfds_name="" if args.path else "c4/en",  # assumed in FineWeb's (pcc) place
                segment=T,
                target=320,  # assumed: of T Qwen3 tokens, in Llama-3's, with room
            ),
            memory=dict(
                ratio=args.ratio or 16,
                positions="consecutive",  # assumed: as pcc's code; `spread` is ours
                marker_steps=300,  # pcc: "a short warm-up"; assumed: this short
            )
            | TUNE[args.tune],
            train=dict(
                optim=dict(steps=STEPS, batch=256, lr=1e-4, warmup=300, clip=0.5, b2=0.999),  # pcc
                objective="coin",
                p_reconstruct=0.5,  # pcc
                dtype="bfloat16",  # pcc
                remat="full",
                loss_chunk=64,
            ),
            sweep=dict(
                families=chosen, sizes=sizes, ratios=[args.ratio] if args.ratio else [4, 16, 64]
            ),
        ),
        allow_dotted_keys=True,  # 0.6B
    )
