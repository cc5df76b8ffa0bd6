"""SAGE's token scores against whole prompts, by our own forward pass and by PyTorch's."""

import os

import numpy as np
import pytest
from conftest import mesh_of
from inference.sage_scorer import CFG, ONE, QUESTIONS, TEXT, write_scorer
from models.golden_cases import SMOLLM2

from jaxcomp.data.tokenizer import TokenizerError
from jaxcomp.inference import sage
from jaxcomp.inference.sage import NEUTRAL, contrasts, differences, load_scorer
from jaxcomp.inference.windows import SelectError
from jaxcomp.models import hf
from jaxcomp.models.attention_scores import attended
from jaxcomp.runtime.sharding import put_batch, use_mesh

TOLERANCE = 1e-4  # of a score; those of a prompt sum to layers x heads


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_scorer(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "qwen3")}


@pytest.fixture(scope="module")
def scorer(folders):
    found = load_scorer(folders["llama"], mesh=ONE)
    found.chunk = 50  # several chunks, the last one shorter
    return found


def by_whole_prompts(scorer, text, question, attention):
    """Scores from one whole prompt a chunk; `attention(ids, tail)`: summed over layers, heads and
    the last `tail` tokens, that goes to each token of the prompt."""
    tok, found = scorer.tok, []
    ids = tok.encode(text)
    before, after = tok.encode("Context: "), tok.encode("\n")
    tail = tok.encode(f"Question: {question}\nAnswer:")
    for start in range(0, len(ids), scorer.chunk):
        chunk = ids[start : start + scorer.chunk]
        share_S = attention([*before, *chunk, *after, *tail], len(tail))
        own_T = share_S[len(before) : len(before) + len(chunk)]
        found.append(own_T / len(tail) * len(chunk) / min(scorer.chunk, len(ids)))
    return np.concatenate(found)


def ours(scorer):
    def attention(ids, tail):
        at_S = np.arange(len(ids), dtype=np.int32)[None]
        with use_mesh(scorer.mesh):
            arrays = np.array([ids], np.int32), at_S, at_S[:, -tail:]
            tok_BL, pos_BL, at_BQ = put_batch(arrays, scorer.mesh)
            x_BLD = scorer.model.embed(tok_BL)
            found = attended(scorer.model, x_BLD, pos_BL, 0 * pos_BL + 1, at_BQ)
        cfg = scorer.model.cfg
        share_S = np.asarray(found.share_BL[0], np.float64)
        return share_S * cfg.num_hidden_layers * cfg.num_attention_heads * tail

    return attention


def torchs(folder):
    torch = pytest.importorskip("torch", reason="needs torch: `uv run --extra bench pytest`")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    def attention(ids, tail):
        with torch.no_grad():
            found = model(torch.tensor([ids]), output_attentions=True).attentions
        each = [share_BNQS[0, :, -tail:].double().sum((0, 1)) for share_BNQS in found]
        return torch.stack(each).sum(0).numpy()

    return attention


def same(scorer, text, attention):
    found = scorer.scores(text, QUESTIONS).score_QW
    wanted = [by_whole_prompts(scorer, text, q, attention) for q in QUESTIONS]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert found.max() > 100 * TOLERANCE
    # Another question changes far more than the tolerance.
    assert np.abs(found[0] - found[1]).max() > 10 * TOLERANCE


def test_scores_are_those_of_whole_prompts(scorer):
    assert len(scorer.tok.encode(TEXT)) % scorer.chunk
    same(scorer, TEXT, ours(scorer))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_scores_are_those_of_pytorch(folders, kind):
    found = load_scorer(folders[kind], mesh=ONE)
    found.chunk = 50
    same(found, TEXT, torchs(folders[kind]))


@pytest.mark.slow
def test_scores_of_smollm2_are_those_of_pytorch():
    if not (SMOLLM2 / hf.WEIGHTS).is_file():
        pytest.skip("needs smollm2-135m: JAXCOMP_ASSETS=DIR, which holds it")
    attention = torchs(SMOLLM2)
    found = load_scorer(SMOLLM2, mesh=ONE)
    found.chunk = 100
    same(found, TEXT, attention)


