"""Held-out sets: unseen, whole, and in batches whose last rows are empty."""

from itertools import chain

import numpy as np
import pytest
from data_configs import text_config, world_config, write_prose

from jaxcomp.config import ConfigError
from jaxcomp.data.batches import (
    CONTINUE,
    REBUILD,
    batch_examples,
    data_stats,
    data_tokenizer,
    eval_examples,
)


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    return write_prose(tmp_path_factory.mktemp("prose"))


def test_world_sets_are_disjoint_fit_and_carry_their_slots():
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
            assert all(e.text[s.start : s.end] for s in e.passage.slots)
    assert len(set.union(*texts.values())) == 36
    turned = [not s.is_favourite for e in eval_examples(cfg, "counterfactual", tok, tok)
              for s in e.passage.slots]  # fmt: skip
    usual = [not s.is_favourite for e in eval_examples(cfg, "ordinary", tok, tok)
             for s in e.passage.slots]  # fmt: skip
    assert np.mean(turned) > 0.3 > np.mean(usual)


def test_text_sets_are_unseen_and_come_from_many_documents(prose):
    cfg = text_config(prose)
    tok = data_tokenizer(cfg)
    sets = {which: eval_examples(cfg, which, tok, tok) for which in ("train", "val", "test")}
    documents = {w: {e.id.split(":")[0] for e in found} for w, found in sets.items()}
    assert not documents["test"] & documents["train"]
    assert not documents["test"] & documents["val"]
    for which, found in sets.items():
        wanted = cfg.data.val_passages if which == "val" else cfg.data.eval_passages
        assert 0 < len(found) <= wanted
        assert len(documents[which]) == min(len(found), len(documents[which]))
        for e in found:
            assert len(e.ctx) == 2
            assert e.continuation
            assert tok.decode(chain(*e.ctx)) == e.text
            assert e.passage is None
    assert len(documents["train"]) == 10


@pytest.mark.parametrize("which", ["ordinary", "nonsense"])
def test_unknown_sets_are_refused(prose, which):
    cfg = text_config(prose)
    tok = data_tokenizer(cfg)
    with pytest.raises(ConfigError, match="expected one of train, val, test"):
        eval_examples(cfg, which, tok, tok)


def test_evaluation_batches_pad_with_empty_rows():
    cfg = world_config()
    tok = data_tokenizer(cfg)
    examples = eval_examples(cfg, "ordinary", tok, tok)
    batches = list(batch_examples(examples, 4, cfg, modes=(REBUILD, CONTINUE)))
    assert [n for _, n in batches] == [4, 4, 2]
    seen = 0
    for batch, n in batches:
        for b in range(4):
            if b >= n:
                assert not any(x[b].any() for x in batch[:-1])
                continue
            e = examples[seen]
            seen += 1
            assert batch.ctx_BGT[b, 0, : batch.ctx_len_BG[b, 0]].tolist() == e.ctx[0]
            assert batch.tok_BOL[b, 0, : batch.tok_len_BO[b, 0]].tolist() == e.target
            assert batch.tok_BOL[b, 1, : batch.tok_len_BO[b, 1]].tolist() == e.continuation
    assert next(iter(batch_examples(examples, 4, cfg)))[0].tok_BOL.shape == (4, 1, 40)


def test_world_in_several_segments():
    cfg = world_config(segment=16, segments=2)
    tok = data_tokenizer(cfg)
    stats = data_stats(cfg, tok, tok)
    assert stats.examples_too_long == 0
    assert stats.segments > stats.examples
    for e in eval_examples(cfg, "val", tok, tok):
        assert tok.decode(chain(*e.ctx)) == e.text
        assert len(e.ctx[0]) == 16
