"""The training loop of language models and compressors, which are two `Run`s."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from jaxcomp.config import Config, ConfigError, OptimConfig, PretrainConfig, TrainConfig
from jaxcomp.models import attention
from jaxcomp.runtime import distributed, live, paths, preemption
from jaxcomp.runtime.allocator import keep_freed_memory
from jaxcomp.runtime.sharding import make_mesh, put_batch, use_mesh, whole_batch
from jaxcomp.training import loggers
from jaxcomp.training.checkpoint import Checkpoints
from jaxcomp.training.loss import Objective
from jaxcomp.training.manifest import Manifest, begin, write_json
from jaxcomp.training.metrics import TIMINGS, Clock, Logger, Progress
from jaxcomp.training.optim import (
    Layout,
    Params,
    StepSpec,
    init_state,
    numbers,
    on_mesh,
    split_model,
    split_optim,
    train_step,
)
from jaxcomp.training.profiling import Tracer, Window

Say = Callable[[str, float], None]  # (what is happening, share that is done)


class TrainingError(ValueError):
    """Training cannot go on; the message names the step and what to do."""


class Diverged(TrainingError):
    """The loss or its gradient is not finite."""


@dataclass(frozen=True)
class Run:
    """One use of the loop. `model` and `batches` are called under the mesh; `objective` gives the
    loss of a step (a new value compiles anew)."""

    what: str
    manifest: Manifest
    model: Callable[[], nnx.Module]
    trainable: Any  # nnx filter
    batches: Callable[[], Iterator[Any]]
    objective: Callable[[int], Objective]
    settings: TrainConfig | PretrainConfig
    seed: int
    marker_steps: float = math.inf
    last_layer: bool = False  # of the compressor's layers only the last moves
    dropout: bool = False

    @property
    def optim(self) -> OptimConfig:
        return self.settings.optim


class Fitted(NamedTuple):
    """A finished run: the model's parts and the numbers that a rerun reproduces."""

    layout: Layout
    trained: Params
    frozen: Params
    numbers: dict[str, float | None]  # steps, tokens, train_loss (exponential mean over steps)
    rates: dict[str, float] | None = None  # tokens and steps a second; None: it was only restored

    def model(self) -> Any:
        return self.layout.merge(self.trained, self.frozen)


def mesh_for(cfg: Config) -> Mesh:
    """The mesh that is active already, else the one `cfg.mesh` asks for."""
    active = jax.sharding.get_mesh()
    return make_mesh(cfg.mesh) if active.empty else active


def fit(
    run: Run,
    workdir: Path,
    mesh: Mesh,
    *,
    say: Say | None = None,
    profile: Window | None = None,
    clock: Clock | None = None,
) -> Fitted:
    """Trains to `run.optim.steps` updates, from the last checkpoint of `workdir` if there is one.

    Writes checkpoints (the last one after the last step), metrics.jsonl, what its loggers write,
    timings.json and, of the steps of `profile`, a trace. `say` takes the place of the progress
    line. On several processes, each calls it.

    Raises:
        ConfigError: the workdir belongs to another run.
        CheckpointError: the disk is full, or a checkpoint cannot be read.
        Diverged: the loss is not finite. TrainingError: the data ended.
        Terminated: SIGTERM; the step was finished and is saved.
    """
    clock = clock or Clock()
    steps = run.optim.steps
    keep_freed_memory()
    _check_batch(run, mesh)
    loggers.check(run.settings.loggers)
    with use_mesh(mesh), contextlib.ExitStack() as show:
        # ---- input ------------------------------------------------------------------------------
        begin(workdir, run.manifest)
        keep = run.settings.keep_checkpoints
        checkpoints = Checkpoints(workdir, run.manifest.config_hash, keep=keep)
        batches = run.batches()

        # ---- model, on its shards ---------------------------------------------------------------
        with live.phase(f"{run.what}: loading the model"):
            layout, trained, frozen = split_model(run.model(), run.trainable)
        adam, schedule = split_optim(run.optim, run.marker_steps, run.last_layer)
        state, schedule = init_state(trained, adam), on_mesh(schedule)
        # Random numbers of dropout depend on the step alone, so they survive a restart.
        dropout_key = on_mesh(jax.random.key(run.seed)) if run.dropout else None

        # ---- restore ----------------------------------------------------------------------------
        start = checkpoints.latest or 0
        if start:
            with clock.part("checkpoint"):
                state = checkpoints.restore(state, batches)
        if start >= steps:
            checkpoints.close()
            return Fitted(layout, state.params, frozen, numbers(state))

        # ---- loop -------------------------------------------------------------------------------
        tracer = Tracer(profile, workdir, start)
        compiled: set[Objective] = set()
        row = show.enter_context(live.line(run.what, steps, "steps", start))
        watch = _Watch(run, workdir, start, clock, checkpoints, say, row)
        try:
            with preemption.steps() as brake:
                for step in range(start, steps):
                    if tracer.begins(step):
                        watch.look()  # what was dispatched before is no part of it
                        tracer.begin()
                    batch = watch.draw(batches, mesh)
                    objective = run.objective(step)
                    with contextlib.ExitStack() as around:
                        if objective in compiled:
                            around.enter_context(clock.part("step"))
                        else:
                            around.enter_context(live.phase(f"{run.what}: compiling the step"))
                            around.enter_context(clock.part("compile"))
                        around.enter_context(jax.transfer_guard("disallow"))
                        around.enter_context(tracer.step(step))
                        spec = StepSpec(layout, objective, adam)
                        state, metrics = train_step(
                            spec, state, frozen, batch, schedule, dropout_key
                        )
                    if not compiled:
                        watch.say_first(step)
                    compiled.add(objective)
                    # The step before: this one is running meanwhile.
                    watch.look()
                    watch.pending = (step + 1, metrics)
                    if tracer.ends(step + 1):
                        watch.look()
                        tracer.end()
                    stop = brake.reached()
                    if (step + 1) % run.settings.checkpoint_every == 0 or step + 1 == steps or stop:
                        watch.save(step + 1, state, batches)
                    if stop:
                        break
                with clock.part("checkpoint"):
                    checkpoints.wait()
                if brake.reached():
                    raise preemption.Terminated
            rates = watch.progress.rates(steps)
            if distributed.is_lead():
                write_json(paths.path(workdir) / TIMINGS, clock.timings(rates))
        finally:
            tracer.end()
            if watch.logger is not None:
                watch.logger.close()
            checkpoints.close()
        return Fitted(layout, state.params, frozen, numbers(state), rates)


