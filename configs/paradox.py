"""Prior strength against size and fidelity.

    configs/paradox.py:bases=0.8           only the compressors' base models read text in which a fact
                                           is the favourite in 80% of the cases
    configs/paradox.py:bases=0.8,text=0.8  and so is the text that decoder and compressors learn from
    ...:bases=0.8,text=0.8,reference=2     the same against decoders of another seed, which another
                                           reference compressor taught

Everything else is configs/tiny.py:full: decoder, recipe, test passages. bases=0.95,text=0.5 is that
config itself (with reference=2, that of its second decoder), so its finished rows are taken over.
Held-out `counterfactual` passages are the same at every prior strength. What came of it:
docs/results/prior-strength.md.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

import jaxcomp
from jaxcomp.config import parse_arg

TINY = Path(__file__).with_name("tiny.py")
SHIPPED = Path(jaxcomp.__file__).with_name("assets") / "decoders"  # learned from text=0.5


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, bases=0.95, text=0.5, reference=1)
    second = given.reference == 2
    config = runpy.run_path(str(TINY))["get_config"](f"full,reference={given.reference}")
    config.name = f"paradox-b{given.bases:g}-t{given.text:g}" + ("-2" if second else "")
    config.world.prior_strength = given.bases
    config.world.train_prior_strength = given.text
    if given.text == 0.5 and given.bases != 0.95:
        # One decoder for every prior strength of the bases, whose own text this is not.
        config.folders = {"decoder": str(SHIPPED / f"decoder-s{config.decoder.seed}")}
    config.sweep.families = ["llama"]
    config.sweep.sizes = ["24", "40", "64"]
    config.sweep.ratios = [16]
    config.sweep.lr_grid = []
    return config
