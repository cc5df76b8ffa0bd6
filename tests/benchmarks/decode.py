"""Greedy decoding of a Hugging Face folder: ours and `transformers.generate`, on CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.config import MeshConfig
from jaxcomp.models import hf
from jaxcomp.models.generate import generate
from jaxcomp.runtime.sharding import make_mesh, put_batch, use_mesh
from tests.benchmarks.fixture import BenchError, Measured, has_torch, interleaved

PREFIX = 32  # tokens of each prompt


def measure(folder: Path, repeats: int, batch: int = 16, new: int = 32) -> Measured:
    """Both decode `new` tokens after `batch` prompts of PREFIX random tokens in float32, no row
    ending early. The reference is absent without PyTorch.

    The note gives the share of tokens that both chose: where two are nearly as likely, the order
    of additions decides. Raises BenchError where the first tokens of the rows differ.
    """
    cfg = hf.read_config(folder)
    tok_BP = np.random.default_rng(0).integers(0, cfg.vocab_size, (batch, PREFIX), np.int32)
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    with use_mesh(mesh):
        model = hf.load(folder)
        put = put_batch(tok_BP, mesh)
        pos_BP = put_batch(np.broadcast_to(np.arange(PREFIX, dtype=np.int32), tok_BP.shape), mesh)
        seg_BP, start_B = jnp.ones_like(pos_BP), pos_BP[:, -1] + 1
        embed = jax.jit(type(model).embed)

        def ours() -> np.ndarray:
            x_BPD = embed(model, put)
            out = generate(model, x_BPD, pos_BP, seg_BP, start_B, max_new=new, eos_id=-1)
            return np.asarray(out.tok_BL)

        runs, note = {"ours": ours}, ""
        if has_torch():
            runs["transformers"] = _transformers(folder, tok_BP, new)
            mine, other = (run() for run in runs.values())
            if (mine[:, 0] != other[:, 0]).any():
                raise BenchError(f"first tokens differ: ours {mine[:, 0]}, theirs {other[:, 0]}")
            note = f"the same token: {np.mean(mine == other):.1%} of {mine.size}"
        return Measured(batch * new, "tokens", interleaved(runs, repeats), note)


def _transformers(folder: Path, tok_BP: np.ndarray, new: int) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch  # pyright: ignore[reportMissingImports]  # optional: the extra `bench`
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0)
    tok = torch.from_numpy(tok_BP.astype(np.int64))

    def run() -> np.ndarray:
        with torch.inference_mode():
            out = model.generate(tok, attention_mask=torch.ones_like(tok))
        return out[:, PREFIX:].numpy()

    return run