def _check_batch(run: Run, mesh: Mesh) -> None:
    """Raises ConfigError where a micro-batch does not divide over the devices."""
    rows = run.optim.batch // run.optim.accumulate
    if whole_batch(rows, mesh) != rows:
        ways = whole_batch(1, mesh)
        raise ConfigError(
            f"{run.what}: optim.batch / optim.accumulate = {rows} rows do not divide over "
            f"replica x fsdp = {ways} devices; make it a multiple of {ways}"
        )


class _Watch:
    """Draws batches, and reads metrics one step late."""

    def __init__(
        self,
        run: Run,
        workdir: Path,
        start: int,
        clock: Clock,
        checkpoints: Checkpoints,
        say: Say | None,
        row: live.Line,
    ):
        self.run, self.clock, self.checkpoints, self.say = run, clock, checkpoints, say
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.logger = None
        if distributed.is_lead():
            place, names = paths.path(workdir), run.settings.loggers
            started = loggers.begin(names, run.manifest, run.what, start, place)
            self.logger = Logger(place, start, started)
        self.progress = Progress(row, run.optim.steps, start)

    def draw(self, batches: Iterator[Any], mesh: Mesh) -> Any:
        """The next batch, on the mesh. Time counts as waiting only if the device had run dry."""
        before = self.clock.seconds.get("data", 0.0)
        with self.clock.part("data"):
            try:
                batch = put_batch(next(batches), mesh, self.run.optim.batch)
            except StopIteration as error:
                raise TrainingError(
                    f"{self.run.what}: the data ended before step {self.run.optim.steps}; "
                    "give more text or fewer optim.steps"
                ) from error
        running: Any = None if self.pending is None else self.pending[1]["loss"]
        if running is None or running.is_ready():
            self.clock.add("data_wait", self.clock.seconds["data"] - before)
        return batch

    def look(self) -> None:
        """Reads the metrics of the pending step (waiting for it), checks and logs them."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        with self.clock.part("step"):
            names = ("loss", "loss_ema", "grad_norm", "tokens")
            loss, mean, norm, tokens = jax.device_get([metrics[name] for name in names])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(self._not_finite(step, float(loss), float(norm)))
        self.progress.count(int(tokens))
        self.progress.show(step, float(mean))
        steps = self.run.optim.steps
        if self.logger is None or (step % self.run.settings.log_every and step != steps):
            return
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        self.logger.write(step, values, self.progress.rates(step))
        if self.say is None:
            self.progress.print(step)
        else:
            self.say(f"{self.run.what}: step {step}, loss {values['loss_ema']:.3f}", step / steps)

    def say_first(self, step: int) -> None:
        """That training has begun, and which attention the step was compiled with."""
        self.progress.row.count()
        if self.say is not None:
            self.say(f"{self.run.what}: step {step + 1}", step / self.run.optim.steps)
        elif distributed.is_lead():
            print(
                f"{self.run.what}: attention by {attention.description()}",
                file=sys.stderr,
                flush=True,
            )

    def _not_finite(self, step: int, loss: float, norm: float) -> str:
        latest = self.checkpoints.latest
        kept = (
            f"the last good checkpoint is step {latest} in {self.checkpoints.directory}"
            if latest
            else "no checkpoint had been written yet"
        )
        return (
            f"{self.run.what}: at step {step} the loss is {loss} and the gradient's norm {norm}; "
            f"{kept}. Lower optim.lr (now {self.run.optim.lr:g}) or optim.clip, and run again in a "
            "new --workdir"
        )

    def save(self, step: int, state: Any, batches: Iterator[Any]) -> None:
        """Starts a checkpoint after `step` steps. A state that is not finite is never saved."""
        self.look()
        with self.clock.part("checkpoint"):
            if self.logger is not None:
                self.logger.sync()  # first: lines beyond the last checkpoint are dropped later
            self.checkpoints.save(step, state, batches)
