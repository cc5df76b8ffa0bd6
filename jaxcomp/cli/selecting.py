"""`jaxcomp select`: documents and questions in, reduced contexts out."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from jaxcomp.cli.common import Command, Flags
from jaxcomp.cli.inference import here, no_fields, tell
from jaxcomp.cli.overrides import number
from jaxcomp.config import ConfigError, config_hash
from jaxcomp.runtime import live, paths, strict_json


def select(flags: Flags) -> int:
    from jaxcomp.inference import heat_map, selecting
    from jaxcomp.inference.sage import load_scorer
    from jaxcomp.inference.windows import check_share

    no_fields(flags)
    check_share(flags.budget, "--budget")
    inputs = [here(name) for name in flags.inputs]
    found = selecting.requests(inputs, flags.field, flags.question or [])
    if flags.page and len(found) != 1:
        raise ConfigError(f"--page shows one document; found {len(found)}: give one")
    with live.phase("loading the scorer"):
        scorer = load_scorer(flags.scorer, flags.dtype)
        embedder = load_scorer(flags.embedder, flags.dtype) if flags.embedder else None
    options: dict[str, Any] = {n: getattr(flags, n) for n in ("budget", "variant", "unit")}
    models = scorer.identity, embedder and embedder.identity, flags.dtype
    settings = config_hash(options, *models, flags.tokens)
    out = here(flags.out) if flags.out else None
    of_document = {r.key(0)[1]: config_hash(settings, sorted(set(r.asked))) for r in found}
    done = _done(out, of_document)
    why = [selecting.refused(request, scorer) for request in found]
    for reason, count in Counter(filter(None, why)).items():
        tell(f"left out: {count:,} with {reason}")
    found = [request for request, reason in zip(found, why, strict=True) if not reason]
    if not found:
        raise ConfigError("no document is left; expected at least one with text")
    alone = sum(len({question for _, question in request.asked}) == 1 for request in found)
    if alone and flags.variant == "farthest":
        tell(
            f"{alone:,} of {len(found):,} documents have one question: there the score of "
            "a neutral request is subtracted (baseline), not that of another question"
        )
    todo = [r for r in found if flags.page or not done.issuperset(map(r.key, range(len(r.asked))))]
    sizes = [len(ids) for ids in scorer.tok.encode_batch([request.text for request in todo])]
    shares: list[float] = []
    with live.phase("scoring", sum(sizes), "tokens") as row:
        for before, request in zip(itertools.accumulate([0, *sizes]), todo, strict=False):

            def seen(tokens: int, _: int, before: int = before) -> None:
                row.done = before + tokens

            questions = [question for _, question in request.asked]
            more = {"embedder": embedder, "seen": seen, **options}
            selected = selecting.select(request.text, questions, scorer, **more)
            made = {request.key(n): one for n, one in enumerate(selected)}
            _write(
                out,
                [_row(k, made[k], of_document[k[1]], flags.tokens) for k in made if k not in done],
            )
            shares += [one.kept / one.tokens for one in selected]
            if flags.page:
                page = heat_map.page(request.text, selected, f"Kept of {inputs[0].name}")
                paths.write_bytes(here(flags.page), page.encode())
        spent = time.monotonic() - row.began
    if not todo:
        tell(f"nothing to do: all {len(done):,} rows are in {flags.out} already")
        return 0
    tell(
        f"{len(shares):,} questions about {len(todo):,} documents of {sum(sizes):,} tokens in "
        f"{live.duration(spent)}: {sum(sizes) / spent:,.0f} tokens/s, compiling included; "
        f"{sum(shares) / len(shares):.1%} of the tokens kept"
    )
    return 0


def _row(key: tuple[str, str, str], one: Any, settings: str, tokens: bool) -> dict[str, Any]:
    """A question's line of the output."""
    row = dict(zip(("id", "document", "question"), key, strict=True))
    row |= {"text": one.text, "spans": [span._asdict() for span in one.spans]}
    row |= {"tokens": one.tokens, "kept": one.kept, "subtracted": one.subtracted}
    row |= {"settings": settings}
    if tokens:
        row |= {"offsets": one.offsets, "scores": [float(f"{x:.6g}") for x in one.score_W]}
    return row


def _write(out: Path | None, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line, to the end of `out` or to standard output."""
    if out is None:
        for row in rows:
            print(json.dumps(row, ensure_ascii=True), flush=True)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _done(out: Path | None, settings: dict[str, str]) -> set[tuple[str, str, str]]:
    """The rows that an earlier command wrote; a last line that was cut short is taken away. The
    `settings` of a document hold its questions: the scores of each depend on the others."""
    if out is None or not out.exists():
        return set()
    raw = out.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    found = set()
    for number_, line in enumerate(whole.splitlines(), 1):
        row = strict_json.parse(line, f"{out}: line {number_}", dict)
        document = row.get("document")
        if row.get("settings") != settings.get(document, row.get("settings")):
            raise ConfigError(
                f"{out} is there already, with another scorer, other settings or other questions "
                "about a document; choose another --out or remove it"
            )
        found.add((row.get("id"), row.get("document"), row.get("question")))
    if len(whole) < len(raw):
        os.truncate(out, len(whole))
    return found


def _flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "inputs", nargs="+", metavar="FILE",
        help=".txt (one document), .jsonl[.gz] or .parquet (a document a row, with its `question` "
        "or `questions`), or a folder of them",
    )  # fmt: skip
    add(
        "--scorer", required=True, metavar="DIR",
        help="a language model: a Hugging Face folder or hub id; it need not be the model that "
        "answers",
    )  # fmt: skip
    add(
        "--question", action="append", metavar="TEXT",
        help="a question about every document; may be given several times",
    )  # fmt: skip
    add(
        "--budget", type=number(0, 1, float), default=0.1, metavar="SHARE",
        help="share of a document's tokens to keep, above 0 (0.1)",
    )  # fmt: skip
    add(
        "--variant", choices=("farthest", "baseline", "raw"), default="farthest",
        help="what is subtracted from a question's scores: those of the least similar other "
        "question about the document, of a neutral request, or nothing (farthest)",
    )  # fmt: skip
    add(
        "--unit", choices=("window", "sentence"), default="window",
        help="what is kept: windows of 2%% of the document, or whole sentences (window)",
    )  # fmt: skip
    add(
        "--embedder", default="", metavar="DIR",
        help="a model whose mean hidden states say how similar two questions are (default: "
        "character trigrams)",
    )  # fmt: skip
    add("--field", default="text", help="the field of a row that holds the document (text)")
    add(
        "--out", metavar="FILE.jsonl",
        help="a line for each question; the same command resumes (default: standard output)",
    )  # fmt: skip
    add("--tokens", action="store_true", help="also write the offsets and scores of every token")
    add("--page", metavar="FILE.html", help="write a heat map of the one document")
    add(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help="of the scorer's computation (float32)",
    )  # fmt: skip


COMMANDS = (
    Command(
        "select",
        "reduce documents to the parts that matter for their questions",
        "jaxcomp select --scorer=HuggingFaceTB/SmolLM2-135M --question='Who is Karen?' book.txt",
        "Keeps the parts of a document to which a language model attends when it reads a question\n"
        "(SAGE, arXiv 2604.15583); nothing is trained. Prints one JSON object for each question:\n"
        'the reduced "text", its "spans" (characters and score) and how many "tokens" are "kept".',
        _flags,
        select,
        "",
        "one",
    ),
)
