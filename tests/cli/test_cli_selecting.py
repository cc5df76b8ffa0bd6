"""`jaxcomp select`, and `jaxcomp.select`, on a tiny random scorer."""

import json

import numpy as np
import pytest
from inference.sage_scorer import ONE, QUESTIONS, TEXT, write_scorer

import jaxcomp
from jaxcomp.cli import main
from jaxcomp.data.sentences import sentences
from jaxcomp.inference import selecting
from jaxcomp.inference.windows import SelectError, keep
from jaxcomp.runtime.sharding import use_mesh


@pytest.fixture(scope="module", autouse=True)
def _one():
    with use_mesh(ONE):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scorer(tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def scorer(folder):
    return jaxcomp.load_scorer(folder)


def typed(capsys, *argv):
    code = main.main(["select", *map(str, argv)])
    out = capsys.readouterr()
    return code, [json.loads(line) for line in out.out.splitlines()], out.err


def written(folder, *lines, name="d.jsonl"):
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder / name


def test_spans_are_the_texts_own_and_fit_the_budget(scorer):
    n = len(scorer.tok.encode(TEXT))
    for share in (0.01, 0.1, 0.5, 1):
        for one in jaxcomp.select(TEXT, QUESTIONS, scorer, budget=share):
            assert (one.tokens, one.kept) == (n, max(1, int(share * n)))
            parts = [TEXT[span.start : span.end].strip() for span in one.spans]
            assert one.text == "\n".join(filter(None, parts))
            assert [s.start for s in one.spans] == sorted(s.start for s in one.spans)
            spans = keep(one.score_W, one.kept)
            wanted = [one.score_W[first:end].mean() for first, end in spans]
            np.testing.assert_allclose([span.score for span in one.spans], wanted)
    assert jaxcomp.select(TEXT, QUESTIONS[0], scorer, budget=1)[0].text == TEXT.strip()


def test_sentences_are_kept_whole(scorer):
    every = [TEXT[a:b] for a, b in sentences(TEXT)]
    for one in jaxcomp.select(TEXT, QUESTIONS, scorer, budget=0.3, unit="sentence"):
        assert one.kept <= 0.3 * one.tokens
        for span in one.spans:
            assert any(TEXT[span.start : span.end].strip().endswith(e.strip()) for e in every)


def test_variants_and_one_question_only(scorer):
    def subtracted(questions, **options):
        return [one.subtracted for one in jaxcomp.select(TEXT, questions, scorer, **options)]

    neutral = "Please repeat the context."
    assert subtracted(QUESTIONS[0]) == [neutral]
    assert set(subtracted(QUESTIONS)) <= set(QUESTIONS)
    assert subtracted(QUESTIONS, variant="baseline") == [neutral] * 3
    assert subtracted(QUESTIONS, variant="raw") == [""] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": 0}, "budget is 0; expected a share"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"unit": "word"}, "unit is 'word'; expected one of window, sentence"),
        ({"variant": "near"}, "variant is 'near'"),
        ({"questions": []}, "no question"),
        ({"questions": ["a", " "]}, "a blank one"),
        ({"text": " \n"}, "the text is empty"),
    ],
)
def test_mistakes_in_python(scorer, given, said):
    with pytest.raises(SelectError, match=said):
        jaxcomp.select(**{"text": TEXT, "questions": QUESTIONS, "scorer": scorer} | given)


def test_a_document_and_a_question(folder, tmp_path, capsys):
    (tmp_path / "d.txt").write_text(TEXT)
    argv = f"--scorer={folder}", f"--question={QUESTIONS[0]}", tmp_path / "d.txt"
    code, (row,), told = typed(capsys, *argv, "--budget=0.2", f"--page={tmp_path / 'p.html'}")
    assert code == 0
    wanted = jaxcomp.select(TEXT, QUESTIONS[0], folder, budget=0.2)[0]
    assert (row["text"], row["kept"], row["tokens"]) == (wanted.text, wanted.kept, wanted.tokens)
    assert "1 of 1 documents have one question: there the score of a neutral request" in told
    assert "tokens/s" in told
    assert "scores" not in row
    page = (tmp_path / "p.html").read_text()
    assert f"<h2>{QUESTIONS[0]}</h2>" in page
    assert f"{wanted.kept} of {wanted.tokens} tokens kept" in page
    assert str(tmp_path) not in page
    body = page[page.index('<div class="t">') :].split("</div>")[0]
    shown = "".join(part.split(">", 1)[-1] for part in body.split("<"))
    assert shown == TEXT
    assert body.count("<u>") >= len(row["spans"])


