"""The size-fidelity sweep on real text, with edit survival in place of the world's slots.

`configs/text.py:path=FILE`: a .jsonl[.gz] (field "text"), .parquet or .txt file, or a glob. A byte
pair tokenizer is trained on it and cached. Differs from configs/tiny.py in the data, and in that
its base models and its decoder are pretrained on that text first, which takes most of the time.
"""

from ml_collections import ConfigDict

from jaxcomp.settings import parse_arg


def shape(width: int, layers: int) -> dict:
    """Heads of 16, half as many for keys and values, an MLP of three widths."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 32,
        "head_dim": 16,
        "intermediate_size": 3 * width,
        "max_position_embeddings": 256,
    }


def optim(steps: int, lr: float) -> dict:
    return {"steps": steps, "batch": 32, "lr": lr, "warmup": 100, "final_lr": 0.05}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, path="", field="text")
    return ConfigDict(
        {
            "name": "text",
            "families": {"llama": {"s": shape(64, 2), "m": shape(96, 3), "l": shape(128, 4)}},
            "data": {
                "source": "text",
                "path": given.path,
                "text_field": given.field,
                "vocab_size": 2048,
                "segment": 64,
                "target": 80,
            },
            "pretrain": {"optim": optim(2000, 2e-3)},
            "decoder": {
                "model": shape(128, 3),
                "reference": shape(96, 2),  # a size outside the grid
                "pretrain": {"optim": optim(2000, 2e-3)},
                "adapt": {
                    "optim": optim(4000, 1e-3),
                    "curriculum": (1, 2),
                    "ratios": (1, 4, 16, 64),
                    "p_reconstruct": 0.8,
                },
            },
            "memory": {"marker_steps": 100},
            "train": {"optim": optim(1500, 1e-3), "p_reconstruct": 0.8},
            "sweep": {"ratios": (4, 16, 64), "primary_ratio": 16},
        }
    )
