"""Whole sentences within the budget; relevance is the difference that the question makes."""

import itertools

import numpy as np
import pytest
from inference.inference_runs import ONE, texts, trained_pair
from inference.sage_scorer import write_scorer

import jaxcomp
from jaxcomp.data.sentences import sentences
from jaxcomp.evals.qa import selection
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.selection import Question, keepers, parse
from jaxcomp.inference import sage
from jaxcomp.inference.pair import QUESTION
from jaxcomp.inference.sage import load_scorer
from jaxcomp.models.attention_scores import attended
from jaxcomp.runtime.sharding import put_batch, use_mesh


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


def made(number=0, question="who ?"):
    return Question(f"i{number}", texts()[number], question)


def select(pair, name, asked, budget):
    return [keep(budget) for keep in keepers(pair, [name], asked)[name]]


def cut(text):
    return [text[a:b].strip() for a, b in sentences(text)]


def test_lead_stops_where_the_next_sentence_no_longer_fits(pair):
    parts = cut(texts()[0])
    sizes = [len(ids) for ids in pair.dec_tok.encode_batch(parts)]
    assert len(parts) > 2
    for budget in (1, sizes[0], sum(sizes[:2]), sum(sizes[:2]) + 1, sum(sizes)):
        n = max(1, sum(np.cumsum(sizes) <= budget))
        (kept,) = select(pair, "lead", [made()], budget)
        assert kept == (" ".join(parts[:n]), sum(sizes[:n]))


def test_only_lead_stops_at_a_sentence_that_is_too_long():
    text = selection._Sentences("One. Two three. Four.", [(0, 5), (5, 16), (16, 21)], [2, 3, 2])
    for stop, wanted in ((True, ("One.", 2)), (False, ("One. Four.", 4))):
        assert selection._fill(text, [0, 1, 2], 4, stop=stop) == wanted
    assert selection._fill(text, [1, 0, 2], 1, stop=False) == ("Two three.", 3)


def test_random_is_drawn_an_item_and_keeps_the_texts_order(pair):
    asked = [made()._replace(id=str(n)) for n in range(6)]
    found = select(pair, "random", asked, 30)
    assert found == select(pair, "random", asked, 30)
    assert select(pair, "random", asked[3:4], 30) == found[3:4]
    assert len({one.text for one in found}) > 1
    parts = cut(texts()[0])
    for one in found:
        places = [parts.index(part) for part in cut(one.text)]
        assert places == sorted(set(places))
        assert one.tokens == len(pair.dec_tok.encode(one.text)) <= 30
        # Nothing more would have fitted.
        left = [p for p in parts if p not in cut(one.text)]
        assert all(one.tokens + len(pair.dec_tok.encode(p)) > 30 for p in left)


def relevance_by_hand(pair, text, question):
    """One text without padding: the difference of the mean attention to a sentence's tokens."""
    own = pair.dec_tok.encode(text)
    sizes = [len(pair.dec_tok.encode(part)) for part in cut(text)]
    sides = []
    for asked in (question, ""):
        ids = pair.dec_tok.encode(text + QUESTION.format(question=asked))
        assert ids[: len(own)] == own
        facts = np.arange(len(ids), dtype=np.int32)[None]
        arrays = np.array([ids], np.int32), facts, facts[:, len(own) :]
        with use_mesh(pair.mesh):
            tok_BL, pos_BL, at_BQ = put_batch(arrays, pair.mesh)
            x_BLD = pair.model.decoder.embed(tok_BL)
            found = attended(pair.model.decoder, x_BLD, pos_BL, 0 * pos_BL + 1, at_BQ)
        edges, share_L = np.cumsum([0, *sizes]), np.asarray(found.share_BL)[0]
        sides.append([share_L[a:b].mean() for a, b in itertools.pairwise(edges)])
    return np.array(sides[0]) - np.array(sides[1])


