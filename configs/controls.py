"""Controls of the paradox (docs/explanation/controlled-world.md): one change at a time.

    configs/controls.py:control=split          the compressors' bases believe other favourites than
                                               the decoder: whose prior wins?
    configs/controls.py:control=mismatch,text=untrained
                                               bases pretrained on other text than the decoder's world:
                                               same | favourites | scrambled | untrained
    configs/controls.py:control=decoder,decoder=qwen3
                                               another decoder, taught by the same reference
                                               compressor: own | qwen3 | small | large

All else is configs/tiny.py:full at ratio 16: recipe, held-out passages, three base seeds. `text=same`
and `decoder=own` are that config itself, so their finished rows are taken over with --reuse.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from jaxcomp.config import ConfigError, parse_arg

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
OTHER = 1  # the seed of a world in which 136 of 140 favourites are another value
TEXTS = ("same", "favourites", "scrambled", "untrained")
DECODERS = {"own": (), "qwen3": ("qwen3", 64), "small": ("llama", 48), "large": ("llama", 96)}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, control="split", text="favourites", decoder="own")
    config = TINY["get_config"]("full")
    config.name = given.control
    config.sweep.families = ["llama"]
    config.sweep.sizes = ["24", "40", "64"]
    config.sweep.ratios = [16]
    config.sweep.lr_grid = []
    control = _one_of("control", given.control, ("split", "mismatch", "decoder"))
    for name, own, default in (("text", "mismatch", "favourites"), ("decoder", "decoder", "own")):
        if getattr(given, name) != default and control != own:
            raise ConfigError(f"config argument {name}=... goes with control={own} only")
    if control == "decoder":
        config.name += f"-{_one_of('decoder', given.decoder, DECODERS)}"
        config.sweep.families = ["llama", "qwen3"]  # so that each decoder meets its own family
        if given.decoder != "own":
            config.decoder.model = TINY["shape"](*DECODERS[given.decoder])
        return config
    if control == "mismatch":
        config.name += f"-{_one_of('text', given.text, TEXTS)}"
    if control == "split" or given.text == "favourites":
        config.world.base_favourites = OTHER
    elif given.text == "scrambled":
        config.world.base_scrambled = True
    elif given.text == "untrained":
        config.pretrain.optim.steps = 0
    return config


def _one_of(name: str, value: str, known) -> str:
    if value not in known:
        raise ConfigError(f"config argument {name}={value}: expected one of {', '.join(known)}")
    return value
