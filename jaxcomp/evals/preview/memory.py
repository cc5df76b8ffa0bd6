"""Checks from text to memory: perturb the context and compare the vectors."""

from __future__ import annotations

import unicodedata

import numpy as np

from jaxcomp.compress.autoencoder import Memory
from jaxcomp.data.batches import REBUILD
from jaxcomp.evals.preview.batch import Preview, examples, padding
from jaxcomp.evals.preview.check import Finding, check
from jaxcomp.training.ratio_schedule import trained_at

FACTOR = 4.0  # how far apart the sizes of learned vectors and token embeddings may start
COMPARED = 16  # texts read back, of the batch and of the validation set each


@check(
    "the whole text is in the segments",
    "segments that, joined, are the text to rebuild",
    "data/segments.py and data/examples.py: give the tokenizer the whole text",
)
def whole_text(p: Preview) -> Finding:
    """Only the first character or item of a context tokenised."""
    comp, dec = p.toks
    rebuilt = (p.batch.mode_BO[:, 0] == REBUILD) & (p.batch.ctx_len_BG.sum(1) > 0)
    drawn = [e for e, keep in zip(examples(p.batch), rebuilt, strict=True) if keep]
    compared = drawn[:COMPARED] + p.val[:COMPARED]
    for example in compared:
        context = comp.decode([t for ids in example.ctx for t in ids])
        target = dec.decode(example.target)
        if _plain(context) != _plain(target):
            start, said = repr(context[:24]), repr(target[:24])
            return Finding(False, f"segments that begin {start} for a target that begins {said}")
    return Finding(True, f"{len(compared)} contexts read back as the text to rebuild")


@check(
    "the whole context is in the memory",
    "a memory that depends on every token of its context",
    "compress/memory.py: embed the whole row of every segment",
)
def whole_context(p: Preview) -> Finding:
    """Only the first token or item of a context compressed."""
    ctx_GT, len_G = p.sample.ctx_BGT[0], p.sample.ctx_len_BG[0]
    places = [
        (g, int(t))
        for g, length in enumerate(len_G)
        for t in np.unique(np.linspace(0, length - 1, p.rows).astype(int))
        if length
    ]
    same_BGT, len_BG = np.stack([ctx_GT] * p.rows), np.stack([len_G] * p.rows)
    before, read = p.read(same_BGT, len_BG), 0
    for start in range(0, len(places), p.rows):
        other_BGT, spoiled_BGT = same_BGT.copy(), p.others(same_BGT, 0)
        for b, (g, t) in enumerate(places[start : start + p.rows]):
            other_BGT[b, g, t] = spoiled_BGT[b, g, t]
        # Rows beyond the last place are unchanged, and so is their memory.
        read += int(_moved(before, p.read(other_BGT, len_BG)).any(axis=1).sum())
    found = f"{read} of {len(places)} tokens, changed one at a time, changed the memory"
    return Finding(read == len(places), found)


