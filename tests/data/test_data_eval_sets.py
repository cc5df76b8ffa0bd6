"""Held-out sets: unseen, whole, and in batches whose last rows are empty."""

from itertools import chain

import numpy as np
import pytest
from data_configs import text_config, world_config, write_prose

from jaxcomp.config import ConfigError
from jaxcomp.data.batches import (
    data_stats,
    data_tokenizer,
    eval_examples,
)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    return write_prose(tmp_path_factory.mktemp("prose"))


def test_world_sets_are_disjoint_fit_and_carry_their_facts():
    cfg = world_config()
    tok = data_tokenizer(cfg)
    texts = {}
    for which, count in (("val", 6), ("ordinary", 10), ("counterfactual", 10), ("train", 10)):
        examples = eval_examples(cfg, which, tok, tok)
        assert len(examples) == count
        texts[which] = {e.text for e in examples}
        for e in examples:
            assert tok.decode(e.ctx[0]) == e.text == e.passage.text
            assert e.target == [*tok.encode(e.text), tok.eos_id]
            assert len(e.target) <= cfg.data.target
            assert (
                e.continuation[: len(e.continuation) - 1]
                == tok.encode(e.passage.continuation)[: len(e.continuation) - 1]
            )
            assert all(e.text[s.start : s.end] for s in e.passage.facts)
    assert len(set.union(*texts.values())) == 36
    turned = [not s.is_favourite for e in eval_examples(cfg, "counterfactual", tok, tok)
              for s in e.passage.facts]  # fmt: skip
    usual = [not s.is_favourite for e in eval_examples(cfg, "ordinary", tok, tok)
             for s in e.passage.facts]  # fmt: skip
    assert np.mean(turned) > 0.3 > np.mean(usual)


@pytest.mark.parametrize("which", ["ordinary", "nonsense"])
def test_unknown_sets_are_refused(prose, which):
    cfg = text_config(prose)
    tok = data_tokenizer(cfg)
    with pytest.raises(ConfigError, match="expected one of train, val, test"):
        eval_examples(cfg, which, tok, tok)


def test_world_in_several_segments():
    cfg = world_config(segment=16, segments=2)
    tok = data_tokenizer(cfg)
    stats = data_stats(cfg, tok, tok)
    assert stats.counts.too_long == 0
    assert stats.counts.segments > stats.counts.examples
    for e in eval_examples(cfg, "val", tok, tok):
        assert tok.decode(chain(*e.ctx)) == e.text
        assert len(e.ctx[0]) == 16
