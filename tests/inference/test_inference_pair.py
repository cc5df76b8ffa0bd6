"""A pair at work says what the same pair says in evaluation, whatever shares its batch."""

import dataclasses
import re

import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx
from inference.inference_runs import LORA, config, texts, trained, trained_pair

import jaxcomp
from jaxcomp.data.batches import REBUILD, batch_examples, eval_examples
from jaxcomp.data.segments import cut
from jaxcomp.inference import Memory, MemoryFileError, PairError, decode, prompt_embeds
from jaxcomp.inference.format import ExportError
from jaxcomp.runtime.sharding import put_batch, use_mesh
from jaxcomp.training.compressor import load_run, tokenizers


@pytest.fixture(scope="module")
def run():
    return trained()


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


@pytest.fixture(scope="module")
def memory(pair):
    return pair.compress(texts())


def test_its_vectors_and_likelihoods_are_those_of_evaluation(run, pair, memory):
    cfg = config(LORA)
    with use_mesh(pair.mesh):
        examples = eval_examples(cfg, "ordinary", *tokenizers(cfg, run))[:5]
        batch, valid = next(iter(batch_examples(examples, 8, cfg)))
        put = put_batch(batch, pair.mesh)
        parts = nnx.split(load_run(cfg, run))
        found = decode.read(*parts, put.ctx_BGT, put.ctx_len_BG, 16)
        labels = put.mode_BO[:, 0], put.tok_BOL[:, 0], put.tok_len_BO[:, 0]
        forced = decode.forced(*parts, found, *labels)
    vec_BMD, seg_BM, nll_BL = map(np.asarray, (found.vec_BMD, found.seg_BM, forced.nll_BL))
    expected = np.concatenate([vec_BMD[b][seg_BM[b] > 0] for b in range(valid)])
    np.testing.assert_allclose(memory.vec_ND, expected, atol=2e-5)
    scores = pair.score(memory, texts())
    nats, tokens = (sum(s[i] for s in scores) for i in (0, 1))
    assert tokens == batch.tok_len_BO[:valid, 0].sum()
    assert nats == pytest.approx(nll_BL[:valid].sum(dtype=np.float64), rel=1e-6)


def test_a_short_text_is_read_where_the_training_put_it(pair, memory, monkeypatch):
    """Of two segments an example, one of them absent: what follows stands after both."""
    monkeypatch.setattr(pair, "traits", pair.traits._replace(segments=2))
    text = texts()[0]
    ids = pair.comp_tok.encode(text)[:64]
    ctx_BGT, len_BG = np.zeros((1, 2, 64), np.int32), np.array([[len(ids), 0]], np.int32)
    ctx_BGT[0, 0, : len(ids)] = ids
    label = [*pair.dec_tok.encode(text), pair.dec_tok.eos_id]
    arrays = ctx_BGT, len_BG, np.array([label]), np.array([len(label)]), np.zeros(1, np.int32)
    with use_mesh(pair.mesh):
        ctx_BGT, len_BG, tok_BL, len_B, mode_B = put_batch(arrays, pair.mesh)
        read = pair.model.memory(ctx_BGT, len_BG, ratio=16)
        found = decode.forced(*nnx.split(pair.model), read, mode_B, tok_BL, len_B)
    expected = float(np.asarray(found.nll_BL, np.float64).sum())
    one = memory[0]
    assert one.segments_B.tolist() == [1]
    assert pair.score(one, text)[0].nats == pytest.approx(expected, rel=1e-5)
    ((_, prefix),) = pair.asked(one, ["who"])
    assert prefix.start_pos_B[0] == 1 + 2 * 64 + 2 + len(pair.dec_tok.encode("who"))


def test_a_batch_of_one_equals_a_batch_of_many(pair, memory):
    together = pair.reconstruct(memory, max_new=12)
    assert together == [pair.reconstruct(memory[i], max_new=12)[0] for i in range(len(memory))]
    asked = pair.ask(memory, "who passed the fox ?", max_new=6, stop="", template="{question}")
    alone = [
        pair.ask(memory[i], "who passed the fox ?", max_new=6, stop="", template="{question}")[0]
        for i in range(len(memory))
    ]
    assert asked == alone
    single = pair.compress(texts()[2])
    np.testing.assert_allclose(single.vec_ND, memory[2].vec_ND, atol=2e-5)
    assert single.tokens_G.tolist() == memory[2].tokens_G.tolist()


