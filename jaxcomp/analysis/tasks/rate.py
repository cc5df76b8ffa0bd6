"""Rate and distortion: `jaxcomp eval --task=rate`.

The same memories in fewer bits. Each vector after the connector is rounded to a format and read by
the same decoder; nothing is trained again. Integers are symmetric, scaled by the largest absolute
value of 64 numbers of a vector; the scales (bfloat16) count. Rate: bits of memory / bytes of source
text. Distortion: bits per byte of the rebuilt text, teacher-forced. One run or several: no number
has an interval over models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcomp.analysis import charts, document
from jaxcomp.analysis.charts import Chart
from jaxcomp.analysis.document import Table
from jaxcomp.analysis.tables import number
from jaxcomp.compress.quantize import FORMATS
from jaxcomp.config import Config, to_dict
from jaxcomp.evals.evaluation import OUT, RATIO, RESULTS, Report, Request, evaluation
from jaxcomp.evals.rate import Rate, rates
from jaxcomp.inference.load import open_run
from jaxcomp.runtime import paths
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training.compressor import load_run, tokenizers
from jaxcomp.training.loop import mesh_for
from jaxcomp.training.manifest import CheckpointError, open_manifest, read_json, write_json
from jaxcomp.training.ratio_schedule import at_ratio, suffix_at

VERSION = 1
_ABOUT = (
    "Each vector after the connector is rounded to the format and read by the same decoder; "
    "nothing is trained again. Integers are symmetric, scaled by the largest absolute value of 64 "
    "numbers of a vector; the scales (bfloat16) count. Rate: bits of memory / bytes of source "
    "text. Distortion: bits a byte of the rebuilt text, teacher-forced (bits_per_byte). Rare "
    "facts preserved: of the world's facts off the favourite, the share that comes back "
    "(nonfavourite/all/preserved). One run is one model: nothing here has an interval over models."
)


class Measured(NamedTuple):
    """A run and its rates; `made`: measured now, not read."""

    name: str
    cfg: Config
    found: list[Rate]
    made: bool
    stem: str = "rate"  # of its files


def measure(
    place: str | Path,
    say: Callable[[str], None] = lambda text: None,
    ratio: int = 0,
    **moved: str,
) -> Measured:
    """The rates of the finished run in `place`, kept in its rate.json; at another `ratio` that it
    was trained at in rate-r<ratio>.json. `moved`: as in `open_run`. Raises what it, `at_ratio`,
    `load_run` and `evaluate` do, and CheckpointError where the file there is of another run or
    evaluation."""
    place = paths.path(place)
    own, root = open_run(place, **moved)
    cfg = at_ratio(own, ratio)
    name = f"{cfg.compressor} r{cfg.memory.ratio} b{cfg.base_seed} s{cfg.seed}"
    about = {
        "version": VERSION,
        "run": open_manifest(place).config_hash,
        "eval": to_dict(cfg.eval),
    }
    stem = f"rate{suffix_at(own, ratio)}"
    file = place / f"{stem}.json"
    if file.is_file():
        kept = read_json(file)
        if kept.get("about") != about:
            raise CheckpointError(f"{file} is of another run or evaluation; remove it")
        return Measured(name, cfg, [Rate(**row) for row in kept["rates"]], False, stem)
    say(f"{name}: rebuilding the held-out text from its memories in {', '.join(FORMATS)}")
    with use_mesh(mesh_for(cfg)):
        found = rates(cfg, load_run(own, place, root=root), tokenizers(own, root))
    write_json(file, {"about": about, "rates": [r._asdict() for r in found]})
    return Measured(name, cfg, found, True, stem)


def write(runs: Sequence[Measured], folder: Path) -> Path:
    """.md and .html of one run or of several into `folder`, named as the first one's; the page's
    place."""
    header = [
        "run", "set", "format", "rate (bits/byte)", "distortion (bits/byte)", "loss (nats/token)",
        "tokens rebuilt (%)", "rare facts preserved (%)",
    ]  # fmt: skip
    rows = [
        [
            run.name, r.name, r.form, number(r.rate), number(r.distortion), number(r.loss),
            number(r.fr_accuracy, "share"), number(r.kept, "share"),
        ]
        for run in runs
        for r in run.found
    ]  # fmt: skip
    stem = runs[0].stem
    return document.write(
        folder, stem, "Rate and distortion", [_plot(runs, stem), Table(header, rows, _ABOUT, 3)]
    )


def _plot(runs: Sequence[Measured], stem: str) -> Chart:
    """Distortion against rate, a line a run, over its formats; the first set."""
    points = [
        {
            "x": r.rate,
            "value": r.distortion,
            "series": run.name,
            "about": {"run": run.name, "format": r.form, "distortion": f"{r.distortion:.3g}"},
        }
        for run in runs
        for r in run.found
        if r.name == run.found[0].name and r.distortion is not None
    ]
    x = "bits of memory / byte of text"
    panel = charts.lines(points, "Distortion", x, "bits/byte, teacher-forced", log=True)
    return Chart(stem, [[panel]], "Distortion against rate, a line a run")


@evaluation("rate", about="the same memories in fewer bits", options=(OUT, RATIO), several=True)
def rate(request: Request) -> Report:
    folder = request.given_out or paths.path(request.place) / RESULTS
    found = [measure(place, request.say, request.ratio, **moved) for place, moved in request.runs]
    page_ = write(found, folder)
    made = any(one.made for one in found)
    return Report(page_.with_suffix(".md").read_text(), page_, made)
