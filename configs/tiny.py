"""The size-fidelity sweep on the controlled world, on a laptop.

`configs/tiny.py`: one family, 3 sizes x 3 ratios, one seed, minutes on 2 cores.
`configs/tiny.py:full`: two families (qwen normalises queries and keys), 4 + 5 sizes x 3 ratios = 27
setups, the paper's shape in miniature, 3 base seeds each, and learning rates tuned per size.
Both start from the base models and the decoder shipped in `jaxcomp/assets`.
"""

from ml_collections import ConfigDict

from jaxcomp.settings import parse_arg


def shape(width: int, layers: int, model_type: str = "llama") -> dict:
    """Heads of 16, half as many for keys and values, an MLP of two widths."""
    return {
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 32,
        "head_dim": 16,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 256,
    }


LLAMA = {"xs": (32, 1), "s": (32, 2), "m": (64, 2), "l": (96, 3)}
QWEN = {"xs": (32, 1), "s": (32, 3), "m": (64, 2), "l": (64, 4), "xl": (96, 4)}


def optim(steps: int, lr: float, warmup: int = 100) -> dict:
    return {"steps": steps, "batch": 16, "lr": lr, "warmup": warmup, "final_lr": 0.05}


def get_config(arg: str = "") -> ConfigDict:
    full = parse_arg(arg, full=False).full
    llama = {size: shape(*dims) for size, dims in LLAMA.items() if full or size != "xs"}
    qwen = {size: shape(*dims, "qwen3") for size, dims in QWEN.items()}
    return ConfigDict(
        {
            "name": "tiny-full" if full else "tiny",
            "families": {"llama": llama, "qwen": qwen} if full else {"llama": llama},
            "data": {"source": "world", "segment": 64, "target": 72, "train_passages": 65_536},
            "pretrain": {"optim": optim(2000, 3e-3)},
            "decoder": {
                "model": shape(64, 2),
                "reference": shape(64, 3),  # a size outside the grid
                "pretrain": {"optim": optim(2000, 3e-3)},
                "adapt": {
                    "optim": optim(12_000, 2e-3),
                    "curriculum": (1, 2),
                    "ratios": (1, 4, 16, 64),
                    "p_reconstruct": 0.8,
                },
            },
            "memory": {"marker_steps": 100},
            "train": {"optim": optim(3000, 2e-3), "p_reconstruct": 0.8},
            "sweep": {
                "ratios": (4, 16, 64),
                "primary_ratio": 16,
                "base_seeds": (0, 1, 2) if full else (0,),
                "lr_grid": (0.3, 1.0, 3.0) if full else (),
                "lr_ratios": (16,),
            },
        }
    )
