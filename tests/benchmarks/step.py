"""Training: the compressor's update step, ours and the same of transformers' models in PyTorch."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jaxcomp.compress.autoencoder import trainable_filter
from jaxcomp.config import Config
from jaxcomp.data.batches import train_batches
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.runtime.sharding import make_mesh, put_batch, use_mesh
from jaxcomp.training.compressor import pair
from jaxcomp.training.loss import objective_of
from jaxcomp.training.optim import StepSpec, init_state, split_model, split_optim, train_step
from tests.benchmarks.fixture import BenchError, Measured, has_torch, interleaved

SAME = 1e-4  # nats by which the two implementations' losses may differ
CHECKED = 3  # updates whose loss is compared


def measure(cfg: Config, repeats: int, threads: int = 0) -> Measured:
    """Rate of updates at the config's shapes (`cfg` from `with_weights`), in tokens that are not
    padding, both towers'. The reference is absent without PyTorch.

    threads: of PyTorch; 0 leaves it its default. XLA's are fixed when the process starts.
    Raises BenchError for a config with LoRA, or where the two steps do not compute the same loss.
    """
    usual = not cfg.memory.lora.rank and cfg.data.segments == 1 and cfg.train.objective == "coin"
    if not usual or cfg.memory.recipe != "pcc" or cfg.memory.positions != "spread":
        raise BenchError(
            "step compares the default recipe alone: set memory.lora.rank=0, data.segments=1, "
            "train.objective=coin, memory.recipe=pcc and memory.positions=spread"
        )
    comp, dec = Path(cfg.folders[cfg.compressor]), Path(cfg.folders["decoder"])
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    with use_mesh(mesh):
        model = pair(cfg, comp, dec)
        batch = put_batch(next(train_batches(cfg, load_tokenizer(comp), load_tokenizer(dec))), mesh)
        layout, trained, frozen = split_model(model, trainable_filter(cfg.train, cfg.memory))
        arrays = {name: np.array(x) for name, x in (trained | frozen).items()}
        objective = objective_of(cfg.train, cfg.memory.ratio)
        adam, schedule = split_optim(cfg.train.optim)
        spec = StepSpec(layout, objective, adam)
        state = init_state(trained, adam)

        def ours() -> float:
            nonlocal state
            state, metrics = train_step(spec, state, frozen, batch, schedule, None)
            return float(metrics["loss"])

        runs = {"ours": ours}
        if has_torch():
            from tests.benchmarks.torch_step import Step

            unit = model.compressor.connector.unit
            theirs = Step(cfg, comp, dec, arrays, jax.device_get(batch), unit, threads).step
            losses = [(ours(), theirs()) for _ in range(CHECKED)]
            if max(abs(a - b) for a, b in losses) > SAME:
                raise BenchError(f"PyTorch's step is not ours: losses (ours, theirs) {losses}")
            runs["PyTorch"] = theirs
        return Measured(int(objective.tokens(batch)), "tokens", interleaved(runs, repeats))
