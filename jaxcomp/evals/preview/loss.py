"""Checks of the way from memory to loss and of one training step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxcomp.data.objectives import OBJECTIVES
from jaxcomp.evals.preview.batch import Preview, group_of, padding
from jaxcomp.evals.preview.finding import Finding, healthy

# Of float32 (or bfloat16) derivatives and sums; the wrong label or weight is of order 1.
TOLERANCE = 0.02
CHUNK = 64  # labels whose logits are on the host at a time


def empty_unread(p: Preview) -> Finding:
    """All-ones masks: the decoder reads memory slots that hold nothing."""
    empty_RM = ~_valid(p)
    slots = int((_last_reads(p)[:, 1 : p.prefix - 2] & empty_RM).sum())
    other = p.sample._replace(ctx_BGT=p.others(p.sample.ctx_BGT, 0))
    floors = zip(p.rebuilt, p.rebuild(other), strict=True)
    leaks = sum(a.floor.nll != b.floor.nll for a, b in floors)
    found = [f"the states before the end depend on {slots} empty memory slots"] * bool(slots)
    found += [f"with the memory withheld, {leaks} losses still change with the text"] * bool(leaks)
    if found:
        return Finding(
            False,
            "; ".join(found),
            "padding (segment id 0) that nothing attends to",
            "compress/autoencoder.py, models/attention.py: 0 for what is empty",
        )
    return healthy(f"{int(empty_RM.sum())} empty memory slots, none of them read")


def memory_read(p: Preview) -> Finding:
    """Memory vectors that the decoder cannot see."""
    valid_RM = _valid(p) & (p.sample.tok_len_BO.reshape(-1, 1) > 0)
    unread = valid_RM & ~_last_reads(p)[:, 1 : p.prefix - 2]
    if unread.any():
        return Finding(
            False,
            f"{int(unread.sum())} of {int(valid_RM.sum())} memory vectors do not reach the decoder",
            "every valid vector read by the target",
            "compress/autoencoder.py: the valid vectors share the target's segment id",
        )
    return healthy(f"{int(valid_RM.sum())} memory vectors, each read by the state before the end")


def labels(p: Preview) -> Finding:
    """Labels or their mask shifted: each token is predicted once, by the state before it."""
    worst, count = _wrong_labels(p), int(p.sample.tok_len_BO.sum())
    tok_BOL, len_BO = p.sample.tok_BOL, p.sample.tok_len_BO
    middle_BO = len_BO // 2
    at_BOL = np.arange(tok_BOL.shape[2]) == middle_BO[:, :, None]
    other = p.sample._replace(tok_BOL=np.where(at_BOL, p.others(tok_BOL, 1), tok_BOL))
    hidden = (p.heard.decoder.hidden_BSD, p.listen(other).decoder.hidden_BSD)
    moved_RS = (hidden[0] != hidden[1]).any(axis=2)
    # The state at P - 1 + l predicts token l.
    knew_RS = np.arange(moved_RS.shape[1]) <= p.prefix - 1 + middle_BO.reshape(-1, 1)
    early = np.flatnonzero((moved_RS & knew_RS).any(axis=1))
    counted = round(float(p.heard.sums_K[3] + p.heard.sums_K[6]))
    before = int(p.heard.decoder.used_BS[:, : p.prefix - 1].sum())
    found = [worst] if worst else []
    found += [f"{before} states before the marker carry loss"] * bool(before)
    found += [f"{counted} labels counted of {count}"] * (counted < count)
    found += [f"{early.size} targets' states know the token they predict"] * bool(early.size)
    if found:
        return Finding(
            False,
            "; ".join(found),
            "token l predicted once by the state before it, the first by the marker, to the end",
            "compress/autoencoder.py (targets), training/loss.py: shift labels and mask alike",
        )
    return healthy(f"{count} labels, each once, from the state before it; the first by the marker")


def padding_free(p: Preview) -> Finding:
    """Loss on padding."""
    tok_BOL, len_BO = p.sample.tok_BOL, p.sample.tok_len_BO
    pad_BOL = padding(len_BO, tok_BOL.shape[2])
    other = p.sample._replace(tok_BOL=np.where(pad_BOL, p.others(tok_BOL, 1), tok_BOL))
    spoiled = p.listen(other)
    changed = int((spoiled.nll_BO != p.heard.nll_BO).sum())
    used_RL = p.heard.decoder.used_BS[:, p.prefix - 1 :]
    carries = int((used_RL & pad_BOL.reshape(used_RL.shape)).sum())
    counted, count = round(float(p.heard.sums_K[3] + p.heard.sums_K[6])), int(len_BO.sum())
    found = [f"{carries} padded positions carry loss"] if carries else []
    found += [f"other tokens in the padding changed {changed} losses"] if changed else []
    found += [f"{counted} labels counted of {count}"] if counted > count else []
    if found:
        return Finding(
            False,
            "; ".join(found),
            "no loss beyond the end token",
            "compress/autoencoder.py (valid_RL), training/loss.py: mask labels by their lengths",
        )
    return healthy(f"{int(pad_BOL.sum())} padded positions changed: the same loss")


def mean(p: Preview) -> Finding:
    """A loss divided by padding, or by rows of unequal length."""
    if OBJECTIVES[p.cfg.train.objective].own_weights:
        return Finding(None, "the objective gives its labels weights of its own")
    o, nll, len_BO = p.objective, p.heard.nll_BO.astype(np.float64), p.sample.tok_len_BO
    shares, expected = o.shares or {None: 1.0}, 0.0
    for mode, part in shares.items():
        mine = len_BO if mode is None else np.where(p.sample.mode_BO == mode, len_BO, 0)
        expected += part * float(nll[mine > 0].sum()) / max(int(mine.sum()), 1)
    weighted = p.ask(p.sample)._replace(weights_BO=p.weights(p.sample))
    found = p.metrics(p.listen(p.sample, weighted))["loss"]
    if abs(found - expected) > 1e-3 * abs(expected):
        return Finding(
            False,
            f"training reports {found:.4f} for losses whose mean over labels is {expected:.4f}",
            "the sum of the labels' losses over the number of labels",
            "training/loss.py (weights): divide by the count of real labels of the whole batch",
        )
    return healthy(f"{found:.4f} nats, the mean over {int(len_BO.sum())} labels")


def frozen(p: Preview) -> Finding:
    """A decoder claimed frozen, but tuned."""
    cfg, (before, after) = p.cfg, p.step
    still = set() if cfg.train.train_decoder else {"decoder"}
    still |= {"markers"} if p.run.marker_steps <= 0 else set()
    if cfg.memory.lora.rank > 0:
        still |= {"compressor: embeddings", "compressor: attention", "compressor: MLP"}
    names = [n for n in before if group_of(n) in still]
    moved = [n for n in names if not np.array_equal(before[n], after[n])]
    if moved:
        return Finding(
            False,
            f"one step changed {len(moved)} of {len(names)} frozen arrays, such as {moved[0]}",
            f"{', '.join(sorted(still))}: the same bits after a step",
            "compress/autoencoder.py (trainable_filter): leave them out of the trainable split",
        )
    if not still:
        return healthy("nothing is meant to be frozen: train.train_decoder is set")
    return healthy(f"{', '.join(sorted(still))}: {len(names)} arrays, the same bits after a step")


def learns(p: Preview) -> Finding:
    """Parts that are meant to learn, and do not."""
    cfg, (before, after) = p.cfg, p.step
    towers = ("compressor: ", "decoder", "markers")
    wanted = {group for group in map(group_of, before) if not group.startswith(towers)}
    wanted |= {"decoder"} if cfg.train.train_decoder else set()
    wanted |= {"markers"} if p.run.marker_steps > 0 else set()
    tower = ("embeddings", "attention", "MLP")
    wanted |= {f"compressor: {n}" for n in (("LoRA",) if cfg.memory.lora.rank > 0 else tower)}
    moved = {group_of(n) for n in before if not np.array_equal(before[n], after[n])}
    if wanted - moved:
        return Finding(
            False,
            f"one step left as they were: {', '.join(sorted(wanted - moved))}",
            "a step that moves every part that is trained",
            "compress/autoencoder.py (trainable_filter), or a gradient that is cut off",
        )
    return healthy(f"one step moved {', '.join(sorted(wanted))}")


def _wrong_labels(p: Preview) -> str:
    """The first label whose derivative is not that of its own cross-entropy, in words."""
    label_RL = p.sample.tok_BOL.reshape(-1, p.sample.tok_BOL.shape[2])
    tower, head_VD = p.heard.decoder, np.asarray(p.model.decoder.head_VD(), np.float32)
    for r, length in enumerate(p.sample.tok_len_BO.reshape(-1)):
        at = slice(p.prefix - 1, p.prefix - 1 + length)
        found_LD = np.asarray(tower.by_state_BSD[r, at], np.float32)
        parts = list(slopes(np.asarray(tower.hidden_BSD[r, at]), head_VD, label_RL[r, :length]))
        if not parts:
            continue
        expected_LD = np.concatenate([slope_LD for slope_LD, _ in parts])
        size_L = np.linalg.norm(expected_LD, axis=1)
        off_L = np.linalg.norm(found_LD - expected_LD, axis=1) > TOLERANCE * size_L.max()
        if off_L.any():
            first = int(np.flatnonzero(off_L)[0])
            none = "carry no loss" if not found_LD[off_L].any() else "are not the text's next token"
            return (
                f"{int(off_L.sum())} of {length} labels {none} (target {r + 1}, token {first + 1})"
            )
    return ""


def slopes(
    hidden_LD: np.ndarray, head_VD: np.ndarray, label_L: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """d nll / d hidden and nll (nats) of labels, CHUNK at a time: the textbook's cross-entropy."""
    for start in range(0, len(label_L), CHUNK):
        hidden = hidden_LD[start : start + CHUNK].astype(np.float32)
        label = label_L[start : start + CHUNK]
        logits = hidden @ head_VD.T
        logits -= logits.max(axis=1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = np.arange(len(label))
        p = np.exp(logp)
        p[rows, label] -= 1
        yield p @ head_VD, -logp[rows, label]


def _valid(p: Preview) -> np.ndarray:
    """Which memory slots hold a vector, in rows of targets."""
    return np.repeat(np.asarray(p.memory.seg_BM) > 0, p.sample.tok_len_BO.shape[1], axis=0)


def _last_reads(p: Preview) -> np.ndarray:
    """Which places the state that predicts the last label depends on, in rows of targets."""
    ask, len_R = p.ask(p.sample), p.sample.tok_len_BO.reshape(-1)
    at_R = np.where(len_R > 0, p.prefix - 2 + len_R, -1)
    ask = ask._replace(weights_BO=np.zeros_like(ask.weights_BO), decoder_B=at_R)
    return p.listen(p.sample, ask).decoder.read_BS
