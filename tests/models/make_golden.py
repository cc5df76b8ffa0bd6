"""Records what transformers computes, for tests that run without it.

    uv sync --extra bench        # torch
    .venv/bin/python tests/models/make_golden.py [CASE ...]

Without names it makes every case of golden_cases.py, and smollm2-135m where its assets are. A tiny
model is random (seeded, every parameter away from its start, so that it matters), stored in
bfloat16 and computed in float32 from the stored values.
"""

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers
from golden_cases import (
    CASES,
    GOLDEN,
    LENGTHS,
    NEW,
    SIDES,
    SMOLLM2,
    SMOLLM2_GOLDEN,
    SPELLINGS,
    Golden,
    one_line_each,
    padded,
    respelled,
    write,
)

# A smaller lead of a greedy token over the next best is too near to a tie to be recorded: ten times
# what the test of logits allows, of the largest logit.
LEAD = 1e-4


def make(name: str, folder: Path, seed: int = 0) -> tuple[Golden, int]:
    """Writes the random model of a case to `folder` as transformers does; returns its record and
    seed, the first from `seed` on whose greedy tokens are all clear."""
    while True:
        golden, lead = _make(name, folder, seed)
        if lead >= LEAD * np.abs(golden.logits["left"]).max():
            return golden, seed
        seed += 1


def _make(name: str, folder: Path, seed: int) -> tuple[Golden, float]:
    config, rng = CASES[name], np.random.default_rng(seed)
    vision = "text_config" in config
    vocabulary = (config["text_config"] if vision else config)["vocab_size"]
    cfg = transformers.AutoConfig.for_model(**config)
    auto: Any = transformers.AutoModelForCausalLM
    if vision:
        auto = transformers.AutoModelForImageTextToText
    model = auto.from_config(cfg, dtype=torch.bfloat16)
    for parameter_name, parameter in sorted(model.named_parameters()):
        # Gemma adds the one itself.
        one = parameter_name.endswith("norm.weight") and "gemma" not in config["model_type"]
        around = 1.0 if one else 0.0
        value = rng.normal(around, 0.3, tuple(parameter.shape)).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(value))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    (folder / "model.safetensors").chmod(0o644)
    rows = [rng.integers(0, vocabulary, length).tolist() for length in LENGTHS]
    (first, lead), (second, _) = (_record(auto, folder, config, s, rows) for s in SPELLINGS)
    for side in SIDES:  # transformers reads both spellings alike
        np.testing.assert_array_equal(first.logits[side], second.logits[side])
    _write_config(folder, config)
    return first, lead


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _record(
    auto: Any, folder: Path, config: dict[str, Any], spelling: str, rows: list[list[int]]
) -> tuple[Golden, float]:
    """The record with the config so spelled, and the least lead of a greedy token."""
    _write_config(folder, respelled(config, spelling))
    model = read(auto, folder)
    logits = {side: _logits(model, padded(rows, side)) for side in SIDES}
    greedy_BL, lead_BL = greedy(model, rows, NEW)
    return Golden(rows, logits, greedy_BL), float(lead_BL.min())


def read(auto: Any, folder: Path) -> Any:
    """transformers' model in float32, its attention in plain float32 operations."""
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def logits_of(folder: Path, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Of a folder's language model, by the side of the padding."""
    model = read(transformers.AutoModelForCausalLM, folder)
    return {side: _logits(model, padded(rows, side)) for side in SIDES}


def _logits(model: Any, batch: tuple[np.ndarray, ...]) -> np.ndarray:
    tok, pos, seg = (torch.from_numpy(x.astype(np.int64)) for x in batch)
    with torch.no_grad():
        out = model(input_ids=tok, attention_mask=seg, position_ids=pos)
    return out.logits.numpy()[batch[2] > 0]


def greedy(model: Any, rows: list[list[int]], max_new: int) -> tuple[np.ndarray, np.ndarray]:
    """Of transformers' cached generation after each row, without an end token: the tokens, and the
    lead of each one's logit over the next best."""
    tok, _, seg = (torch.from_numpy(x.astype(np.int64)) for x in padded(rows, "left"))
    # A fresh one, for that of the model may know an end token.
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    out = model.generate(
        input_ids=tok,
        attention_mask=seg,
        max_new_tokens=max_new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    two = torch.stack(out.logits, 1).topk(2).values
    new_BL = out.sequences[:, tok.shape[1] :].numpy().astype(np.int32)
    return new_BL, (two[..., 0] - two[..., 1]).numpy()


def note() -> dict[str, Any]:
    return {
        "made_by": "tests/models/make_golden.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
    }


def make_tiny(name: str) -> None:
    golden, seed = make(name, GOLDEN / name)
    write(golden, GOLDEN / name, note() | {"seed": seed})


def make_smollm2() -> None:
    """Loss and greedy tokens of the real model, of the text and prompts that the record holds."""
    record = json.loads(SMOLLM2_GOLDEN.read_text(encoding="utf-8"))
    model = read(transformers.AutoModelForCausalLM, SMOLLM2)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(SMOLLM2)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    text, prompts = encode(record["text"]), [encode(p) for p in record["prompts"]]
    logp = torch.from_numpy(_logits(model, padded([text], "left"))).double().log_softmax(-1)
    greedy_BL, lead_BL = greedy(model, prompts, 64)
    # Seven times the largest difference of a logit found between the two computations (1.5e-4).
    if lead_BL.min() < 1e-3:
        sys.exit(f"a prompt meets a near tie ({lead_BL.min(1)}): put another in its place")
    weights = (SMOLLM2 / "model.safetensors").read_bytes()
    record |= {
        "note": note() | {"model_sha256": hashlib.sha256(weights).hexdigest()},
        "text_ids": text,
        "prompt_ids": prompts,
        "loss": float(-logp[torch.arange(len(text) - 1), torch.tensor(text[1:])].mean()),
        "greedy": greedy_BL.tolist(),
        "least_lead": [round(float(x), 6) for x in lead_BL.min(1)],
    }
    SMOLLM2_GOLDEN.write_text(one_line_each(record), encoding="utf-8")


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    todo: dict[str, Callable[[], None]] = {n: functools.partial(make_tiny, n) for n in CASES}
    if SMOLLM2.is_dir():
        todo["smollm2-135m"] = make_smollm2
    for name in sys.argv[1:] or todo:
        if name not in todo:
            sys.exit(f"{name!r} is no case; expected some of {', '.join(todo)}")
        todo[name]()
        print(name)


if __name__ == "__main__":
    main()
