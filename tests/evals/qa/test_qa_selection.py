"""Whole sentences within the budget; relevance is the difference that the question makes."""

import itertools

import numpy as np
import pytest
from inference.inference_runs import texts, trained_pair

from jaxcomp.data.sentences import sentences
from jaxcomp.evals.qa import selection
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.qa.selection import Question, parse, select
from jaxcomp.inference.pair import QUESTION
from jaxcomp.models.attention_scores import attended
from jaxcomp.runtime.sharding import put_batch, use_mesh


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


def made(pair, budget, number=0, question="who ?"):
    return Question(f"i{number}", texts()[number], question, budget)


def cut(text):
    return [text[a:b].strip() for a, b in sentences(text)]


def test_lead_stops_where_the_next_sentence_no_longer_fits(pair):
    parts = cut(texts()[0])
    sizes = [len(ids) for ids in pair.dec_tok.encode_batch(parts)]
    assert len(parts) > 2
    for budget in (1, sizes[0], sum(sizes[:2]), sum(sizes[:2]) + 1, sum(sizes)):
        n = max(1, sum(np.cumsum(sizes) <= budget))
        (kept,) = select(pair, "lead", [made(pair, budget)])
        assert kept == (" ".join(parts[:n]), sum(sizes[:n]))


def test_only_lead_stops_at_a_sentence_that_is_too_long():
    text = selection._Sentences("One. Two three. Four.", [(0, 5), (5, 16), (16, 21)], [2, 3, 2])
    for stop, wanted in ((True, ("One.", 2)), (False, ("One. Four.", 4))):
        assert selection._fill(text, [0, 1, 2], 4, stop=stop) == wanted
    assert selection._fill(text, [1, 0, 2], 1, stop=False) == ("Two three.", 3)


def test_random_is_drawn_an_item_and_keeps_the_texts_order(pair):
    asked = [made(pair, 30)._replace(id=str(n)) for n in range(6)]
    found = select(pair, "random", asked)
    assert found == select(pair, "random", asked)
    assert select(pair, "random", asked[3:4]) == found[3:4]
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


def test_sage_takes_the_sentences_that_the_question_draws_attention_to(pair):
    asked = [made(pair, 20, n, q) for n, q in enumerate(["who ?", "who looked small ?", "red ?"])]
    found = select(pair, "sage", asked)
    for q, kept in zip(asked, found, strict=True):
        parts, scores = cut(q.context), relevance_by_hand(pair, q.context, q.question)
        chosen, used = [], 0
        for i in np.argsort(-scores):
            size = len(pair.dec_tok.encode(parts[i]))
            if not chosen or used + size <= q.budget:
                chosen.append(i)
                used += size
        assert kept == (" ".join(parts[i] for i in sorted(chosen)), used)
    assert select(pair, "sage", asked[1:2]) == found[1:2]
    # The question decides: without one nothing is relevant.
    flat = selection._relevance(pair, [selection._sentences(pair, texts()[0])], [""])
    np.testing.assert_array_equal(flat[0], 0)


def test_names_are_parsed_or_refused():
    assert parse(None) == ()
    assert parse("sage,lead") == ("lead", "sage")
    for given, said in (("top", "'top' is none"), ("lead,lead", "'lead' is there twice")):
        with pytest.raises(EvalError, match=f"{said}; expected some of lead, random, sage"):
            parse(given)