def test_more_new_tokens_than_the_decoder_has_positions_are_refused(pair, memory):
    for use in (pair.reconstruct, lambda memory, **kw: pair.ask(memory, "who", **kw)):
        for max_new in (-1, 257):
            with pytest.raises(PairError, match=f"max_new = {max_new}: .*at most 256, the pos"):
                use(memory, max_new=max_new)


def test_a_part_is_at_most_as_long_as_its_own_text(pair, memory, monkeypatch):
    """... or a training target: whatever stands in the batch beside it."""
    monkeypatch.setattr(pair, "traits", pair.traits._replace(target=3))
    long = dataclasses.replace(memory, labels_G=memory.labels_G + 20)
    both = Memory.join([memory[0], long[1]])
    short, longer = pair.reconstruct(both)
    assert short == pair.reconstruct(memory[0])[0]
    assert longer == pair.reconstruct(long[1])[0]
    words = [len(pair.dec_tok.encode(text)) for text in (short, longer)]
    most = (both.labels_G + 1).tolist()
    assert words[0] <= most[0] < words[1] <= most[1]


def test_a_sharded_pair_gives_the_same(run, memory, pair):
    wide = jaxcomp.load(run, mesh=mesh_of((2, 4, 1)), batch=4)
    found = wide.compress(texts())
    np.testing.assert_allclose(found.vec_ND, memory.vec_ND, atol=1e-4)
    for one, other in zip(wide.score(memory, texts()), pair.score(memory, texts()), strict=True):
        assert one.tokens == other.tokens
        assert one.nats == pytest.approx(other.nats, rel=1e-4)


def test_nothing_but_spaces_is_a_text_and_no_text_is_none(pair):
    memory = pair.compress(["\n \n", ""])
    assert memory.segments_B.tolist() == [1, 0]
    assert memory.bytes_G.tolist() == [3]
    rebuilt = pair.reconstruct(memory, max_new=4)
    asked = pair.ask(memory, "", template="{question}", max_new=4, stop="")
    assert [len(rebuilt), len(asked), rebuilt[1]] == [2, 2, ""]
    # The end token alone, which every text has; of nothing to continue with, nothing.
    assert [s.tokens for s in pair.score(memory, "")] == [1] * 2
    assert all(np.isfinite(s.nats) and s.nats > 0 for s in pair.score(memory, ""))
    assert pair.score(memory, "", mode="continue") == [(0.0, 0)] * 2
    # What it says of an empty text does not depend on the others.
    assert asked[1] == pair.ask(memory[1], "", template="{question}", max_new=4, stop="")[0]
    none = pair.compress([])
    assert (len(none), none.vec_ND.shape) == (0, (0, memory.vec_ND.shape[1]))
    assert pair.reconstruct(none) == pair.ask(none, "who") == pair.score(none, "a") == []


