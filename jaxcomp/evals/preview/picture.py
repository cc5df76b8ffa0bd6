"""Print one batch's token layout, attention pattern and loss mask, 100 columns wide.

Everything is of row 1 of the batch shown (an example as the first batch drew it). What attends to
what, and what carries loss, is measured by derivatives of the training loss (`gradients`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.data.batches import REBUILD, Batch
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.evals.evaluate import rebuild
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.evals.preview.batch import Preview, examples, group_of
from jaxcomp.evals.preview.gradients import Tower
from jaxcomp.training.optim import moving

WIDTH = 100
TEXT_LINES = 12  # of one text; a screen holds a section
RUNS = 14  # of places in one tower


def text(p: Preview) -> list[str]:
    ctx_GT, len_G = p.sample.ctx_BGT[0], p.sample.ctx_len_BG[0]
    G, T = ctx_GT.shape
    segments = [pieces(p.toks[0], row[:n].tolist()) for row, n in zip(ctx_GT, len_G, strict=True)]
    size = sum(len("".join(words).encode()) for words in segments)
    mode = "rebuilt" if p.sample.mode_BO[0, 0] == REBUILD else "continued"
    out = [
        f"One text of the first batch: {size} bytes, {len_G.sum()} compressor tokens.",
        f"To be {mode}: a target of {p.sample.tok_len_BO[0, 0]} decoder tokens, the end included.",
    ]
    valid_GM = p.memory.seg_BM[0].reshape(G, -1) > 0
    for g, (n, words) in enumerate(zip(len_G, segments, strict=True)):
        vectors = f"{int(valid_GM[g].sum())} of {valid_GM.shape[1]} memory vectors"
        out.append(f"segment {g + 1}: {n} of {T} tokens -> {vectors}")
        out += _wrapped(words, TEXT_LINES // G + 1)
    b = p.batch
    rows, rebuilt = len(b.mode_BO), int((b.mode_BO == REBUILD).sum())
    blank = int((b.ctx_len_BG.sum(1) == 0).sum())
    return [
        *out,
        f"The batch: {rows} texts; {rebuilt} targets to rebuild, {b.mode_BO.size - rebuilt} to "
        f"continue; {blank} memories dropped;",
        f"{int(b.ctx_len_BG.sum())} context tokens in {b.ctx_BGT.size} slots, "
        f"{int(b.tok_len_BO.sum())} target tokens in {b.tok_BOL.size} slots; the rest is padding.",
    ]


def pieces(tok: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text (a character of several tokens comes with its last)."""
    out, done = [], ""
    for n in range(1, len(ids) + 1):
        now = tok.decode(ids[:n])
        whole = now.removesuffix("\ufffd") if n < len(ids) else now
        out.append(whole[len(done) :])
        done = whole if len(whole) > len(done) else done
    return out


class _Place(NamedTuple):
    """One tower's call, of the shown example: the row, and what each place is for."""

    name: str
    tower: Tower
    row: int
    what_S: list[str]


