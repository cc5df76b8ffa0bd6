"""Rate and distortion of a shipped base that nobody trained: what does not depend on training."""

from pathlib import Path
from typing import Any

import pytest

from jaxcomp import settings
from jaxcomp.compress.quantise import FORMATS, bits
from jaxcomp.fidelity.evaluate import evaluate
from jaxcomp.fidelity.rate import rates
from jaxcomp.train import bases, compress


@pytest.fixture
def given(mesh):
    cfg = settings.load(
        "configs/tiny.py",
        [
            ("compressor", "llama/24"),
            ("data.eval_passages", "6"),
            ("eval.batch", "6"),
            ("eval.samples", "0"),
            ("memory.ratio", "16"),
        ],
    )
    folders = bases.resolve_base(cfg, "llama", "24", 0), bases.resolve_decoder(cfg)
    return cfg, compress.pair(cfg, *folders), compress.tokenizers(cfg, Path("."))


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
            assert r.kept == metrics[f"{r.name}/nonfavourite/all/kept"]
    whole, coarse = found[0], found[3]
    assert coarse.loss != whole.loss  # four bits do reach the decoder
    assert found[1].loss == pytest.approx(whole.loss, rel=1e-2)  # and bfloat16 is near