@check(
    "number of memory vectors",
    "the tokens over the ratio, rounded up",
    "compress/memory.py: count the valid vectors from the lengths",
)
def count(p: Preview) -> Finding:
    """A ratio that gives the wrong number of vectors, such as 16x on 128 tokens giving 9."""
    G, T = p.sample.ctx_BGT.shape[1:]
    found = []
    for ratio in sorted({p.cfg.memory.ratio, *trained_at(p.cfg)}):
        tried = np.clip([T, 1, ratio - 1, ratio, ratio + 1, T - 1, T // 2, 0], 0, T)
        len_BG = np.stack([np.roll(np.resize(tried, p.rows), -g) for g in range(G)], 1)
        seg_BM = p.read(p.sample.ctx_BGT, len_BG.astype(np.int32), ratio).seg_BM
        vectors_BG = (np.asarray(seg_BM).reshape(p.rows, G, -1) > 0).sum(2)
        for n, vectors in zip(len_BG.flat, vectors_BG.flat, strict=True):
            if vectors != -(-n // ratio):
                return Finding(False, f"{n} tokens at ratio {ratio} gave {vectors} vectors")
        found.append(f"{T} tokens give {T // ratio} at ratio {ratio}")
    return Finding(True, "; ".join(found) + f"; shorter ones their part (lengths 0 to {T} tried)")


@check(
    "memory ignores padding",
    "the same memory, bit for bit",
    "compress/memory.py: the mask of the context must end at its length",
)
def padding_unseen(p: Preview) -> Finding:
    """Memory tokens attending to padding."""
    ctx_BGT, len_BG = p.sample.ctx_BGT, p.sample.ctx_len_BG
    pad_BGT = padding(len_BG, ctx_BGT.shape[-1])
    spoiled = p.read(np.where(pad_BGT, p.others(ctx_BGT, 0), ctx_BGT), len_BG)
    moved = int(_moved(p.memory, spoiled).any(axis=1).sum())
    found = f"other tokens in {int(pad_BGT.sum())} padded slots changed the memory of {moved}"
    return Finding(not moved, f"{found} of {p.rows} texts")


@check(
    "texts are compressed apart",
    "segments that are compressed each by itself",
    "compress/autoencoder.py: a segment is a row of its own in the compressor",
)
def apart(p: Preview) -> Finding:
    """Rows or segments that leak into each other."""
    ctx_BGT, len_BG = p.sample.ctx_BGT, p.sample.ctx_len_BG
    G = ctx_BGT.shape[1]
    first_BGT, last_BGT = ctx_BGT.copy(), ctx_BGT.copy()
    first_BGT[0] = p.others(ctx_BGT[0], 0)
    last_BGT[:, -1] = p.others(ctx_BGT[:, -1], 0)
    rows = _moved(p.memory, p.read(first_BGT, len_BG))[1:].any(axis=1).sum()
    moved_BGM = _moved(p.memory, p.read(last_BGT, len_BG)).reshape(p.rows, G, -1)
    segments = moved_BGM[:, :-1].any(axis=2).sum()
    return Finding(
        not rows + segments,
        f"{rows} of {p.rows - 1} memories changed with another text, {segments} of "
        f"{p.rows * (G - 1)} segments with another segment",
    )


@check(
    "scale of the memory",
    f"between 1/{FACTOR:g} and {FACTOR:g} times (root mean squares)",
    "compress/memory.py, compress/connector.py: draw them at the embeddings' scale",
)
def scale(p: Preview) -> Finding:
    """N(0, 1) memory tokens, tens of times the scale of token embeddings."""
    model, written = p.model, p.memory.vec_BMD[p.memory.seg_BM > 0]
    sizes = {"memory vectors": ("token embeddings", written, model.decoder.table_VD())}
    if model.per_layer:
        sizes = {"memory vectors": ("tokens' keys and values", written, p.keys_and_values)}
    if model.compressor.memory_tokens:
        table_VE = model.compressor.llm.table_VD()
        sizes["memory tokens"] = "token embeddings", model.compressor.mem_ME[...], table_VE
    found = {
        f"the {what} are {{:.3g}} times the size of the {beside}": _rms(x) / _rms(table)
        for what, (beside, x, table) in sizes.items()
    }
    ok = all(1 / FACTOR <= times <= FACTOR for times in found.values())
    return Finding(ok, "; ".join(text.format(times) for text, times in found.items()))


def _moved(before: Memory, after: Memory) -> np.ndarray:
    """Which memory slots differ in any bit: their vector, validity or position."""
    vec_BM, seg_BM, pos_BM = map(np.not_equal, before[:3], after[:3])
    return vec_BM.any(axis=2) | seg_BM | pos_BM


def _rms(x: object) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def _plain(text: str) -> str:
    # A tokenizer may compose characters or drop the first space: no loss of text.
    return unicodedata.normalize("NFC", text).strip()
