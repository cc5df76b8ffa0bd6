"""The compressor card: a model card (README.md) that says what an exported compressor is."""

from __future__ import annotations

from typing import Any

from jaxcomp.inference.format import ADAPTER, FULL
from jaxcomp.models.hub import is_id

# Metric of the metrics page, without its set -> what the card calls it.
_SHOWN = {
    "loss": "loss, nats a token (teacher-forced)",
    "bits_per_byte": "bits a byte (teacher-forced)",
    "tf_accuracy": "tokens right, teacher-forced",
    "fr_accuracy": "tokens rebuilt, free-running greedy",
    "exact_match": "texts rebuilt exactly",
    "bleu": "BLEU (sacrebleu 13a, 0-100)",
    "rouge_l": "ROUGE-L F1 (0-1)",
    "facts/all/preserved": "facts kept",
    "overwriting": "facts overwritten by the prior's favourite",
    "drift": "facts swapped",
    "tokens_per_vector": "decoder tokens a memory vector",
    "text_bytes_per_memory_byte": "bytes of text a byte of memory",
}
_SETS = ("test", "ordinary", "counterfactual")


def text(about: dict[str, Any]) -> str:
    """The card of an exported folder from its jaxcomp.json."""
    memory, data, train = (about["config"][k] for k in ("memory", "data", "train"))
    lora = memory["lora"]
    tuned = (
        f"LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g} "
        f"(`{ADAPTER}/`, a PEFT folder)"
        if lora["rank"]
        else f"all weights (`{FULL}/`, a Hugging Face folder)"
    )
    optim, summary = train["optim"], about["summary"]
    rows = {
        "compressor": f"{about['name']}, from {_origin(about['base'])}",
        "trained": tuned,
        "decoder (frozen)": _origin(about["decoder"]),
        "recipe": f"`{memory['recipe']}`, memory kind `{memory['kind']}`, positions "
        f"`{memory['positions']}`",
        "nominal ratio": f"{memory['ratio']} compressor tokens a memory vector; segments of "
        f"{data['segment']} tokens, {data['segments']} an example",
        "data": _data(about["config"]),
        "objective": f"{train['objective']}, reconstruction {train['p_reconstruct']:g}",
        "optimiser": f"AdamW, rate {optim['lr']:g}, {optim['steps']} steps of {optim['batch']} "
        f"texts; {summary['tokens']:,} decoder tokens of targets seen",
        "seeds": ", ".join(f"{k} {v}" for k, v in about["seeds"].items()),
        "config hash": f"`{about['compressor']}`",
        "made with": ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(
        [
            *_front(about, bool(lora["rank"])),
            f"# Soft context compressor {about['name']}, ratio {memory['ratio']}",
            "",
            f"Writes a text into vectors, one for {memory['ratio']} tokens, that the decoder named "
            "below rebuilds,",
            "continues and answers from. Made by jaxcomp.",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            "```python",
            "import jaxcomp",
            "",
            'c = jaxcomp.load("THIS_FOLDER")',
            'memory = c.compress(["The white strawberry lay on the table."])',
            "print(c.reconstruct(memory))",
            "```",
            "",
            "## What survives",
            "",
            *_fidelity(about["metrics"], summary),
            "",
        ]
    )


def _front(about: dict[str, Any], lora: bool) -> list[str]:
    """The YAML head that the Hugging Face hub reads."""
    base = about["base"]["source"]
    named = [f"base_model: {base}"] if is_id(base) else []
    tags = ["- context-compression", "- jaxcomp", *(["- lora", "- peft"] if lora else [])]
    return ["---", "library_name: jaxcomp", *named, "tags:", *tags, "---", ""]


def _origin(source: dict[str, Any]) -> str:
    """A model's name and revision; of a folder on somebody's disk only its last name."""
    name = source["source"]
    shown = name.rsplit("/", 1)[-1] if name.startswith("/") else name
    revision = f" at `{source['revision']}`" if source.get("revision") else ""
    known = source["identity"].get("config_hash") or "; ".join(source["identity"]["files"])
    return f"`{shown}`{revision} (`{known}`)"


def _data(config: dict[str, Any]) -> str:
    data = config["data"]
    if data["source"] == "world":
        return f"the controlled world, seed {config['world']['seed']}, training priors " + (
            f"{config['world']['train_prior_strength']:g}"
        )
    return f"`{data['tfds_name'] or data['path']}` ({data['source']}), seed {data['seed']}"


def _fidelity(metrics: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    sets = [s for s in _SETS if f"{s}/loss" in metrics]
    if not sets:
        loss = summary.get("val_loss")
        found = f"{loss:.4f} nats a token" if loss is not None else "none"
        return [
            "Not measured (`jaxcomp eval` had not been run). Reconstruction loss on the validation "
            f"set, teacher-forced: {found}."
        ]
    head = [f"| held-out text | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    rows = []
    for key, label in _SHOWN.items():
        values = [metrics.get(f"{s}/{key}") for s in sets]
        if any(v is not None for v in values):
            rows.append(f"| {label} | {' | '.join(map(_number, values))} |")
    floors = [metrics.get(f"{s}/no_memory/loss") for s in sets]
    rows.append(f"| loss of the decoder without memory | {' | '.join(map(_number, floors))} |")
    counts = ", ".join(f"{s}: {metrics[f'{s}/passages']}" for s in sets)
    return [
        *head,
        *rows,
        "",
        f"Passages: {counts}. Definitions: python -m jaxcomp.analysis.metrics_page.",
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
