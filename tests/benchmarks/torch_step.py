"""The update step of the default recipe in PyTorch: transformers' models, eager, fused AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # optional: the extra `bench`
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM

from jaxcomp.config import Config


class Step:
    """One update after another on one batch, from the arrays and the connector's unit of ours."""

    def __init__(
        self,
        cfg: Config,
        comp: Path,
        dec: Path,
        arrays: Mapping[str, np.ndarray],
        batch: tuple[np.ndarray, ...],
        unit: float,
        threads: int,
    ):
        if threads:
            torch.set_num_threads(threads)
        load = AutoModelForCausalLM.from_pretrained
        self.comp, self.dec = (load(folder, dtype=torch.float32) for folder in (comp, dec))
        self.dec.requires_grad_(False)
        self.ratio, self.unit = cfg.memory.ratio, unit
        self.optim, self.count = cfg.train.optim, 0
        # Of one segment and one target: ctx_BT, ctx_len_B, tok_BL, tok_len_B, mode_B.
        self.batch = [torch.tensor(np.array(x)).long()[:, 0] for x in batch]
        own = {k.removeprefix("compressor/"): v for k, v in arrays.items()}
        names = ("mem_ME", "markers_4D", *(f"connector/{n}" for n in CONNECTOR))
        self.own = {name: nn.Parameter(torch.tensor(own[name])) for name in names}
        inputs = [self.comp.get_input_embeddings().weight, self.own["mem_ME"]]
        self.trained = [*self.comp.model.parameters(), *self.own.values()]
        others = [p for p in self.trained if not any(p is q for q in inputs)]
        o = cfg.train.optim
        self.adam = torch.optim.AdamW(
            [{"params": others}, {"params": inputs}],
            lr=o.lr,
            betas=(o.b1, o.b2),
            weight_decay=o.weight_decay,
            fused=True,
        )

    def step(self) -> float:
        """One update in the warm-up of the schedule; the loss before it."""
        o = self.optim
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, o.clip)
        self.count += 1
        rate = o.lr * min(1.0, self.count / max(o.warmup, 1))
        for group, multiple in zip(self.adam.param_groups, (1.0, o.embed_lr), strict=True):
            group["lr"] = rate * multiple
        self.adam.step()
        return loss.item()

    def loss(self):
        """Mean cross-entropy over the labels, nats."""
        ctx_BT, len_B1, tok_BL, tok_len_B1, mode_B = self.batch
        len_B1, tok_len_B1 = len_B1[:, None], tok_len_B1[:, None]
        (B, T), L, M = ctx_BT.shape, tok_BL.shape[1], ctx_BT.shape[1] // self.ratio
        slot_T, slot_M, slot_L = torch.arange(T), torch.arange(M), torch.arange(L)
        # The compressor reads the text, then the memory tokens.
        every = self.own["mem_ME"].shape[0] // M
        mem_BME = self.own["mem_ME"][every - 1 :: every].expand(B, -1, -1)
        seg_BM = slot_M * self.ratio < len_B1
        pos_BM = (torch.minimum((slot_M + 1) * self.ratio, len_B1) - 1).clamp(min=0)
        hidden_BSE = hidden(
            self.comp,
            torch.cat([self.comp.get_input_embeddings()(ctx_BT), mem_BME], 1),
            torch.cat([slot_T.expand(B, -1), pos_BM], 1),
            torch.cat([slot_T < len_B1, seg_BM], 1),
        )
        mem_BMD = self.connector(hidden_BSE[:, T:]) * seg_BM[:, :, None]
        # The decoder reads a marker, the memory, two markers and the target.
        marker_4D, one_B1 = self.own["markers_4D"], torch.ones_like(len_B1)
        begin, end = (marker_4D[i].expand(B, 1, -1) for i in range(2))
        tok_BLD = self.dec.get_input_embeddings()(tok_BL[:, :-1])
        after_BL = (T + 1 + torch.arange(L + 1)).expand(B, -1)
        hidden_BSD = hidden(
            self.dec,
            torch.cat([begin, mem_BMD, end, marker_4D[2 + mode_B][:, None], tok_BLD], 1),
            torch.cat([0 * one_B1, pos_BM + 1, after_BL], 1),
            torch.cat([one_B1, seg_BM, one_B1, one_B1, slot_L[:-1] < tok_len_B1 - 1], 1).bool(),
        )
        logits_BLV = self.dec.lm_head(hidden_BSD[:, -L:])
        label_BL = tok_BL.masked_fill(slot_L >= tok_len_B1, -100)
        return F.cross_entropy(logits_BLV.flatten(0, 1), label_BL.flatten(), ignore_index=-100)

    def connector(self, x_BME):
        norm_E, up_EF, bias_F, down_FD, bias_D = (self.own[f"connector/{n}"] for n in CONNECTOR)
        x_BMF = F.gelu(F.rms_norm(x_BME, norm_E.shape, norm_E, 1e-6) @ up_EF + bias_F)
        return (x_BMF @ down_FD + bias_D) * self.unit


CONNECTOR = ("norm_E", "up_EF", "bias_F", "down_FD", "bias_D")


def hidden(model, x_BSD, pos_BS, seg_BS):
    """States after the final norm; padding (segment 0) attends only to padding."""
    mask_BSS = (seg_BS[:, :, None] == seg_BS[:, None]).tril()
    out = model.model(inputs_embeds=x_BSD, position_ids=pos_BS, attention_mask=mask_BSS[:, None])
    return out.last_hidden_state
