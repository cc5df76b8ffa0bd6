"""The training step of the default recipe in plain PyTorch, to compare with (optional `torch`).

Written as one would write it in PyTorch (nn.Linear, scaled_dot_product_attention, cross_entropy,
fused AdamW, eager), sharing no computation with the JAX one except RoPE's table of frequencies. It
computes the loss but none of our step's metrics, so it does slightly less.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # optional: the extra `bench`
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from jaxcomp.config import Config, ModelConfig
from jaxcomp.models.attention import rope_frequencies

Arrays = Mapping[str, np.ndarray]


class Layer(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        D, F_, H = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
        N, K, eps = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.rms_norm_eps
        self.attn_norm, self.mlp_norm = nn.RMSNorm(D, eps), nn.RMSNorm(D, eps)
        self.q, self.k, self.v = (nn.Linear(D, heads * H, bias=False) for heads in (N, K, K))
        self.o = nn.Linear(N * H, D, bias=False)
        self.gate, self.up = (nn.Linear(D, F_, bias=False) for _ in range(2))
        self.down = nn.Linear(F_, D, bias=False)
        if cfg.model_type == "qwen3":
            self.q_norm, self.k_norm = nn.RMSNorm(H, eps), nn.RMSNorm(H, eps)

    def forward(self, x_BLD, cos_BL1H, sin_BL1H, mask_B1LL):
        B, L, _ = x_BLD.shape
        h_BLD = self.attn_norm(x_BLD)
        q, k, v = (f(h_BLD).view(B, L, -1, self.cfg.head_dim) for f in (self.q, self.k, self.v))
        if self.cfg.model_type == "qwen3":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = _rotate(q, cos_BL1H, sin_BL1H), _rotate(k, cos_BL1H, sin_BL1H)
        heads_BNLH = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask_B1LL, enable_gqa=True
        )
        x_BLD = x_BLD + self.o(heads_BNLH.transpose(1, 2).reshape(B, L, -1))
        h_BLD = self.mlp_norm(x_BLD)
        return x_BLD + self.down(F.silu(self.gate(h_BLD)) * self.up(h_BLD))


def _rotate(x_BLNH, cos_BL1H, sin_BL1H):
    a, b = x_BLNH.chunk(2, dim=-1)
    return torch.cat([a * cos_BL1H - b * sin_BL1H, b * cos_BL1H + a * sin_BL1H], dim=-1)


class Tower(nn.Module):
    """One transformer; hidden states after the final norm."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.emb = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.num_hidden_layers))
        self.norm = nn.RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.head = None
        if not cfg.tie_word_embeddings:
            self.head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        self.register_buffer("frequencies", torch.from_numpy(rope_frequencies(cfg)))

    def forward(self, x_BLD, pos_BL, seg_BL):
        angle = pos_BL[..., None, None].float() * self.frequencies
        L = seg_BL.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool).tril()
        mask = (seg_BL[:, :, None] == seg_BL[:, None, :]) & causal
        cos, sin = angle.cos(), angle.sin()
        for layer in self.layers:
            x_BLD = layer(x_BLD, cos, sin, mask[:, None])
        return self.norm(x_BLD)

    def unembed(self, hidden_BLD):
        weight = self.emb.weight if self.head is None else self.head.weight
        return F.linear(hidden_BLD, weight)


