"""Rate and distortion of a shipped base that nobody trained: what does not depend on training."""

from pathlib import Path
from typing import Any

import pytest

from jaxcomp.cli import overrides
from jaxcomp.compress.quantize import FORMATS, bits
from jaxcomp.evals.evaluate import evaluate
from jaxcomp.evals.rate import rates
from jaxcomp.training import compressor, pretrained


@pytest.fixture
def given(mesh):
    cfg = overrides.load(
        "configs/tiny.py",
        [
            ("compressor", "llama/24"),
            ("data.eval_passages", "6"),
            ("eval.batch", "6"),
            ("eval.samples", "0"),
            ("memory.ratio", "16"),
        ],
    )
    folders = pretrained.resolve_base(cfg, "llama", "24", 0), pretrained.resolve_decoder(cfg)
    return cfg, compressor.pair(cfg, *folders), compressor.tokenizers(cfg, Path("."))


def test_in_full_precision_the_numbers_are_those_of_evaluation_and_bits_are_counted(given):
    cfg, model, toks = given
    found = rates(cfg, model, toks)
    metrics: Any = evaluate(cfg, model, *toks).metrics
    assert [(r.name, r.form) for r in found] == [
        (name, form) for name in ("ordinary", "counterfactual") for form in FORMATS
    ]
    for r in found:
        vectors, size = metrics[f"{r.name}/vectors"], metrics[f"{r.name}/bytes"]
        assert r.rate == pytest.approx(vectors * bits(r.form, 64) / size)
        if r.form == "float32":
            assert r.distortion == pytest.approx(metrics[f"{r.name}/bits_per_byte"])
            assert r.loss == pytest.approx(metrics[f"{r.name}/loss"])
            assert r.fr_accuracy == metrics[f"{r.name}/fr_accuracy"]
            assert r.kept == metrics[f"{r.name}/nonfavourite/all/preserved"]
    whole, coarse = found[0], found[3]
    assert coarse.loss != whole.loss  # four bits do reach the decoder
    assert found[1].loss == pytest.approx(whole.loss, rel=1e-2)  # and bfloat16 is near