def _towers(p: Preview) -> tuple[_Place, _Place]:
    """Of the compressor, the shown text's last segment: the one that may be padded."""
    G, T = p.sample.ctx_BGT.shape[1:]
    g = int(np.flatnonzero(p.sample.ctx_len_BG[0])[-1])
    n = int(p.sample.ctx_len_BG[0, g])
    memory = ["memory" if v else "empty" for v in p.memory.seg_BM[0] > 0]
    mine = memory[g * len(memory) // G : (g + 1) * len(memory) // G]
    what_S = p.model.compressor.reads(["text"] * n + ["padding"] * (T - n), mine)
    mode = "rebuild" if p.sample.mode_BO[0, 0] == REBUILD else "continue"
    # The last token is only a label.
    n, inputs = int(p.sample.tok_len_BO[0, 0]) - 1, p.sample.tok_BOL.shape[2] - 1
    target = ["target"] * n + ["padding"] * (inputs - n)
    return (
        _Place("compressor", p.heard.compressor, g, what_S),
        _Place("decoder", p.heard.decoder, 0, ["begin", *memory, "end", mode, *target]),
    )


def places(p: Preview) -> list[str]:
    out = []
    for name, tower, row, what_S in _towers(p):
        out += ["", f"{name:10}   {'places':>9}   {'what':<9}{'segment':>8}   position ids"]
        start, runs = 0, [(k, len(list(v))) for k, v in itertools.groupby(what_S)]
        for what, n in runs[:RUNS]:
            seg_S, pos_S = (x_BS[row, start : start + n] for x_BS in (tower.seg_BS, tower.pos_BS))
            span = str(start) if n == 1 else f"{start}-{start + n - 1}"
            ids = ", ".join(map(str, np.unique(seg_S)))
            out.append(f"{'':10}   {span:>9}   {what:<9}{ids:>8}   {_short(pos_S.tolist())}")
            start += n
        out += [f"{'':10}   ... {len(runs) - RUNS} more runs"] * (len(runs) > RUNS)
    return out[1:]


def _short(ids: list[int]) -> str:
    if len(ids) <= 8:
        return " ".join(map(str, ids))
    return " ".join(map(str, ids[:4])) + " ... " + " ".join(map(str, ids[-2:]))


def attends(p: Preview) -> list[str]:
    out = ["How many places of a kind the state at a place depends on, through all layers:"]
    for name, _, row, what_S in _towers(p):
        total = Counter(what_S)
        out += ["", f"{name + ' reads':<18}" + "".join(f"{kind:>9}" for kind in total)]
        asked = _queries(what_S, p.rows)
        for (label, _), read_S in zip(asked, _read(p, name, row, asked), strict=True):
            read = Counter(what for what, is_read in zip(what_S, read_S, strict=True) if is_read)
            cells = [f"{read[kind]}/{n}" if read[kind] else "." for kind, n in total.items()]
            out.append(f"  {label:<16}" + "".join(f"{cell:>9}" for cell in cells))
    return out


def _queries(what_S: list[str], most: int) -> list[tuple[str, int]]:
    """Places that stand for their kind, at most so many."""
    asked: list[tuple[str, int]] = []
    for kind in dict.fromkeys(what_S):
        at = [i for i, what in enumerate(what_S) if what == kind]
        chosen = {0, len(at) - 1} if kind in ("memory", "target", "text") else {0}
        asked += [(f"{kind} {n + 1}" if len(at) > 1 else kind, at[n]) for n in sorted(chosen)]
    # Empty places are the least telling.
    while len(asked) > most:
        asked.remove(next((a for a in asked if a[0].startswith("empty")), asked[-1]))
    return asked


def _read(p: Preview, name: str, row: int, asked: list[tuple[str, int]]) -> list[np.ndarray]:
    """Query i is asked of copy i of the shown example."""
    copies = Batch(*(np.repeat(a[:1], p.rows, axis=0) for a in p.sample))
    ask = p.ask(copies)
    each = (copies.ctx_len_BG if name == "compressor" else copies.tok_len_BO).shape[1]
    at = np.full(p.rows * each, -1)
    rows = [i * each + row for i in range(len(asked))]
    at[rows] = [place for _, place in asked]
    ask = ask._replace(weights_BO=np.zeros_like(ask.weights_BO), **{f"{name}_B": at})
    return list(getattr(p.listen(copies, ask), name).read_BS[rows])


def loss(p: Preview) -> list[str]:
    length = int(p.sample.tok_len_BO[0, 0])
    ids = p.sample.tok_BOL[0, 0].tolist()
    used_L = p.heard.decoder.used_BS[0, p.prefix - 1 :]
    words = pieces(p.toks[1], ids[:length])
    if ids[length - 1] == p.toks[1].eos_id:
        words[-1] = "<end>"
    words += ["·"] * (len(ids) - length)
    shown = [f"[{w}]" if used else w for w, used in zip(words, used_L, strict=True)]
    nll = float(p.heard.nll_BO[0, 0]) / max(length, 1)
    return [
        "[A token] carries loss; one without brackets does not; · is a padded place.",
        *_wrapped(shown, TEXT_LINES),
        f"{int(used_L.sum())} of {len(ids)} places carry loss; {length} are labels; "
        f"{nll:.3f} nats a label before the first step.",
    ]


def parameters(p: Preview) -> list[str]:
    counts: dict[str, list[int]] = {}
    for name, x in p.params.items():
        group = group_of(name)
        trained = name in p.trainable and (group != "markers" or p.run.marker_steps > 0)
        count, learns = counts.setdefault(group, [0, 0]), moving(name, x, p.run.last_layer)
        count[0] += learns if trained else 0
        count[1] += x.size - learns if trained else x.size
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [*sorted(counts.items()), ("together", totals)]
    head = f"{'':34}{'trained':>14}{'frozen':>14}"
    return [head, *(f"  {k:<32}{_number(a):>14}{_number(b):>14}" for k, (a, b) in rows)]


def _number(n: int) -> str:
    return f"{n:,}" if n else "."


def first_loss(p: Preview) -> list[str]:
    kept = (p.batch.mode_BO[:, 0] == REBUILD) & (p.batch.ctx_len_BG.sum(1) > 0)
    chosen = list(itertools.compress(examples(p.batch), kept)) or p.val
    fresh = rebuild(p.cfg, p.model, chosen, p.toks[1])
    rows = {"memory of the untrained pair": [f.row for f in fresh]}
    if p.trained is not None:
        found = rebuild(p.cfg, p.trained, chosen, p.toks[1])
        rows["memory of the trained pair"] = [f.row for f in found]
    rows["no memory"] = [f.no_memory for f in fresh]
    out = [f"{'':32}{'loss, nats a token':>20}{'teacher-forced':>16}{'free-running':>16}"]
    for what, each in rows.items():
        m = reconstruction.measure(each)
        accuracies = f"{m['tf_accuracy']:>16.1%}{m['fr_accuracy']:>16.1%}"
        out.append(f"  {what:<30}{m['loss']:>20.3f}{accuracies}")
    targets = sum(f.row.targets for f in fresh)
    return [*out, f"{len(fresh)} texts of the first batch, {targets} tokens; shares are of tokens."]


def _wrapped(words: Sequence[str], most: int) -> list[str]:
    """At most so many lines of words; a word longer than a line is cut."""
    lines = [""]
    for word in words:
        word = " ".join(word.split("\n"))[: WIDTH - 4]
        if len(lines[-1]) + len(word) > WIDTH - 4:
            lines.append("")
        lines[-1] += word
    more = len(lines) - most
    return [f"  | {line}" for line in lines[:most]] + [f"  | ... {more} more lines"] * (more > 0)


SECTIONS = {
    "the text": text,
    "where everything stands": places,
    "what attends to what": attends,
    "which tokens carry loss": loss,
    "parameters": parameters,
    "the first loss": first_loss,
}
