"""Bootstrap intervals over the passages of one trained pair, from its per-passage records.

They say how much a number would move with other passages, and nothing about other models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.config import ConfigError
from jaxcomp.evals.metric import renamed_record, sums
from jaxcomp.runtime import strict_json

DRAWS = 1000
WHICH = ("id", "source", "kind", "start")  # what tells passages, and edits, of one set apart
_MOST = 1e12  # tokens, nats or facts of one passage; sums of such counts stay exact


def ratio_interval(top_W: np.ndarray, bottom_W: np.ndarray) -> tuple[float, float] | None:
    """95% percentile bootstrap of sum(top) / sum(bottom) over passages; None where there are fewer
    than two, or nothing to divide by."""
    count = len(top_W)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    tops, bottoms = times @ top_W, times @ bottom_W
    values = tops[bottoms > 0] / bottoms[bottoms > 0]
    if count < 2 or not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def intervals(
    records: Sequence[dict[str, Any]], metrics: dict[str, Any], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """95% percentile intervals of those `names` that are sums over sums of the records.

    A metric that was not measurable gets none.
    """
    out = {}
    for name in names:
        found = counted(records, name)
        if found and metrics.get(name) is not None:
            bounds = ratio_interval(*(np.asarray(c, float) for c in zip(*found, strict=True)))
            if bounds is not None:
                out[name] = bounds
    return out


def counted(records: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """What each passage gives to a metric that is a sum over a sum: (numerator, denominator)."""
    pairs = (sums(r, name) for r in records if r["set"] == name.partition("/")[0])
    return [pair for pair in pairs if pair is not None]


class Sums(NamedTuple):
    """What W passages give to a metric that is a sum over a sum: numerators and denominators."""

    ids: tuple[str, ...]  # which passages, or edits, in order
    sums_2W: np.ndarray


def of_run(path: Path, names: Sequence[str]) -> list[Sums] | None:
    """Of each metric in `names`; None without a file. A passage that has nothing to say gives 0, 0.

    Raises:
      ConfigError: a line that is no record of a passage.
    """
    if not path.is_file():
        return None
    found: list[tuple[list[str], list[tuple[float, float]]]] = [([], []) for _ in names]
    # Not splitlines: texts may hold other ends of lines than the one between records.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            record = renamed_record(strict_json.parse(line, where, dict))
            for (ids, pairs), name in zip(found, names, strict=True):
                if record["set"] == name.partition("/")[0]:
                    ids.append(str([record.get(key) for key in WHICH]))
                    top, bottom = map(float, sums(record, name) or (0.0, 0.0))
                    if abs(top) > _MOST or not 0 <= bottom <= _MOST:
                        raise ValueError(f"{name} = {top:g} / {bottom:g}")
                    pairs.append((top, bottom))
        except strict_json.JsonError as error:
            raise _damaged(str(error)) from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise _damaged(
                f"{where}: no record of a passage ({type(error).__name__}: {error})"
            ) from error
    return [Sums(tuple(ids), np.array(pairs, float).reshape(-1, 2).T) for ids, pairs in found]


def _damaged(what: str) -> ConfigError:
    return ConfigError(f"{what}; delete the file, and intervals do without passages")


def finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without NaN and infinities, which JSON cannot hold."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()
    }
