"""Where a run's scalars go beside metrics.jsonl (`train.loggers`): TensorBoard, W&B, trackio.

A logger is a class that is made for a `LoggedRun` and has `log(step, scalars)` and `close()`
(docs/how-to/log-training.md). Which loggers a run has changes none of its numbers.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import util
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxcomp.config import Config, ConfigError, to_dict
from jaxcomp.runtime.registry import Registry
from jaxcomp.training.identity import GROUPS
from jaxcomp.training.manifest import Manifest, read_json, write_json

ID = "logged.json"  # of a run's workdir: its id among loggers
Scalars = Mapping[str, float]


class LoggedRun(NamedTuple):
    """What a logger is made for.

    Attributes:
        id: the same when the run is resumed, another where it begins again at step 0.
        workdir: of this run alone; it may be in a bucket.
        step: the last step of the checkpoint it goes on from; 0: it begins.
        config: as JSON-able values.
    """

    project: str
    name: str
    id: str
    workdir: Path
    step: int
    config: dict[str, Any]


class RunLogger(Protocol):
    def log(self, step: int, scalars: Scalars) -> None:
        """Take the finite scalars of a step, in the order of steps."""

    def close(self) -> None:
        """End, also where training failed."""

    # It may have `flush()` too, which is called with each checkpoint.


class LoggerRow(NamedTuple):
    """One logger; `package` is what it imports, of the extra with that name."""

    make: Callable[[LoggedRun], RunLogger]
    package: str = ""


LOGGERS: Registry[LoggerRow] = Registry("train.loggers")


def run_logger(name: str, package: str = "") -> Callable[[type], type]:
    """Register the decorated class as the logger `name`. Raises ValueError where it is taken."""
    return LOGGERS.declare(name, lambda make: LoggerRow(make, package))


def check(names: Iterable[str], group: str = "train") -> None:
    """Raises ConfigError for an unknown logger of `group`.loggers, and for one whose package is
    missing."""
    for name in names:
        package = LOGGERS[name].package
        if package and util.find_spec(package) is None:
            raise ConfigError(
                f"{group}.loggers names {name}, but the package {package} is not installed; "
                f"install the extra `{package}` (uv sync --extra {package}), or leave {name} out"
            )


def begin(
    names: Iterable[str], run: Manifest, what: str, step: int, workdir: Path
) -> list[RunLogger]:
    """The loggers of a run, which `what` names and which goes on after `step`."""
    logged = LoggedRun(
        project=run.config.name,
        name=what,
        id=_id(workdir, step),
        workdir=workdir,
        step=step,
        config=to_dict(run.config),
    )
    return [LOGGERS[name].make(logged) for name in names]


def _id(workdir: Path, step: int) -> str:
    file = workdir / ID
    if step and file.is_file():
        return read_json(file, "id")["id"]
    found = secrets.token_hex(4)
    write_json(file, {"id": found})
    return found


def check_all(cfg: Config) -> None:
    """As `check`, of every training that a sweep of `cfg` may do."""
    for group in GROUPS:
        check(attrgetter(group)(cfg).loggers, group)


@run_logger("tensorboard", "tensorboardX")
class TensorBoard:
    """Event files in WORKDIR/tensorboard; points of steps after `run.step` are dropped."""

    def __init__(self, run: LoggedRun):
        import tensorboardX

        _events_in_buckets()
        folder = str(run.workdir / "tensorboard")
        self._board = tensorboardX.SummaryWriter(folder, purge_step=run.step, write_to_disk=True)
        self.flush = self._board.flush  # to the bucket, with each checkpoint
        self.close = self._board.close

    def log(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)


@run_logger("wandb", "wandb")
class WandB:
    """Weights & Biases, by its own settings: `wandb login`, WANDB_MODE, WANDB_ENTITY, ..."""

    def __init__(self, run: LoggedRun):
        import wandb  # pyright: ignore[reportMissingImports]  (an extra)

        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            config=run.config,
            settings=wandb.Settings(console="off", save_code=False, disable_git=True),
        )

    def log(self, step: int, scalars: Scalars) -> None:
        # W&B holds the steps between the last checkpoint and a kill already, with equal values.
        if step >= self._run.step:
            self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


@run_logger("trackio", "trackio")
class Trackio:
    """trackio, in TRACKIO_DIR of this machine, or in the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, run: LoggedRun):
        import trackio  # pyright: ignore[reportMissingImports]  (an extra)

        name, self._finish = f"{run.name}-{run.id}", trackio.finish
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            self._run = trackio.init(
                run.project, name=name, resume="allow", config=run.config, embed=False
            )

    def log(self, step: int, scalars: Scalars) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._finish()


def _events_in_buckets() -> None:
    """tensorboardX writes to gs:// as jaxcomp does; its own way needs another client and a cloud
    project."""
    from tensorboardX import record_writer

    from jaxcomp.runtime import paths

    class Buckets:
        def open(self, path: str) -> paths.AppendFile:
            return paths.AppendFile(path, "")

        def directory_check(self, path: str) -> None:
            pass

    record_writer.register_writer_factory("gs", Buckets())
