"""Run one job: train, evaluate, collect metrics; and the tasks that pretrain missing models.

Everything of JAX is imported inside functions: the parent of a sweep must not take an accelerator.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jaxcomp.config import Config, ModelConfig, PretrainConfig
from jaxcomp.evals.bootstrap import finite, intervals
from jaxcomp.evals.metrics import endpoints, headlines
from jaxcomp.runtime import compiled, distributed, live, paths
from jaxcomp.runtime.plugins import load_plugins
from jaxcomp.sweep import grid
from jaxcomp.sweep.store import write_text
from jaxcomp.sweep.tasks import Say, Task

TRAIN_SHARE = 0.85  # of a job's time, for the progress line
# Of the summary of training -> name in results.csv.
FROM_TRAINING = {
    "steps": "train/steps",
    "tokens": "train/tokens",
    "train_loss": "train/loss",
    "parameters_decoder": "train/parameters_decoder",
    "parameters_trained": "train/parameters_trained",
    "val_loss": "val_loss",
    "val_loss_continue": "val/loss_continue",
    "val_accuracy_rebuild": "val/accuracy_rebuild",
    "val_accuracy_continue": "val/accuracy_continue",
}


class SweepWork:
    """The `Work` of a real sweep."""

    def __init__(self, command: str = ""):
        self.command = command  # for the cards of bases made on the way

    def prepare(self) -> None:
        importlib.import_module("jaxcomp.training.compressor")  # and JAX

    def check(self, jobs: Sequence[grid.Job], workdir: Path) -> str:
        with live.phase("loading libraries"):
            from jaxcomp.models import hf
            from jaxcomp.models.hub import folder_of
            from jaxcomp.training import loggers, pretrained, ratio_schedule

        for folder in sorted({f for job in jobs for f in job.config.folders.values()}):
            hf.check(folder_of(folder))
        loggers.check_all(jobs[0].config)
        for job in jobs:
            pretrained.check_shapes(job.config)
            ratio_schedule.check(job.config)
        return check_data(jobs[0].config, workdir)

    def tasks(self, jobs: Sequence[grid.Job], workdir: Path) -> list[Task]:
        bases = {job.base: base_task(job.config) for job in jobs}
        models = [decoder_task(jobs[0].config), *bases.values()]
        made = [task for task in models if found(task.what, task.config, workdir) is None]
        names = {task.id for task in made}
        return [*made, *(_job_task(job, names) for job in jobs)]

    def ready(self, task: Task, workdir: Path) -> bool:
        return found(task.what, task.config, workdir) is not None

    def run(self, task: Task, workdir: Path, say: Say) -> dict[str, Any]:
        load_plugins(task.config)
        compiled.keep(workdir / "cache" / "xla")
        if task.what == "job":
            return _run_job(task, workdir, self.command, say)
        make(task, workdir, self.command, say)
        return {}


class PretrainWork(SweepWork):
    """Makes bases in the workdir whether or not an asset with the same hash is shipped."""

    def ready(self, task: Task, workdir: Path) -> bool:
        from jaxcomp.training import identity, manifest, pretrained

        cfg = task.config
        if task.what == "decoder":
            folder, wanted = pretrained.made_decoder(workdir, cfg), identity.decoder_hash(cfg)
        else:
            base = (*identity.split_name(cfg.compressor), cfg.base_seed)
            folder = pretrained.made_base(workdir, *base)
            wanted = identity.base_hash(cfg, *base)
        card = folder / manifest.CARD
        return card.is_file() and manifest.read_json(card).get("config_hash") == wanted


def found(what: str, cfg: Config, workdir: Path) -> Path | None:
    """The folder of the decoder or of the base of a single run, if there is one."""
    from jaxcomp.training import identity, pretrained

    if what == "decoder":
        return pretrained.find_decoder(cfg, workdir)
    size = identity.split_name(cfg.compressor)
    return pretrained.find_base(cfg, *size, cfg.base_seed, workdir)


def check_data(cfg: Config, workdir: Path) -> str:
    """What training and evaluation will see. Raises DataError, ConfigError where they could not.

    `cfg` names a compressor. Bases still to be made will have the tokenizer of the data.
    """
    from jaxcomp.data.batches import data_stats, data_tokenizer
    from jaxcomp.data.eval_sets import check_held_out
    from jaxcomp.training import identity, pretrained

    folders = [found(what, cfg, workdir) for what in ("base", "decoder")]
    for folder, made in zip(folders, (cfg.pretrain, cfg.decoder.pretrain), strict=True):
        if folder is None:
            identity.check_text(cfg, made)
    toks = [pretrained.tokenizer_of(f) if f is not None else data_tokenizer(cfg) for f in folders]
    check_held_out(cfg, *toks)
    return f"data at ratio {cfg.memory.ratio}: {data_stats(cfg, *toks)}"


def decoder_task(cfg: Config) -> Task:
    dec = cfg.decoder
    steps = 2 * _tokens(dec.pretrain) + dec.adapt.optim.steps * dec.adapt.optim.batch * _passage(
        cfg
    )
    return Task("decoder", "decoder", cfg, shape=("decoder",), cost=_weight(cfg, dec.model) * steps)


def base_task(cfg: Config) -> Task:
    family, size = cfg.compressor.split("/")
    cost = _weight(cfg, grid.model(cfg)) * _tokens(cfg.pretrain)
    name = f"{family}-{size}-b{cfg.base_seed}"
    return Task(name, "base", cfg, shape=("base", family, size), cost=cost)


def _job_task(job: grid.Job, made: Collection[str]) -> Task:
    cfg, optim = job.config, job.config.train.optim
    weight = _weight(cfg, grid.model(cfg)) + _weight(cfg, cfg.decoder.model)
    # Rebuilding is token by token, so a passage of evaluation costs about as much as several of
    # training.
    passages = optim.steps * optim.batch + 10 * cfg.data.eval_passages
    needs = tuple(n for n in ("decoder", job.base) if n in made)
    cost = weight * passages * _passage(cfg)
    return Task(job.id, "job", cfg, needs, ("job", *job.setup), cost, job)


def _weight(cfg: Config, model: ModelConfig) -> float:
    vocab = model.vocab_size or cfg.data.vocab_size
    return grid.body(model) + model.hidden_size * vocab


def _tokens(cfg: PretrainConfig) -> int:
    return cfg.optim.steps * cfg.optim.batch * cfg.seq_len


def _passage(cfg: Config) -> int:
    return cfg.data.segment * cfg.data.segments + cfg.data.target


def make(task: Task, root: Path, command: str, say: Say | None) -> Path:
    """Pretrain a base, or pretrain and adapt the decoder, under `root`; resumes."""
    from jaxcomp.training.adapt_decoder import adapt_decoder
    from jaxcomp.training.pretrain import pretrain_base

    cfg = task.config
    if task.what == "decoder":
        return adapt_decoder(cfg, root, command=command, say=say)
    family, size = cfg.compressor.split("/")
    return pretrain_base(cfg, family, size, cfg.base_seed, root, command=command, say=say)


def _run_job(task: Task, workdir: Path, command: str, say: Say) -> dict[str, Any]:
    from jaxcomp.training.compressor import train
    from jaxcomp.training.loop import Diverged

    cfg, folder = task.config, workdir / "jobs" / task.id
    began = time.perf_counter()
    try:
        summary = train(
            cfg,
            folder,
            root=workdir,
            command=command,
            say=lambda text, share: say(text, TRAIN_SHARE * share),
        )
    except Diverged as error:
        if task.job is None or task.job.recipe:
            raise
        # Of a rate grid, to diverge is a finding: this rate is not the best.
        return {"metrics": {"val_loss": None}, "note": str(error)}
    trained = time.perf_counter()
    say("evaluating", TRAIN_SHARE)
    metrics, records = measure(cfg, folder)
    metrics |= {
        "params": summary["parameters_compressor"],
        "params_body": grid.body(grid.model(cfg)),
        **{name: summary.get(key) for key, name in FROM_TRAINING.items()},
    }
    distributed.by_lead(lambda: _keep_last(folder / "checkpoints", cfg.train.optim.steps))
    loss, kept = endpoints(cfg)
    shown = [(h.label, metrics.get(h.metric)) for h in (loss, kept)]
    return {
        "metrics": finite(metrics),
        "intervals": intervals(records, metrics, [h.metric for h in headlines(cfg)]),
        "timings": {
            "train_s": round(trained - began, 3),
            "evaluate_s": round(time.perf_counter() - trained, 3),
        },
        "note": ", ".join(f"{name} {value:.3f}" for name, value in shown if value is not None),
    }


def measure(
    cfg: Config, folder: Path, ratio: int = 0, **moved: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluate the finished run in `folder` as `cfg.eval` says; writes passages.jsonl there. At
    another `ratio` that it was trained at it writes passages-r<ratio>.jsonl. `moved`: as in
    `open_run`.

    Returns the flat metrics of the metrics page and one record a passage.
    """
    from jaxcomp.evals import knowledge
    from jaxcomp.evals.evaluate import evaluate
    from jaxcomp.inference.load import open_run
    from jaxcomp.runtime.sharding import use_mesh
    from jaxcomp.training.compressor import load_run, tokenizers
    from jaxcomp.training.loop import mesh_for
    from jaxcomp.training.ratio_schedule import at_ratio, suffix_at

    own, root = open_run(folder, **moved)
    cfg = dataclasses.replace(own, eval=cfg.eval)
    with use_mesh(mesh_for(cfg)):
        model = load_run(cfg, folder)
        toks = tokenizers(cfg, root)
        found = evaluate(at_ratio(cfg, ratio), model, *toks)
        known = knowledge.of_pair(own, model, toks)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in found.passages]
    file = folder / f"passages{suffix_at(cfg, ratio)}.jsonl"
    distributed.by_lead(lambda: write_text(file, "".join(lines)))
    return found.metrics | known, found.passages


def _keep_last(checkpoints: Path, last: int) -> None:
    """Only the final step is needed after evaluation."""
    for step in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if step.name.isdigit() and int(step.name) < last:
            paths.rmtree(step)
