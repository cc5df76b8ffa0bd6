"""Linear probe: `jaxcomp inspect`.

Was a fact lost in compression, or overridden in decoding? (Controlled world, `counterfactual`, 768
passages.) Features of a fact: the memory vector of the block in which its value's last token stands
and the two beside it (zeros where there is none), 3 D numbers; with `consecutive` positions the
whole memory. Kinds are those whose values entities share; facts are the only ones of their kind in
the passage. Numbers standardised; multinomial logistic regression, L2, C of 0.001, 0.01, 0.1 by
3-fold cross-validation inside the training part. Five folds *by entity*: no entity of a test fold
(all mice, then all strawberries) is in its training part.

- **read**: facts whose value the probe says / facts, with Wilson's 95% interval. **chance**: the
  larger of the training parts' most frequent value said of each, and the probe's own answers dealt
  out at random (Σ over values of share said × share true). **control**: the same procedure with
  shuffled values; read less control is the selectivity (Hewitt & Liang 2019).
- **wrong**: the same over facts that did not come back, less the **moved** ones: lost as facts,
  while the words of the value came back beside another entity. *beyond chance* is (rate – chance) /
  (1 – chance), at least 0. **returned**: over facts off their favourite that did come back. **reads
  the decoder's**: of the wrong ones with another value in the rebuilt text, those of which the
  probe says that value.
- **verdict** of a kind: *overridden in decoding* where the lower end of wrong's interval is above
  its chance and above the control's rate; else *lost in compression*: not to be read by a linear
  probe at that place. None where fewer than 20 facts are wrong, fewer than 50 facts or 8 entities
  were asked, or 20 or more returned facts cannot be read above chance either. Unadjusted for the
  number of kinds; facts of one entity are not independent, which the intervals ignore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from jaxcomp.config import Config
from jaxcomp.data.facts import VALUES, Fact
from jaxcomp.data.segments import cut_encoded
from jaxcomp.data.tokenizer import Tokenizer
from jaxcomp.data.world import World
from jaxcomp.evals.attribution import KEPT
from jaxcomp.evals.metrics import facts
from jaxcomp.evals.tracing import Trace

# A relation's and an order's values are words of their own entities, which no probe of others can
# know; a modifier always stands beside a second one.
KINDS = tuple(kind for kind in VALUES if kind != "modifier")
FOLDS, INNER_FOLDS = 5, 3
PENALTIES = (0.001, 0.01, 0.1)  # scikit-learn's C, the inverse of the strength
FEWEST = 50  # facts of a kind, below which none is probed
FEWEST_JUDGED = 20  # facts below which a share decides nothing
VERSION = 1  # of the definitions, as attribution.VERSION
OVERRIDDEN, LOST = "overridden in decoding", "lost in compression"


class Question(NamedTuple):
    """One fact, what the decoder `said` of it (None: nothing), and the vectors it is read from."""

    kind: str
    entity: str
    value: str
    favourite: str
    said: str | None
    moved: bool
    x_F: np.ndarray


class Share(NamedTuple):
    """`count` of `n` with Wilson's 95% interval, and what chance gives (see the metrics page)."""

    count: int
    n: int
    low: float
    high: float
    chance: float

    @property
    def rate(self) -> float:
        return self.count / self.n

    @property
    def beyond_chance(self) -> float:
        """(rate - chance) / (1 - chance), at least 0: the share that is read and not guessed."""
        return max(0.0, (self.rate - self.chance) / (1 - self.chance)) if self.chance < 1 else 0.0


class Reading(NamedTuple):
    """What the probe reads of one kind, on entities it was not fitted on. A share is None where its
    set is empty, `verdict` (OVERRIDDEN or LOST) for the `reason` given."""

    kind: str
    facts: int
    entities: int
    values: int
    moved: int = 0
    every: Share | None = None
    control: Share | None = None
    returned: Share | None = None
    wrong: Share | None = None
    as_decoder: Share | None = None
    verdict: str | None = None
    reason: str = ""


def questions(
    cfg: Config, comp_tok: Tokenizer, traces: Sequence[Trace]
) -> tuple[list[Question], dict[str, int]]:
    """The facts that can be asked for, and how many were left out for which reason."""
    world, out, left_out = World(cfg.world), [], Counter()
    for trace in traces:
        passage = trace.example.passage
        count = Counter(fact.kind for fact in passage.facts)
        outcomes = facts.compare(world, passage, trace.rebuilt)
        labels = list(zip(trace.source_words, trace.labels.source, strict=True))
        for fact, fact_outcome in zip(passage.facts, outcomes, strict=True):
            if fact.kind not in KINDS:
                left_out["of a kind without values that entities share"] += 1
                continue
            if count[fact.kind] > 1:
                left_out["with a second fact of its kind in the passage"] += 1
                continue
            mine = [x for word, x in labels if word.start < fact.end and word.end > fact.start]
            moved = fact_outcome.outcome == "omitted" and set(mine) <= set(KEPT)
            asked = fact.kind, fact.key[-1], fact.value, fact.favourite, fact_outcome.rebuilt, moved
            out.append(Question(*asked, _features(cfg, comp_tok, trace, fact)))
    return out, dict(left_out)