def test_of_a_long_text_every_segment_is_what_it_is_alone(pair):
    # Words alone: each is a token with the space before it, so a segment's text has its tokens.
    words = [w for text in texts() for w in re.findall("[A-Za-z]+", text)]
    rng = np.random.default_rng(0)
    text = " ".join(words[i] for i in rng.integers(len(words), size=5_000))
    seen = []
    long = pair.compress(text, seen=lambda done, every: seen.append((done, every)))
    cuts = cut(text, pair.comp_tok, 64)
    G, M = len(cuts), 64 // 16
    assert seen[-1] == (G, G)
    assert len(seen) == -(-G // pair.batch)  # rows of a batch at a time, whatever the length
    assert long.segments_B.tolist() == [G] == [-(-5_000 // 64)]
    assert long.tokens_G.tolist() == [64] * (G - 1) + [5_000 % 64]
    assert long.bytes_G.sum() == len(text)
    some = sorted(
        {0, 1, pair.batch - 1, pair.batch, G // 2, G - 2, G - 1, *rng.integers(G, size=5)}
    )
    alone = Memory.join(pair.compress(cuts[g].text.removeprefix(" ")) for g in some)
    assert alone.tokens_G.tolist() == long.tokens_G[some].tolist()
    vec_ND = np.concatenate([long.vec_ND[g * M : (g + 1) * M] for g in some])
    np.testing.assert_allclose(vec_ND, alone.vec_ND, atol=2e-5)
    windows = list(long.windows(1))
    assert len(windows) == G
    rebuilt = pair.reconstruct(windows[G // 2], max_new=8)
    assert rebuilt == pair.reconstruct(alone[some.index(G // 2)], max_new=8)
    assert rebuilt[0]


def test_a_long_text_becomes_segments_that_are_rebuilt_one_after_the_other(pair):
    long = " ".join(texts()[:4])
    memory = pair.compress(long)
    assert memory.segments_B.tolist() == [len(memory.tokens_G)]
    assert len(memory.tokens_G) > 2
    assert memory.bytes_G.sum() == len(long.encode())
    assert memory.tokens_G[:-1].tolist() == [64] * (len(memory.tokens_G) - 1)
    parts = [pair.reconstruct(part, max_new=10)[0] for part in memory.windows(1)]
    assert pair.reconstruct(memory, max_new=10) == ["".join(parts)]


def test_a_text_too_long_for_the_decoder_is_refused(pair):
    memory = pair.compress(" ".join(texts()))
    with pytest.raises(PairError, match="max_position_embeddings"):
        pair.ask(memory, "what ?", template="{question}")


def test_a_score_takes_one_text_for_all(pair, memory):
    same = pair.score(memory, texts()[0])
    assert len({s.tokens for s in same}) == 1
    assert same[0] == pair.score(memory[0], texts()[0])[0]
    assert pair.score(memory[0], "", mode="continue")[0] == (0.0, 0)
    with pytest.raises(PairError, match="expected one of: rebuild, continue"):
        pair.score(memory, "a", mode="guess")
    with pytest.raises(PairError, match="2 texts for 5"):
        pair.score(memory, ["a", "b"])


def test_a_foreign_memory_is_refused(pair, memory):
    for change in ({"decoder": "0" * 12}, {"ratio": 4}, {"segment": 32}):
        other = dataclasses.replace(memory, **change)
        found = re.escape(str((other.decoder, other.ratio, other.segment)))
        for use in (pair.reconstruct, lambda m: pair.ask(m, "who"), lambda m: pair.score(m, "a")):
            with pytest.raises(
                MemoryFileError, match=rf"= {found}, this pair has .*compress again"
            ):
                use(other)
    wide = dataclasses.replace(memory, vec_ND=np.zeros((len(memory.vec_ND), 5), np.float32))
    with pytest.raises(MemoryFileError, match=r"has vectors of 5, .* decoder reads \d+; compress"):
        pair.reconstruct(wide)


def test_prompts_are_what_the_decoder_reads(tmp_path, pair, memory):
    with use_mesh(pair.mesh):
        placed = pair._place([memory[1]], 1)
        prefix = pair.model.prefix(placed, put_batch(np.full(1, REBUILD, np.int32), pair.mesh))
    seen_PD = np.asarray(prefix.x_BPD)[0][np.asarray(prefix.seg_BP)[0] > 0]
    np.testing.assert_array_equal(pair.prompts(memory)[1], seen_PD)
    asked = pair.prompts(memory, "who ?", template="{question}")[1]
    tokens = len(pair.dec_tok.encode("who ?"))
    assert len(asked) == len(seen_PD) + tokens
    with pytest.raises(ExportError, match=r"memory\.positions=consecutive"):
        prompt_embeds(pair, memory, tmp_path / "p.safetensors")


def test_sampled_rebuilding_is_seeded(pair, memory):
    draw = [pair.reconstruct(memory, max_new=8, temperature=2.0, seed=s) for s in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
