"""Greedy decoding of a Hugging Face folder: ours beside `transformers.generate`, on CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.config import MeshConfig
from jaxcomp.models import hf
from jaxcomp.models.generate import generate
from jaxcomp.runtime.sharding import make_mesh, put_batch, use_mesh
from tests.benchmarks.fixture import BenchError, Times, interleaved

PREFIX = 32  # tokens of each prompt


class Decoding(NamedTuple):
    """`same`: the share of tokens that both chose, of `tokens` in all (where two are nearly as
    likely, the order of additions decides, and the rest of that row differs)."""

    times: dict[str, Times]
    same: float
    tokens: int


def measure(folder: Path, batch: int, new: int, repeats: int) -> Decoding:
    """Both decode `new` tokens after `batch` prompts of PREFIX tokens in float32, no row ending
    early. Prompts are tokens drawn at random: rates do not depend on them.

    Raises BenchError without PyTorch, or where the two do not agree on the first token of every
    row.
    """
    cfg = hf.read_config(folder)
    tok_BP = np.random.default_rng(0).integers(0, cfg.vocab_size, (batch, PREFIX), np.int32)
    theirs = _transformers(folder, tok_BP, new)
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    with use_mesh(mesh):
        model = hf.load(folder)
        put = put_batch(tok_BP, mesh)
        pos_BP = put_batch(np.broadcast_to(np.arange(PREFIX, dtype=np.int32), tok_BP.shape), mesh)
        seg_BP, start_B = jnp.ones_like(pos_BP), pos_BP[:, -1] + 1
        embed = jax.jit(type(model).embed)

        def ours() -> np.ndarray:
            out = generate(
                model, embed(model, put), pos_BP, seg_BP, start_B, max_new=new, eos_id=-1
            )
            return np.asarray(out.tok_BL)

        mine, other = ours(), theirs()
        if (mine[:, 0] != other[:, 0]).any():
            raise BenchError(f"first tokens differ: ours {mine[:, 0]}, theirs {other[:, 0]}")
        times = interleaved({"ours": ours, "transformers": theirs}, repeats)
    return Decoding(times, float(np.mean(mine == other)), mine.size)


def _transformers(folder: Path, tok_BP: np.ndarray, new: int) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import torch  # pyright: ignore[reportMissingImports]  # optional: the extra `bench`
    except ImportError as error:
        raise BenchError("this needs PyTorch: uv run --extra bench jaxcomp bench") from error
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0)
    tok = torch.from_numpy(tok_BP.astype(np.int64))

    def run() -> np.ndarray:
        with torch.inference_mode():
            out = model.generate(tok, attention_mask=torch.ones_like(tok))
        return out[:, PREFIX:].numpy()

    return run