def read_out(
    asked: Sequence[Question], seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> list[Reading]:
    """One `Reading` for each of KINDS that was asked; `seed` draws the control's shuffling."""
    out = []
    for kind in KINDS:
        # Folds and shuffling depend on the order: one order, so that the facts alone decide.
        mine = [q for q in asked if q.kind == kind]
        mine.sort(key=lambda q: (q.entity, q.value, q.x_F.tobytes()))
        if mine:
            say(f"linear probe: {kind}, {len(mine)} facts")
            # These matrices are small: threads cost ten times what they save.
            with threadpool_limits(limits=1):
                out.append(judged(_read_kind(kind, mine, np.random.default_rng(seed))))
    return out


def judged(reading: Reading) -> Reading:
    """`reading` with its verdict: is the true value of the facts that came back wrong there?"""
    wrong, returned, control = reading.wrong, reading.returned, reading.control
    if reading.reason or control is None:
        return reading

    def is_read(share: Share) -> bool:
        return share.low > max(share.chance, control.rate)

    if wrong is None or wrong.n < FEWEST_JUDGED:
        n = wrong.n if wrong else 0
        return reading._replace(reason=f"{n} facts came back wrong, under {FEWEST_JUDGED}")
    if is_read(wrong):
        return reading._replace(verdict=OVERRIDDEN)
    # Lost in compression, only where the probe is no worse a reader than the decoder.
    if returned and returned.n >= FEWEST_JUDGED and not is_read(returned):
        return reading._replace(reason="the probe cannot read those that came back either")
    return reading._replace(verdict=LOST)


def _read_kind(kind: str, asked: Sequence[Question], rng: np.random.Generator) -> Reading:
    x_WF = np.stack([q.x_F for q in asked]).astype(np.float64)
    value_W = np.array([q.value for q in asked])
    entity_W = np.array([q.entity for q in asked])
    about = Reading(kind, len(asked), len(set(entity_W)), len(set(value_W)))
    shuffled_W = rng.permutation(value_W)
    reason = _unusable(about, value_W, entity_W) or _unusable(about, shuffled_W, entity_W)
    if reason:
        return about._replace(reason=reason)
    read = _held_out(x_WF, value_W, entity_W)
    said_W = np.array([q.said or "" for q in asked])
    kept_W = said_W == value_W
    moved_W = np.array([q.moved for q in asked])
    off_W = np.array([q.value != q.favourite for q in asked])
    every_W = np.ones_like(kept_W)
    return about._replace(
        moved=int(moved_W.sum()),
        every=_share(value_W, *read, every_W),
        control=_share(shuffled_W, *_held_out(x_WF, shuffled_W, entity_W), every_W),
        returned=_share(value_W, *read, kept_W & off_W),
        wrong=_share(value_W, *read, ~kept_W & ~moved_W),
        as_decoder=_share(said_W, *read, ~kept_W & (said_W != "")),
    )


def _unusable(about: Reading, value_W: np.ndarray, entity_W: np.ndarray) -> str:
    """Why no probe can be fitted; "" where one can."""
    if about.facts < FEWEST:
        return f"{about.facts} facts, under {FEWEST}"
    needed = FOLDS + INNER_FOLDS  # so that every part of every split has an entity
    if about.entities < needed:
        return f"{about.entities} entities, under {needed}"
    for train, _ in GroupKFold(FOLDS).split(value_W, groups=entity_W):
        inner = GroupKFold(INNER_FOLDS).split(train, groups=entity_W[train])
        if any(len(set(value_W[train[part]])) < 2 for part, _ in inner):
            return "one value only in a training part"
    return ""


def _held_out(
    x_WF: np.ndarray, value_W: np.ndarray, entity_W: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is read of each fact by a probe fitted on the other folds' entities, and the most
    frequent value of those folds."""
    read_W, usual_W = np.empty_like(value_W), np.empty_like(value_W)
    for train, test in GroupKFold(FOLDS).split(x_WF, groups=entity_W):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": PENALTIES},
            cv=GroupKFold(INNER_FOLDS),
        )
        search.fit(x_WF[train], value_W[train], groups=entity_W[train])
        read_W[test] = search.predict(x_WF[test])
        names, counts = np.unique(value_W[train], return_counts=True)
        usual_W[test] = names[counts.argmax()]
    return read_W, usual_W


def _share(
    true_W: np.ndarray, read_W: np.ndarray, usual_W: np.ndarray, which_W: np.ndarray
) -> Share | None:
    """Of the facts `which_W`, those whose true value is read."""
    true, read, usual = true_W[which_W], read_W[which_W], usual_W[which_W]
    n, count = len(true), int((true == read).sum())
    if not n:
        return None
    dealt = sum(float((true == v).mean() * (read == v).mean()) for v in set(true))
    interval = stats.binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    chance = max(float((true == usual).mean()), dealt)
    return Share(count, n, float(interval.low), float(interval.high), chance)


def _features(cfg: Config, comp_tok: Tokenizer, trace: Trace, fact: Fact) -> np.ndarray:
    vec_MD = trace.vec_MD
    if cfg.memory.positions == "consecutive":
        most = cfg.data.segments * (cfg.data.segment // cfg.memory.ratio)
        return np.pad(vec_MD, ((0, most - len(vec_MD)), (0, 0))).ravel()
    m = _block(cfg, comp_tok, trace.example.text, fact.end - 1)
    padded = np.pad(vec_MD, ((1, 1), (0, 0)))
    return padded[m : m + 3].ravel()


def _block(cfg: Config, comp_tok: Tokenizer, text: str, char: int) -> int:
    """The valid memory vector whose block holds the character `char` of `text`."""
    ids, spans = comp_tok.encode_with_offsets(text)
    token = next(k for k, (_, end) in enumerate(spans) if end > char)
    before = 0
    for piece in cut_encoded(text, ids, spans, cfg.data.segment):
        if token < len(piece.ids):
            return before + token // cfg.memory.ratio
        token -= len(piece.ids)
        before += -(-len(piece.ids) // cfg.memory.ratio)
    raise ValueError(f"character {char} is not in the text of {len(text)} characters")