class Pair(nn.Module):
    """Compressor, connector, markers and the frozen decoder; positions `spread`."""

    def __init__(self, comp: ModelConfig, dec: ModelConfig, arrays: Arrays, ratio: int):
        super().__init__()
        self.ratio = ratio
        self.comp, self.decoder = Tower(comp), Tower(dec)
        _copy(self.comp, arrays, "compressor/llm")
        _copy(self.decoder, arrays, "decoder")
        self.decoder.requires_grad_(False)
        if self.comp.head is not None:
            self.comp.head.requires_grad_(False)
        side = {k: torch.tensor(arrays[f"compressor/connector/{k}"]) for k in _CONNECTOR}
        hidden = side["up_EF"].shape[1]
        self.norm = nn.RMSNorm(comp.hidden_size, 1e-6)
        self.up = nn.Linear(comp.hidden_size, hidden)
        self.down = nn.Linear(hidden, dec.hidden_size)
        with torch.no_grad():
            self.norm.weight.copy_(side["norm_E"])
            self.up.weight.copy_(side["up_EF"].T)
            self.up.bias.copy_(side["bias_F"])
            self.down.weight.copy_(side["down_FD"].T)
            self.down.bias.copy_(side["bias_D"])
        spread = self.decoder.emb.weight.detach().var(0, unbiased=False).mean().sqrt()
        self.unit = max(1.0, float(spread))  # of compress/connector.py
        self.mem_ME = nn.Parameter(torch.tensor(arrays["compressor/mem_ME"]))
        self.markers_4D = nn.Parameter(torch.tensor(arrays["markers_4D"]))

    def memory(self, ctx_BT, len_B):
        """(vec_BMD, seg_BM, pos_BM)."""
        B, T = ctx_BT.shape
        M, slots = T // self.ratio, self.mem_ME.shape[0]
        mem_ME = self.mem_ME[slots // M - 1 :: slots // M]
        x_BSE = torch.cat([self.comp.emb(ctx_BT), mem_ME.expand(B, -1, -1)], dim=1)
        slot_T, slot_M = torch.arange(T), torch.arange(M)
        seg_BM = (slot_M * self.ratio < len_B[:, None]).long()
        seg_BS = torch.cat([(slot_T < len_B[:, None]).long(), seg_BM], dim=1)
        pos_BM = (torch.minimum((slot_M + 1) * self.ratio, len_B[:, None]) - 1).clamp(min=0)
        hidden = self.comp(x_BSE, torch.cat([slot_T.expand(B, -1), pos_BM], dim=1), seg_BS)
        vec = self.down(F.gelu(self.up(self.norm(hidden[:, T:])))) * self.unit
        return vec * seg_BM[:, :, None], seg_BM, pos_BM + 1

    def states(self, memory, T, tok_BL, len_B, mode_B):
        """Decoder states that predict tok_BL."""
        vec_BMD, seg_BM, pos_BM = memory
        B, L = tok_BL.shape
        begin, end = (self.markers_4D[i].expand(B, 1, -1) for i in range(2))
        marker = self.markers_4D[2 + mode_B][:, None]
        tok_BLD = self.decoder.emb(tok_BL[:, :-1])
        x_BSD = torch.cat([begin, vec_BMD, end, marker, tok_BLD], dim=1)
        one_B1 = torch.ones(B, 1, dtype=torch.long)
        after = (T + 1 + torch.arange(L + 1)).expand(B, -1)
        pos_BS = torch.cat([0 * one_B1, pos_BM, after], dim=1)
        seg_BL = (torch.arange(L - 1) < len_B[:, None] - 1).long()
        seg_BS = torch.cat([one_B1, seg_BM, one_B1, one_B1, seg_BL], dim=1)
        return self.decoder(x_BSD, pos_BS, seg_BS)[:, -L:]

    def loss(self, hidden_BLD, tok_BL, len_B):
        """Mean cross-entropy over the labels, nats."""
        logits_BLV = self.decoder.unembed(hidden_BLD)
        padding = torch.arange(tok_BL.shape[1]) >= len_B[:, None]
        label = tok_BL.masked_fill(padding, -100)
        return F.cross_entropy(logits_BLV.flatten(0, 1), label.flatten(), ignore_index=-100)


_CONNECTOR = ("norm_E", "up_EF", "bias_F", "down_FD", "bias_D")


def _copy(tower: Tower, arrays: Arrays, at: str) -> None:
    with torch.no_grad():
        tower.emb.weight.copy_(torch.tensor(arrays[f"{at}/emb"]))
        tower.norm.weight.copy_(torch.tensor(arrays[f"{at}/norm"]))
        if tower.head is not None:
            tower.head.weight.copy_(torch.tensor(arrays[f"{at}/head"]))
        for y, layer in enumerate(tower.layers):
            for name, module in layer.named_children():
                key = f"{at}/layers/{name}"
                if isinstance(module, nn.RMSNorm):
                    module.weight.copy_(torch.tensor(arrays[key][y]))
                else:
                    out, into = module.weight.shape
                    module.weight.copy_(torch.tensor(arrays[f"{key}/w"][y].reshape(into, out)).T)


class Step:
    """One update after another on one batch, and its parts."""

    def __init__(self, cfg: Config, comp: ModelConfig, dec: ModelConfig, arrays: Arrays, batch):
        self.optim = cfg.train.optim
        self.pair = Pair(comp, dec, arrays, cfg.memory.ratio)
        self.ctx, self.len, self.tok, self.tok_len, self.mode = (
            torch.from_numpy(np.array(x)).long()[:, 0] for x in batch
        )
        self.trained = [p for p in self.pair.parameters() if p.requires_grad]
        o = self.optim
        inputs = [self.pair.comp.emb.weight, self.pair.mem_ME]
        others = [p for p in self.trained if not any(p is q for q in inputs)]
        self.adam = torch.optim.AdamW(
            [{"params": others}, {"params": inputs}],
            lr=o.lr,
            betas=(o.b1, o.b2),
            weight_decay=o.weight_decay,
            fused=True,
        )
        self.count = 0

    def step(self) -> float:
        """One update in the warm-up of the schedule; the loss before it."""
        self.adam.zero_grad(set_to_none=True)
        memory = self.pair.memory(self.ctx, self.len)
        hidden = self.pair.states(memory, self.ctx.shape[1], self.tok, self.tok_len, self.mode)
        loss = self.pair.loss(hidden, self.tok, self.tok_len)
        loss.backward()
        self.update()
        return loss.item()

    def update(self) -> None:
        o = self.optim
        nn.utils.clip_grad_norm_(self.trained, o.clip)
        # The schedule of training/optim.py, whose cosine starts after the warm-up.
        self.count += 1
        rate = o.lr * min(1.0, self.count / max(o.warmup, 1))
        for group, multiple in zip(self.adam.param_groups, (1.0, o.embed_lr), strict=True):
            group["lr"] = rate * multiple
        self.adam.step()

    def parts(self):
        """name -> function that runs one part alone, gradients included (needs one `step`)."""
        pair, T = self.pair, self.ctx.shape[1]
        with torch.no_grad():
            vec, seg, pos = pair.memory(self.ctx, self.len)
            rest = (T, self.tok, self.tok_len, self.mode)
            hidden = pair.states((vec, seg, pos), *rest)
        vec, hidden = vec.requires_grad_(), hidden.requires_grad_()

        mine = [p for p in self.trained if p is not pair.markers_4D]

        def compressor() -> None:
            out = pair.memory(self.ctx, self.len)[0]
            torch.autograd.grad(out, mine, out.detach())

        def decoder() -> None:
            out = pair.states((vec, seg, pos), *rest)
            torch.autograd.grad(out, vec, out.detach())

        def loss() -> None:
            torch.autograd.grad(pair.loss(hidden, self.tok, self.tok_len), hidden)

        def compressor_forward() -> None:
            with torch.no_grad():
                pair.memory(self.ctx, self.len)

        def decoder_forward() -> None:
            with torch.no_grad():
                pair.states((vec, seg, pos), *rest)

        return {
            "compressor forward": compressor_forward,
            "compressor": compressor,
            "decoder forward": decoder_forward,
            "decoder": decoder,
            "loss": loss,
            "optimiser": self.update,
        }
