"""A run's checkpoints (Orbax v1).

A checkpoint is the trainable split, the optimiser, the step and the data iterator's exact state,
which is a place in the global stream, the same on every process; the frozen weights are named in
run.json, not copied. So any number of processes may go on from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from jaxcomp.config import ConfigError
from jaxcomp.runtime import paths
from jaxcomp.runtime.errors import StorageError
from jaxcomp.training import orbax
from jaxcomp.training.manifest import CheckpointError, Json, open_manifest, unwritable
from jaxcomp.training.optim import TrainState


class Checkpoints:
    """The checkpoints of one run under `workdir/checkpoints`.

    `run` is the `config_hash` of the run, which every checkpoint carries. `keep` of the latest
    ones stay; None: they are only read, and nothing that another process may be writing is removed.
    Raises CheckpointError where the folder cannot be written.
    """

    def __init__(self, workdir: Path, run: str, *, keep: int | None):
        self.directory = paths.path(paths.absolute(workdir)) / "checkpoints"
        self._pending: Any = None
        self._failed = self._saved = False
        self._about: Json = {"config_hash": run}
        with self._writing():
            # The annotations of Orbax 0.12 do not know its own policies.
            latest: Any = ocp.training.preservation_policies.LatestN(keep) if keep else None
            self._orbax = ocp.training.Checkpointer(
                orbax.folder_for(self.directory),
                preservation_policy=latest,
                custom_metadata=self._about,
                cleanup_tmp_directories=keep is not None,
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        found = self._orbax.latest
        return None if found is None else found.step

    @property
    def steps(self) -> list[int]:
        """Steps of every whole checkpoint, in order."""
        return sorted(found.step for found in self._orbax.checkpoints)

    def save(self, step: int, state: TrainState, data: Iterator[Any] | None) -> None:
        """Starts a save of `state` after `step` updates and of the iterator as it stands now.

        Call it before the next batch is drawn. It returns when everything is copied; the writing
        goes on behind, and an error in it is raised by the next `save`, `wait` or `close`. The
        first save is waited for, so that a place where nothing can be saved costs few steps.
        """
        self.wait()
        # A copy, because the next step consumes (donates) the state while Orbax still reads it.
        parts: Json = {"state": named(jax.tree.map(lambda x: x.copy(), state))}
        # Not as a checkpointable of its own, of which Orbax would write one a process.
        place = {} if data is None else {"data": cast(Any, data).get_state()}
        orbax.starting()
        with self._writing():
            self._pending = self._orbax.save_checkpointables_async(
                step, parts, force=True, custom_metadata=self._about | place
            )
        if not self._saved:
            self.wait()
            self._saved = True

    def restore(
        self, state: TrainState, data: Iterator[Any] | None, step: int | None = None
    ) -> TrainState:
        """The saved state in the shardings of `state`; sets `data` to its exact place.

        Raises ConfigError where the checkpoint is another run's, CheckpointError where it cannot be
        read.
        """
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in named(state).items()
        }
        step = step or self.latest
        place = self.directory / str(step)
        try:
            found = self._orbax.checkpointables_metadata(step).custom_metadata
            about: Json = found if isinstance(found, dict) else {}
            if about["config_hash"] != self._about["config_hash"]:
                raise ConfigError(
                    f"{place} was made by another config (config_hash {about['config_hash']}, this "
                    f"one is {self._about['config_hash']}); use another --workdir, or remove the "
                    "whole folder to start again"
                )
            loaded = self._orbax.load_checkpointables(step, {"state": shapes})["state"]
            if data is not None:
                cast(Any, data).set_state(about["data"])
        except ConfigError:
            raise
        except orbax.DAMAGED as error:
            # What Orbax says of a file that is missing or cut names its own classes.
            cut = "a file in it is missing or cut"
            why = orbax.brief(error) if isinstance(error, OSError) else cut
            raise CheckpointError(
                f"{place}: the checkpoint cannot be read ({why}); remove that folder to go on from "
                "the checkpoint before it, or from the start"
            ) from error
        return jax.tree.unflatten(jax.tree.structure(state), [loaded[name] for name in shapes])

    def wait(self) -> None:
        """Returns when the last save is whole on disk. Raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._writing():
                orbax.result(pending)

    def close(self) -> None:
        """Waits for the last save. Raises CheckpointError if it failed and nothing said so yet."""
        try:
            self.wait()
        finally:
            # After a failed save Orbax would raise its error once more. Raised while the error made
            # from it is on its way, the two become each other's cause, a ring without end. And of
            # several processes it would wait for those whose save failed too.
            if not self._failed:
                with self._writing():
                    self._orbax.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax wraps a full disk in several types of its own
            self._failed = True
            if isinstance(error, StorageError):
                raise
            raise unwritable(self.directory, orbax.brief(error)) from error


def saved_steps(workdir: Path) -> list[int]:
    """After how many updates a run has whole checkpoints, in order."""
    folder = paths.path(workdir) / "checkpoints"
    if not folder.is_dir():
        return []
    checkpoints = Checkpoints(workdir, open_manifest(workdir).config_hash, keep=None)
    try:
        return checkpoints.steps
    finally:
        checkpoints.close()


def named(state: TrainState) -> dict[str, jax.Array]:
    """The leaves of a state by readable names ("params/compressor/mem_ME", "opt/1/mu/...")."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}