def test_a_chunk_is_read_once_for_all_questions(scorer, monkeypatch):
    calls, real = [], sage.read_rows
    monkeypatch.setattr(sage, "read_rows", lambda *args: calls.append(1) or real(*args))
    told = []
    scorer.scores(TEXT, QUESTIONS, lambda done, every: told.append((done, every)))
    n = len(scorer.tok.encode(TEXT))
    assert len(calls) == len(told) == -(-n // scorer.chunk)
    assert told[-1] == (n, n)


def test_a_mesh_changes_nothing(folders, scorer):
    wide = load_scorer(folders["llama"], mesh=mesh_of((2, 2, 2)))
    wide.chunk = scorer.chunk
    found = wide.scores(TEXT, QUESTIONS).score_QW
    np.testing.assert_allclose(found, scorer.scores(TEXT, QUESTIONS).score_QW, atol=1e-5)


def test_texts_of_any_script_and_length(scorer):
    for text in ("", "a", "彼は来た。", "Οδα Μπρεν 😀"):
        offsets, score_QW = scorer.scores(text, QUESTIONS[:1])
        assert score_QW.shape == (1, len(offsets))
        assert np.isfinite(score_QW).all()
        assert len(offsets) == len(scorer.tok.encode(text))


def test_a_question_longer_than_a_chunk_or_the_positions(scorer, folders):
    with pytest.raises(SelectError, match=r"'who who .* tokens .* expected at most 50"):
        scorer.scores(TEXT, ["who " * 60])
    free = load_scorer(folders["llama"], mesh=ONE)
    with pytest.raises(SelectError, match="expected at most 5"):
        free.scores(TEXT, ["?" * CFG.max_position_embeddings])
    # A scorer of few positions reads shorter chunks.
    assert free.scores(TEXT, QUESTIONS).score_QW.shape[1] == len(free.tok.encode(TEXT))


def test_a_scorer_without_a_tokenizer(folders, tmp_path):
    for name in (hf.CONFIG, hf.WEIGHTS):
        os.link(folders["llama"] / name, tmp_path / name)
    with pytest.raises(TokenizerError, match=r"tokenizer.json: no such file"):
        load_scorer(tmp_path)


def test_the_farthest_question_is_the_least_similar():
    asked = ["Who bought the house?", "Who bought the houses?", "When did it rain?"]
    assert contrasts("farthest", asked) == [asked[2], asked[2], asked[1]]
    assert contrasts("farthest", [*asked, asked[2]])[2:] == [asked[1]] * 2
    assert contrasts("farthest", ["誰が来た？", "いつ？"]) == ["いつ？", "誰が来た？"]
    assert contrasts("farthest", ["Who?"] * 2) == contrasts("baseline", asked)[:2] == [NEUTRAL] * 2
    assert contrasts("raw", asked) == [""] * 3
    with pytest.raises(SelectError, match="variant is 'far'; expected one of farthest, baseline"):
        contrasts("far", asked)


def test_an_embedder_decides_by_its_states(scorer, monkeypatch):
    state_QD = scorer.embeddings(QUESTIONS)
    assert state_QD.shape == (3, CFG.hidden_size)
    np.testing.assert_allclose(scorer.embeddings(QUESTIONS[1:2])[0], state_QD[1], atol=1e-6)
    at = np.array([[1.0, 0], [1, 0.1], [0, 1]])
    monkeypatch.setattr(scorer, "embeddings", lambda questions: at)
    assert contrasts("farthest", QUESTIONS, scorer) == [QUESTIONS[i] for i in (2, 2, 0)]


def test_differences_are_of_raw_scores(scorer):
    raw = scorer.scores(TEXT, [*QUESTIONS, NEUTRAL]).score_QW
    asked = [(QUESTIONS[0], QUESTIONS[1]), (QUESTIONS[2], NEUTRAL), (QUESTIONS[0], "")]
    found = differences(scorer, TEXT, asked).score_QW
    np.testing.assert_array_equal(found, [raw[0] - raw[1], raw[2] - raw[3], raw[0]])
