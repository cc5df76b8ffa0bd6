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
from jaxcomp.training import orbax
from jaxcomp.training.manifest import (
    CheckpointError,
    Json,
    check_owner,
    open_manifest,
    unreadable,
    writing,
)
from jaxcomp.training.optim import TrainState


class Checkpoints:
    """The checkpoints of one run under `workdir/checkpoints`.

    Args:
        workdir: the run's folder; made if missing.
        run: the `config_hash` of the run, which every checkpoint carries.
        keep: how many of the latest checkpoints stay; None: they are only read, and nothing that
            another process may be writing is removed.

    Raises:
        CheckpointError: it cannot be written.
    """

    def __init__(self, workdir: Path, run: str, *, keep: int | None):
        self.directory = paths.path(paths.absolute(workdir)) / "checkpoints"
        self._pending: Any = None
        self._read_back = False
        self._failed = False
        self._about: Json = {"config_hash": run}
        with self.writing():
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
        goes on behind, and an error in it is raised by the next `save` or `close`. The first save
        is waited for and read back: what cannot be restored must not cost more steps than these.
        """
        self.wait()
        # A copy, because the next step consumes (donates) the state while Orbax still reads it.
        parts: Json = {"state": named(jax.tree.map(_copy, state))}
        # Not as a checkpointable of its own, of which Orbax would write one a process.
        place = {} if data is None else {"data": cast(Any, data).get_state()}
        orbax.starting()
        with self.writing():
            self._pending = self._orbax.save_checkpointables_async(
                step, parts, force=True, custom_metadata=self._about | place
            )
        if not self._read_back:
            self.wait()
            self._check_saved(step, parts["state"])
            self._read_back = True

    def restore(
        self, state: TrainState, data: Iterator[Any] | None, step: int | None = None
    ) -> TrainState:
        """The saved state in the shardings of `state`; sets `data` to its exact place."""
        names = named(state)
        shapes = {
            k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in names.items()
        }
        parts: Json = {"state": shapes}
        step = step or self.latest
        try:
            at = self._orbax.checkpointables_metadata(step).custom_metadata
            about = at if isinstance(at, dict) else {}
            self._check_owner(step, about)
            place = about.get("data")
            if data is not None and place is None:
                parts["data"] = data  # as checkpoints were until jaxcomp knew several processes
            loaded = self._orbax.load_checkpointables(step, parts)["state"]
        except ConfigError:
            raise
        except orbax.DAMAGED as error:
            raise CheckpointError(unreadable(self.directory / str(step), error)) from error
        if data is not None and place is not None:
            cast(Any, data).set_state(place)
        leaves = [loaded[name] for name in names]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def _check_owner(self, step: int | None, about: Json) -> None:
        """Raises ConfigError where a checkpoint was saved by another run."""
        if "config_hash" in about:
            check_owner(
                f"{self.directory}/{step}", about["config_hash"], self._about["config_hash"]
            )

    def _check_saved(self, step: int, state: dict[str, jax.Array]) -> None:
        """Raises CheckpointError where not every array of `state` can be found again."""
        try:
            found = cast(Any, self._orbax.checkpointables_metadata(step).metadata)["state"] or {}
        except Exception as error:
            found, why = {}, orbax.brief(error)
        else:
            lacking = [k for k, x in state.items() if k not in found or found[k].shape != x.shape]
            if not lacking:
                return
            why = f"{len(lacking)} of {len(state)} arrays are missing, such as {lacking[0]}"
        self._failed = True
        raise CheckpointError(
            f"{self.directory}/{step}: the first checkpoint was written, but cannot be read back "
            f"({why}); nothing trained here could be resumed. Choose a --workdir on another disk"
        )

    def wait(self) -> None:
        """Returns when the last save is whole on disk. Raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self.writing():
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
                with self.writing():
                    self._orbax.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        try:
            with writing(self.directory):
                yield
        except Exception:
            self._failed = True
            raise


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
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return dict(zip(names, (leaf for _, leaf in flat), strict=True))


def _copy(x: jax.Array) -> jax.Array:
    return x.copy()
