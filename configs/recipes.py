"""Every recipe's memory for one decoder, at equal vectors or bytes (docs/explanation/recipes.md).

    configs/recipes.py              six recipes x ratios 4 and 16, one size, one seed, on the
                                    controlled world
    configs/recipes.py:seeds=3      three training seeds of each
    ...:equal=bytes                 as many bytes of memory instead of as many vectors
    ...:on=text,decoder=DIR         on real text: data, towers and schedule of configs/text.py, and
                                    the decoder that it made, RUN/decoders/decoder-s0
    ...:on=text,decoder=DIR,path=FILE       other text than ../shared/data/prose.jsonl.gz: the one
                                    that decoder was made on (field=NAME if not "text")

Data, base models, schedule and objective are those of configs/tiny.py: recipes differ in how a
memory is written (`memory.kind`, `memory.connector`) and, for `lclm`, in a decoder that is trained
too. All train against the shipped decoder, which was adapted to a reference compressor of recipe
`pcc`. `mean_pool` is not run: at
an equal objective it is `arc`. The size is as wide as the decoder, as `icae` needs, and has its
layers and heads, as `500x` does.

A vector of `500x` is the keys and values of every layer, 2 Y K H numbers against the decoder's
width D of the others: four times as many, in both configs. With equal=bytes it runs at that many
times the ratio, rounded up to a divisor of the segment: 16 and 64 for 4 and 16.
"""

import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jaxcomp
from jaxcomp.compress.recipes import RECIPES
from jaxcomp.config import ConfigError, parse_arg

HERE = Path(__file__).parent
SHIPPED = Path(jaxcomp.__file__).with_name("assets") / "decoders/decoder-s0"
PROSE = "../shared/data/prose.jsonl.gz"
RATIOS = (4, 16)


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(
        arg, seeds=1, equal="vectors", on="world", decoder="", path=PROSE, field="text"
    )
    for name, known in (("equal", ("vectors", "bytes")), ("on", ("world", "text"))):
        if getattr(given, name) not in known:
            raise ConfigError(
                f"config argument {name}={getattr(given, name)}: expected {' or '.join(known)}"
            )
    config = on_text(given) if given.on == "text" else on_world(given)
    shape = config.decoder.model
    config.sweep.ratios = list(RATIOS)
    config.sweep.recipes = [name for name in RECIPES if name != "mean_pool"]
    config.sweep.seeds = list(range(given.seeds))
    config.sweep.lr_grid = []
    if given.equal == "bytes":
        config.name += "-bytes"
        of_kv = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
        own = [as_many_bytes(r, of_kv / shape.hidden_size, config.data.segment) for r in RATIOS]
        named = [name for name in config.sweep.recipes if RECIPES[name].kind == "kv"]
        config.sweep.own_ratios = dict.fromkeys(named, own)
    return config


def on_world(given: Any) -> Any:
    if given.decoder or given.path != PROSE or given.field != "text":
        raise ConfigError(
            "config arguments decoder, path and field are for on=text; the world has its own"
        )
    config = runpy.run_path(str(HERE / "tiny.py"))["get_config"]()
    config.name = "recipes"
    config.folders = {"decoder": str(SHIPPED)}
    config.sweep.sizes = ["64"]
    return config


def on_text(given: Any) -> Any:
    made = f"path={given.path},field={given.field}"
    if not given.decoder:
        raise ConfigError(
            "config argument on=text needs decoder=DIR, one decoder for all: make it with "
            f"`jaxcomp pretrain --config=configs/text.py:{made} --compressor=decoder --workdir=RUN`, and name "
            "RUN/decoders/decoder-s0"
        )
    text = runpy.run_path(str(HERE / "text.py"))["get_config"]
    config = text(made)
    config.name = "recipes-text"
    config.folders = {"decoder": given.decoder}
    config.sweep.sizes = [str(config.decoder.model.hidden_size)]
    return config


def as_many_bytes(ratio: int, times: float, segment: int) -> int:
    """The ratio at which vectors of `times` as many numbers take at most as many bytes."""
    fitting = [r for r in range(1, segment + 1) if segment % r == 0 and r >= ratio * times]
    if not fitting:
        raise ConfigError(
            f"equal=bytes: at ratio {ratio} a memory of keys and values needs ratio "
            f"{ratio * times:g} or more, and a segment has {segment} tokens; use equal=vectors"
        )
    return fitting[0]
