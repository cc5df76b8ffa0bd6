"""Runs of several processes on this machine: tiny weights, the config of a run, starting, waiting.

The processes are real: `python -m jaxcomp` as a user types it, over localhost, with fake CPU
devices. They share one compilation cache, since they compile far more than they compute.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import HANGS_S, mesh_of
from flax import nnx

from jaxcomp.config import Config, ModelConfig
from jaxcomp.data.batches import tokenizer_folder
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.models import hf
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import use_mesh

CONFIG = """
def get_config(arg):
    optim = {"steps": 6, "batch": 8, "warmup": 1}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    return {
        "families": {"toy": {"s": {**shape, **heads, "vocab_size": VOCAB}}},
        "folders": {"decoder": "WEIGHTS/decoder", "toy/s": "WEIGHTS/base"},
        "compressor": "toy/s",
        "data": {
            "segment": 16, "target": 24,
            "train_passages": 64, "eval_passages": 4, "val_passages": 4,
        },
        "pretrain": {"optim": optim, "seq_len": 48},
        "memory": {"ratio": 4, "marker_steps": 2},
        "train": {"optim": optim, "checkpoint_every": 4, "log_every": 1},
        "eval": {"batch": 4, "samples": 0},
        "sweep": {"ratios": [4], "seeds": [0, 1], "workers": 1},
    }
"""


def make_weights(folder: Path) -> Path:
    """Writes base and decoder, untrained, and the config; returns the config's file."""
    source = Path(tokenizer_folder(Config()))
    vocab = -(-load_tokenizer(source).vocab_size // 8) * 8
    shape = ModelConfig(
        vocab_size=vocab,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        intermediate_size=16,
    )
    with use_mesh(mesh_of((1, 1, 1))):
        for seed, name in enumerate(("base", "decoder")):
            hf.save(Transformer(shape, rngs=nnx.Rngs(seed)), folder / name, dtype="float32")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / name / file).write_bytes((source / file).read_bytes())
    config = folder / "toy.py"
    config.write_text(CONFIG.replace("WEIGHTS", str(folder)).replace("VOCAB", str(vocab)))
    return config


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class Processes:
    """`count` processes of one command, each with its share of `devices` fake CPU devices."""

    def __init__(self, args, count=1, devices=8, *, folder: Path, each=None, **env):
        self.logs, self.running = [], []
        address = f"localhost:{free_port()}"
        for i in range(count):
            more = {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices // count),
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                **{name: str(value) for name, value in env.items()},
            }
            if count > 1:
                more |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAXCOMP_PROCESSES": str(count),
                    "JAXCOMP_PROCESS": str(i),
                }
            if each is not None:
                more |= each(i)
            self.start(args, folder, more)

    def start(self, args, folder, env):
        log = folder / f"log-{time.monotonic_ns()}.txt"
        self.logs.append(log)
        with log.open("w") as file:
            self.running.append(
                subprocess.Popen(
                    [sys.executable, *args], env=os.environ | env, stdout=file, stderr=file
                )
            )

    def text(self, i: int) -> str:
        return self.logs[i].read_text()

    def error(self, i: int) -> str:
        """The one error line of process i."""
        lines = [x for x in self.text(i).splitlines() if x.startswith("jaxcomp: error")]
        assert len(lines) == 1, self.text(i)
        return lines[0]

    def wait(self, seconds: float = HANGS_S) -> list[int]:
        """Exit codes."""
        end = time.monotonic() + seconds
        return [p.wait(max(0.1, end - time.monotonic())) for p in self.running]

    def ok(self, seconds: float = HANGS_S) -> "Processes":
        codes = self.wait(seconds)
        shown = "\n".join(self.text(i) for i in range(len(codes)))
        assert codes == [0] * len(codes), f"{codes}\n{shown}"
        return self

    def until(self, condition, seconds: float = HANGS_S) -> None:
        end = time.monotonic() + seconds
        while not condition():
            ended = [p.poll() for p in self.running]
            well = time.monotonic() < end and ended == [None] * len(ended)
            assert well, [self.text(i) for i in range(len(ended))]
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.running:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()


def cli(*args):
    return ["-m", "jaxcomp", *map(str, args)]


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
