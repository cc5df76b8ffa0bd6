"""`python tests/sweep/plan/shrunk.py OUTDIR [STEP ...]` compiles the training step of a shrunk
setup of the paper for TPU v5e, 4 chips, and writes the compiled program: OUTDIR/<step>.hlo.

Needs libtpu, no TPU. A step is a mesh, written 1x4x1, and what it has that others have not: an
offload of layer inputs, a `long` compilation (that of users), a `deep` decoder of twice the layers.
LoRA dropout is off: it moves nothing, and compiling its generators takes as long as the rest.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from jaxcomp.config import Config, ModelConfig

MESHES = ((1, 4, 1), (1, 2, 2), (2, 2, 1))
OFFLOAD = "1x4x1-offload"
LONG, DEEP = "4x1x1-long", "4x1x1-long-deep"
ACCUMULATE = 2  # micro-batches of a step
ROWS = 24  # examples of a step
SEGMENT, RATIO, TARGET, CHUNK = 256, 16, 320, 64
RANK = 32
# Half the time, and nothing asynchronous; what moves is decided before these passes.
QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
COMPRESSOR = ModelConfig(
    model_type="qwen3",
    vocab_size=2048 * 3,
    hidden_size=256,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=128,
    intermediate_size=768,
)
DECODER = ModelConfig(
    vocab_size=2048 * 5,
    hidden_size=512,
    num_hidden_layers=4,
    num_attention_heads=12,
    num_key_value_heads=4,
    head_dim=128,
    intermediate_size=1280,
    tie_word_embeddings=False,
)


def config() -> Config:
    """`configs/paper.py` with small towers and a small batch; all else is the paper's."""
    from jaxcomp.cli import overrides

    paper = Path(__file__).parents[3] / "configs" / "paper.py"
    cfg = overrides.load(f"{paper}:family=qwen3,size=0.6B,ratio={RATIO}")
    put = dataclasses.replace
    optim = put(cfg.train.optim, batch=ROWS, accumulate=ACCUMULATE)
    return put(
        cfg,
        families={"qwen3": {"0.6B": COMPRESSOR}},
        decoder=put(cfg.decoder, model=DECODER),
        data=put(cfg.data, segment=SEGMENT, target=TARGET),
        memory=put(cfg.memory, lora=put(cfg.memory.lora, rank=RANK, dropout=0.0)),
        train=put(cfg.train, optim=optim, loss_chunk=CHUNK),
    )


def name_of(mesh: tuple[int, ...]) -> str:
    return "x".join(map(str, mesh))


STEPS = (*map(name_of, MESHES), OFFLOAD, LONG, DEEP)


def main(out: Path, steps: list[str]) -> None:
    from jax.experimental import topologies

    from jaxcomp.config import MeshConfig
    from jaxcomp.runtime.sharding import make_mesh
    from jaxcomp.sweep.plan import programs

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    for step in steps:
        shape, *special = step.split("-")
        cfg, put = config(), dataclasses.replace
        if "offload" in special:
            cfg = put(cfg, train=put(cfg.train, remat="offload"))
        if "deep" in special:
            twice = put(DECODER, num_hidden_layers=2 * DECODER.num_hidden_layers)
            cfg = put(cfg, decoder=put(cfg.decoder, model=twice))
        mesh = make_mesh(MeshConfig(*map(int, shape.split("x"))), devices)
        traced = programs.train_program(cfg, mesh, programs.abstract_pair(cfg, mesh))
        options = None if "long" in special else QUICK
        compiled = traced.lower(lowering_platforms=("tpu",)).compile(compiler_options=options)
        (out / f"{step}.hlo").write_text(compiled.as_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(STEPS))