def test_rows_of_one_text_are_one_document_and_a_run_goes_on(folder, tmp_path, capsys):
    rows = [{"id": f"q{n}", "text": TEXT, "question": q} for n, q in enumerate(QUESTIONS)]
    file = written(tmp_path, *rows, {"id": "e", "text": "", "question": "Who?"},
                   {"id": "b", "text": "Café 😀", "questions": ["Who?", "When?"]})  # fmt: skip
    out = tmp_path / "out" / "o.jsonl"
    argv = f"--scorer={folder}", file, f"--out={out}", "--tokens"
    code, printed, told = typed(capsys, *argv)
    assert (code, printed) == (0, [])
    assert "left out: 1 with no text" in told
    assert "5 questions about 2 documents" in told
    assert "one question" not in told
    first = out.read_text()
    found = [json.loads(line) for line in first.splitlines()]
    assert sorted(row["id"] for row in found) == ["b", "b", "q0", "q1", "q2"]
    assert len(found[0]["scores"]) == len(found[0]["offsets"]) == found[0]["tokens"]
    assert "nothing to do: all 5 rows" in typed(capsys, *argv)[2]
    lines = first.splitlines(keepends=True)
    out.write_text("".join(lines[:2]) + lines[2][:40])  # stopped in a line
    assert typed(capsys, *argv)[0] == 0
    assert sorted(out.read_text().splitlines()) == sorted(first.splitlines())
    code, _, told = typed(capsys, *argv, "--budget=0.2")
    assert code == 2
    assert (
        "with another scorer, other settings or other questions about a document; choose another"
        in told
    )


def test_requests_of_folders(tmp_path):
    (tmp_path / "a.txt").write_text("One text.")
    written(tmp_path, {"context": "Another.", "question": "Who?"}, {"context": "One text."})
    found = selecting.requests([tmp_path], "context", ["Why?"])
    texts = {request.text: [q for _, q in request.asked] for request in found}
    assert texts == {"One text.": ["Why?", "Why?"], "Another.": ["Who?", "Why?"]}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--budget=0"], "--budget is 0.0; expected a share of the text's tokens, above 0"),
        (["--budget=1.5"], "--budget: '1.5': expected a number from 0 to 1"),
        (["--budget=much"], "--budget: 'much': expected a number"),
        (["--budget=nan"], "--budget: 'nan': expected a number"),
        (["--variant=near"], "invalid choice: 'near'"),
        (["--field=body"], "d.jsonl: line 1: field 'body' is None; found text; expected text"),
        ([], "line 1: no question; give --question=TEXT"),
        (["--question=a", "--scorer=nowhere"], "nowhere/tokenizer.json: no such file"),
        (["--question=a", "--page=p.html"], "--page shows one document; found 2"),
        (["--question=a", "--memory.ratio=4"], "no flag of select"),
        (["--question=a", "--scorer=x", "gone.txt"], "gone.txt: no such file or folder"),
    ],
)
def test_a_mistake_is_one_sentence(folder, tmp_path, capsys, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, {"text": "One."}, {"text": "Two."})
    code, printed, told = typed(
        capsys, f"--scorer={folder}", *argv, *[file] * ("gone.txt" not in argv)
    )
    assert (code, printed) == (2, [])
    assert said in told
    assert told.count("\n") == 1


def test_rows_that_are_wrong(folder, tmp_path, capsys):
    for row, said in (
        ({"text": "One.", "questions": "Who?"}, None),
        ({"text": "One.", "questions": [1]}, "expected text in `question`, or a list of it"),
        ({"text": 3, "question": "Who?"}, "field 'text' is 3"),
        ({"text": "", "question": "Who?"}, "no document is left"),
    ):
        code, _, told = typed(capsys, f"--scorer={folder}", written(tmp_path, row))
        assert (code, said is None or said in told) == (0 if said is None else 2, True), told
