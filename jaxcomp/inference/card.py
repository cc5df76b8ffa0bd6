"""The model card (README.md) of an exported compressor."""

from __future__ import annotations

from typing import Any

from jaxcomp.inference.format import ADAPTER, FULL, About
from jaxcomp.models.hub import is_id
from jaxcomp.training.manifest import Weights

# Metrics of one kind that a card shows.
_SHOWN = ("facts/all/preserved", "no_memory/loss")
_TEXT = """\
---
library_name: jaxcomp
{front}tags:
- context-compression
- jaxcomp
---

# Soft context compressor {name}, ratio {ratio}

Writes a text into vectors, one for {ratio} tokens, that the decoder named below rebuilds,
continues and answers from. Made by jaxcomp.

{rows}

```python
import jaxcomp

c = jaxcomp.load("THIS_FOLDER")
memory = c.compress(["The white strawberry lay on the table."])
print(c.reconstruct(memory))
```

## What survives

{fidelity}
"""


def text(about: About) -> str:
    """The card of an exported folder."""
    memory, data, train = (about.config[k] for k in ("memory", "data", "train"))
    lora, optim = memory["lora"], train["optim"]
    tuned = f"all weights (`{FULL}/`, a Hugging Face folder)"
    tuned = {
        "last_layer": f"last layer, memory tokens, connector and markers (all of it: `{FULL}/`)",
        "connector": f"connector and markers; the tower is the base model (`{FULL}/`)",
    }.get(memory.get("trained", ""), tuned)
    if lora["rank"]:
        tuned = (
            f"LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g} "
            f"(`{ADAPTER}/`, a PEFT folder)"
        )
    rows = {
        "compressor": f"{about.name}, from {_origin(about.base)}",
        "trained": tuned,
        "decoder (frozen)": _origin(about.decoder),
        "recipe": f"`{memory['recipe']}`, memory kind `{memory['kind']}`, positions "
        f"`{memory['positions']}`",
        "nominal ratio": f"{memory['ratio']} compressor tokens a memory vector; segments of "
        f"{data['segment']} tokens, {data['segments']} an example",
        "data": _data(about.config),
        "objective": f"{train['objective']}, reconstruction {train['p_reconstruct']:g}",
        "optimiser": f"AdamW, rate {optim['lr']:g}, {optim['steps']} steps of {optim['batch']} "
        f"texts; {about.summary['tokens']:,} decoder tokens of targets seen",
        "seeds": ", ".join(f"{k} {v}" for k, v in about.seeds.items()),
        "config hash": f"`{about.compressor}`",
        "made with": ", ".join(f"{k} {v}" for k, v in about.versions.items()),
    }
    base = about.base.source
    return _TEXT.format(
        front=f"base_model: {base}\n" if is_id(base) else "",
        name=about.name,
        ratio=memory["ratio"],
        rows=_table(["", ""], rows.items()),
        fidelity=_fidelity(about.metrics, about.summary),
    )


def _table(head: list[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _origin(weights: Weights) -> str:
    """A model's name and revision; of a folder on somebody's disk only its last name."""
    name = weights.source
    shown = name.rsplit("/", 1)[-1] if name.startswith("/") else name
    revision = f" at `{weights.revision}`" if weights.revision else ""
    known = weights.identity.get("config_hash") or "; ".join(weights.identity["files"])
    return f"`{shown}`{revision} (`{known}`)"


_WORLDS = {"world": "the controlled world", "people": "the people world"}


def _data(config: dict[str, Any]) -> str:
    data = config["data"]
    if data["source"] in _WORLDS:
        world = config[data["source"]]
        priors = f"{world['train_prior_strength']:g}"
        return f"{_WORLDS[data['source']]}, seed {world['seed']}, training priors {priors}"
    return f"`{data['tfds_name'] or data['path']}` ({data['source']}), seed {data['seed']}"


def _fidelity(metrics: dict[str, Any], summary: dict[str, Any]) -> str:
    """Every metric that is one of each held-out set, and `_SHOWN`."""
    sets = [s for s, _, name in (key.partition("/") for key in metrics) if name == "loss"]
    if not sets:
        loss = summary.get("val_loss")
        found = f"{loss:.4f} nats a token" if loss is not None else "none"
        return (
            "Not measured (`jaxcomp eval` had not been run). Reconstruction loss on the validation "
            f"set, teacher-forced: {found}."
        )
    names = {name.partition("/")[2] for name in metrics if name.partition("/")[0] in sets}
    shown = [n for n in sorted(names) if "/" not in n or n in _SHOWN]
    rows = [[n, *(_number(metrics.get(f"{s}/{n}")) for s in sets)] for n in shown]
    table = _table(["metric", *sets], rows)
    return f"{table}\n\nDefinitions: python -m jaxcomp.analysis.metrics_page."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
