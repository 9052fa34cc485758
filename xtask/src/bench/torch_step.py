"""Rival of `beckon bench sft` and `beckon bench garm`: the same training step in PyTorch eager.

Same network (RMSNorm, half-split rotary positions, grouped-query attention, SwiGLU, tied embedding), batch,
loss, gradient clipping and AdamW, f32, as many threads. Argument 1: `sft` or `garm`; argument 2: the figure's
`setting` as JSON. Prints one JSON object: tokens per second (median over the steps) and PyTorch's version.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

N_WARMUP = 2


class Norm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, k = c["d_model"], c["head_dim"]
        self.k = k
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.attn_norm, self.mlp_norm = Norm(d, c["norm_eps"]), Norm(d, c["norm_eps"])
        self.q, self.o = linear(d, c["n_heads"] * k), linear(c["n_heads"] * k, d)
        self.key, self.v = linear(d, c["n_kv_heads"] * k), linear(d, c["n_kv_heads"] * k)
        self.gate, self.up, self.down = linear(d, c["d_ff"]), linear(d, c["d_ff"]), linear(c["d_ff"], d)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        y = self.attn_norm(x)
        heads = lambda z: z.view(b, t, -1, self.k).transpose(1, 2)
        q, k, v = heads(self.q(y)), heads(self.key(y)), heads(self.v(y))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Trunk(nn.Module):
    def __init__(self, c, n_tokens):
        super().__init__()
        self.embed = nn.Embedding(c["vocab_size"], c["d_model"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["n_layers"]))
        self.norm = Norm(c["d_model"], c["norm_eps"])
        half = c["head_dim"] // 2
        rates = c["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(n_tokens, dtype=torch.float64), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos().float())
        self.register_buffer("sin", angles.sin().float())
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x)


class Policy(nn.Module):
    def __init__(self, c, n_tokens):
        super().__init__()
        self.trunk = Trunk(c, n_tokens)

    def loss(self, tokens):
        hidden = self.trunk(tokens)[:, :-1]
        logits = F.linear(hidden.reshape(-1, hidden.shape[-1]), self.trunk.embed.weight)
        return F.cross_entropy(logits, tokens[:, 1:].reshape(-1))


class Reward(nn.Module):
    def __init__(self, c, n_tokens):
        super().__init__()
        self.trunk = Trunk(c, n_tokens)
        self.mean, self.variance = nn.Linear(c["d_model"], 1), nn.Linear(c["d_model"], 1)

    def loss(self, tokens):
        feature = self.trunk(tokens)[:, 1:].mean(dim=1)
        mean, variance = self.mean(feature).squeeze(1), F.softplus(self.variance(feature)).squeeze(1) + 0.05
        n = len(mean) // 2
        z = (mean[:n] - mean[n:]) / (variance[:n] + variance[n:]).sqrt()
        return -torch.special.log_ndtr(z).mean()


def main():
    kind, setting = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(setting["n_threads"])
    torch.manual_seed(0)
    c, n_rows, n_tokens = setting["model"], setting["n_rows"], setting["n_tokens"]
    model = {"sft": Policy, "garm": Reward}[kind](c, n_tokens)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    # fused: PyTorch's fastest AdamW on a CPU
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    batches = torch.randint(5, c["vocab_size"], (4, n_rows, n_tokens))
    speeds = []
    for step in range(N_WARMUP + setting["n_steps"]):
        begun = time.perf_counter()
        loss = model.loss(batches[step % 4])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= N_WARMUP:
            speeds.append(n_rows * n_tokens / (time.perf_counter() - begun))
    print(json.dumps({"rival": statistics.median(speeds), "version": torch.__version__}))


main()
