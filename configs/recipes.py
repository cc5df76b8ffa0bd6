"""Every recipe's memory for one frozen decoder, on the controlled world (docs/recipes.md).

    configs/recipes.py              five recipes x ratios 4 and 16, one size, one seed
    configs/recipes.py:seeds=3      three training seeds of each

Data, base models, schedule and objective are those of configs/tiny.py: recipes differ in how a
memory is written (`memory.kind`, `memory.connector`) and, for `lclm`, in a decoder that is trained
too. The decoder of all is the one in the package, which a reference compressor of recipe `pcc`
taught to be steered: the others have to speak to a listener of `pcc`'s. `mean_pool` is not run: at
an equal objective it is `arc`. The size is as wide as the decoder, as `icae` needs. Every memory has
the same number of vectors of the same width, so equal vectors are equal bytes.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from jaxcomp.settings import parse_arg

TINY = Path(__file__).with_name("tiny.py")
SHIPPED = Path(__file__).parents[1] / "jaxcomp/assets/decoders/decoder-s0"


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, seeds=1)
    config = runpy.run_path(str(TINY))["get_config"]()
    config.name = "recipes"
    config.folders = {"decoder": str(SHIPPED)}
    config.sweep.sizes = ["64"]
    config.sweep.ratios = [4, 16]
    config.sweep.recipes = ["pcc", "icae", "pisco", "arc", "lclm"]
    config.sweep.seeds = list(range(given.seeds))
    config.sweep.lr_grid = []
    return config
