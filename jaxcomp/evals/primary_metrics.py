"""The few of all metrics that tables and plots show, and the two that the verdict is about."""

from __future__ import annotations

from typing import NamedTuple

from jaxcomp.config import Config

LOSS, PRIMARY, OVERWRITING = "loss", "primary endpoint", "overwriting"


class Headline(NamedTuple):
    """One number of docs/metrics.md, its short name and its definition in a line."""

    metric: str
    label: str
    meaning: str
    role: str = (
        ""  # by which the verdict and comparisons find it, whatever its place: see `of_role`
    )


_RANK = (
    "effective rank of a passage's memory vectors after the connector, mean over passages; "
    "compare at one ratio only, beside its bound min(M, D)"
)
_REBUILT = "share of tokens at which the greedy free-running rebuild agrees with the source"
_LOSS = "reconstruction loss on held-out passages, nats per token, teacher-forced"
_ENTROPY = "conditional entropy of the decoder along the source, nats per token, teacher-forced"
_EDITS = "empty where not measurable: under half of the unedited control spots came back"
_OFF = "slots whose value is not the prior's favourite"

WORLD = (
    Headline("ordinary/loss", "loss", _LOSS, LOSS),
    Headline("ordinary/fr_accuracy", "tokens rebuilt", _REBUILT),
    Headline(
        "counterfactual/nonfavourite/all/kept",
        "counterfactual slots kept",
        f"primary endpoint: {_OFF}, kept in the rebuilt text / all such, counterfactual passages",
        PRIMARY,
    ),
    Headline(
        "counterfactual/overwriting",
        "overwriting",
        f"{_OFF} that came back as the favourite / all such, counterfactual passages",
        OVERWRITING,
    ),
    Headline(
        "ordinary/nonfavourite/all/kept",
        "rare slots kept",
        f"{_OFF}, kept in the rebuilt text / all such, ordinary passages",
    ),
    Headline("ordinary/drift", "drift", "(swapped + other) / all slots, ordinary passages"),
    Headline("ordinary/rank", "effective rank", _RANK),
    Headline("ordinary/entropy_source", "entropy", _ENTROPY),
)
_SPLIT = "contested slots (neither world's favourite in the source, counterfactual passages)"
SPLIT = (
    Headline(
        "counterfactual/split/decoder",
        "to the decoder's favourite",
        f"{_SPLIT} that came back as the decoder's favourite / all such",
    ),
    Headline(
        "counterfactual/split/compressor",
        "to the compressors' favourite",
        f"{_SPLIT} that came back as the favourite of the compressors' bases / all such",
    ),
    Headline(
        "counterfactual/split/lead",
        "lead of the decoder's prior",
        "to the decoder's favourite less to the compressors'; above 0 the decoder's prior wins",
    ),
)
TEXT = (
    Headline("test/loss", "loss", _LOSS, LOSS),
    Headline("test/fr_accuracy", "tokens rebuilt", _REBUILT),
    Headline(
        "edits/all/kept",
        "edits kept",
        f"primary endpoint: edited spots whose new value the rebuilt text keeps / all; {_EDITS}",
        PRIMARY,
    ),
    Headline(
        "edits/all/reverted",
        "overwriting",
        f"edited spots that came back as the original / all; {_EDITS}",
        OVERWRITING,
    ),
    Headline("edits/all/control", "control spots", "unedited spots that came back / all"),
    Headline(
        "edits/all/other", "drift", f"edited spots that came back as something else / all; {_EDITS}"
    ),
    Headline("test/rank", "effective rank", _RANK),
    Headline("test/entropy_source", "entropy", _ENTROPY),
)


def headlines(cfg: Config) -> tuple[Headline, ...]:
    if cfg.data.source != "world":
        return TEXT
    return (*WORLD, *SPLIT) if cfg.world.base_favourites else WORLD


def of_role(cfg: Config, role: str) -> Headline:
    """Return the one headline of `cfg` with this role."""
    (found,) = (h for h in headlines(cfg) if h.role == role)
    return found


def endpoints(cfg: Config) -> tuple[Headline, Headline]:
    """The two metrics of the verdict: the loss, and the primary endpoint of fidelity."""
    return of_role(cfg, LOSS), of_role(cfg, PRIMARY)