def test_attention_takes_the_sentences_that_the_question_draws_attention_to(pair):
    asked = [made(n, q) for n, q in enumerate(["who ?", "who looked small ?", "red ?"])]
    found = select(pair, "attention-sentences", asked, 20)
    for q, kept in zip(asked, found, strict=True):
        parts, scores = cut(q.context), relevance_by_hand(pair, q.context, q.question)
        chosen, used = [], 0
        for i in np.argsort(-scores):
            size = len(pair.dec_tok.encode(parts[i]))
            if not chosen or used + size <= 20:
                chosen.append(i)
                used += size
        assert kept == (" ".join(parts[i] for i in sorted(chosen)), used)
    assert select(pair, "attention-sentences", asked[1:2], 20) == found[1:2]
    # The question decides: without one nothing is relevant.
    flat = selection._relevance(pair, [selection._sentences(pair, texts()[0])], [""])
    np.testing.assert_array_equal(flat[0], 0)


def test_sage_keeps_windows_of_the_text_by_its_variants(pair, tmp_path):
    own = made(0)._replace(other="red ?")
    same = own._replace(id="2", question="red ?", other="who ?")
    asked = [own, same, made(1)]
    scorer = load_scorer(write_scorer(tmp_path / "scorer"), mesh=ONE)
    for used in (None, scorer):
        found = keepers(pair, selection.SAGE, asked, used)
        with use_mesh(ONE):
            reader = used or sage.Scorer(pair.model.decoder, pair.dec_tok, pair.mesh)
        size = len(pair.dec_tok.encode(own.context))
        for name, variant in (("sage", "farthest"), ("sage-baseline", "baseline"),
                              ("sage-raw", "raw")):  # fmt: skip
            wanted = jaxcomp.select(
                own.context, ["who ?", "red ?"], reader, budget=20 / size, variant=variant
            )
            for one, keep in zip(wanted, found[name], strict=False):
                kept = keep(20)
                text = one.text.replace("\n", " ")  # the texts have no line breaks
                assert kept == (text, len(pair.dec_tok.encode(text)))
                assert used is not None or one.kept == 20
    assert len({found[name][0](20).text for name in selection.SAGE}) > 1


def test_the_other_question_is_one_about_the_same_text():
    asked = [Question("a", "t", "Who bought it?"), Question("b", "t", "When was it?"),
             Question("c", "u", "Who bought it?")]  # fmt: skip
    found = selection.least_similar(asked)
    assert found == {"a": "When was it?", "b": "Who bought it?", "c": sage.NEUTRAL}


def test_bm25_by_hand():
    text = selection._Sentences("", [], [])
    parts = ["The goat ate. ", "A red red barn stood. ", "The end."]
    edges = np.cumsum([0, *map(len, parts)]).tolist()
    text = text._replace(text="".join(parts), spans=list(itertools.pairwise(edges)))
    # Words 3, 5, 2: mean 10/3. "red" twice in one of 3: idf ln(1 + 2.5/1.5).
    red = np.log(1 + 2.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 5 / (10 / 3)))
    the = np.log(1 + 1.5 / 2.5) * 2.5 / (1 + 1.5 * (0.25 + 0.75 * np.array([3, 2]) / (10 / 3)))
    found = selection._bm25(text, "Was the barn RED? The red one")
    barn = np.log(1 + 2.5 / 1.5) * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 5 / (10 / 3)))
    np.testing.assert_allclose(found, [the[0], red + barn, the[1]])
    assert selection._bm25(text, "?") == [0, 0, 0]


def test_names_and_budgets_are_parsed_or_refused():
    assert parse(None) == ()
    assert parse("sage,lead", "memory") == ("sage", "lead")
    assert parse("lead", "0.05,memory,0.025") == ("lead 5%", "lead", "lead 2.5%")
    assert parse("lead") == ("lead", "lead 5%", "lead 10%", "lead 20%", "lead 40%")
    assert [selection.budget_of(name, 7, 110) for name in parse("lead")] == [7, 5, 11, 22, 44]
    for given, said in (("top", "'top' is none"), ("lead,lead", "'lead' is there twice")):
        with pytest.raises(EvalError, match=f"{said}; expected some of sage, sage-raw"):
            parse(given)
    for bad in ("0", "1.1", "nan", "much", "", "-1"):
        with pytest.raises(EvalError, match="expected shares of the text, above 0 and at most 1"):
            parse("lead", bad)
    with pytest.raises(EvalError, match="--budgets goes with --select"):
        parse(None, "0.1")
