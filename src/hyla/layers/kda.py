"""Kimi Delta Attention, as in Kimi Linear (arXiv 2510.26692, section 4)."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.delta import convolved_heads, delta_cache_spec, start_conv, start_decay
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.ops import primitives
from hyla.ops.batch import Batch
from hyla.ops.kda import cache_tensors, kda
from hyla.ops.primitives import wide


class KDA(nn.Module):
    """Short convolution and SiLU on q, k, v; delta rule with a decay per channel; sigmoid-gated RMSNorm; projection.

    log decay = -exp(A_log) softplus(f_b(f_a x) + dt_bias) per channel, beta = sigmoid(b x) per head,
    output gate = sigmoid(g_b(g_a x)).
    """

    fp32_parameters = ("A_log", "dt_bias")

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        conv_len: int,
        gate_rank: int,
        norm_eps: float,
    ):
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim, self.gate_rank = num_heads, key_dim, value_dim, gate_rank
        keys, values = num_heads * key_dim, num_heads * value_dim
        self.channels = 2 * keys + values
        self.q, self.k, self.v = Linear(hidden_dim, keys), Linear(hidden_dim, keys), Linear(hidden_dim, values)
        self.conv_weight = nn.Parameter(torch.empty(self.channels, conv_len))
        self.f_a, self.f_b = Linear(hidden_dim, gate_rank), Linear(gate_rank, keys)
        self.g_a, self.g_b = Linear(hidden_dim, gate_rank), Linear(gate_rank, values)
        self.b = Linear(hidden_dim, num_heads)
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(keys))
        self.norm = RMSNorm(value_dim, eps=norm_eps)
        self.o = Linear(values, hidden_dim)
        self.in_projection = Projection(self.q, self.k, self.v, self.f_a, self.g_a, self.b)
        self.decay_projection, self.gate_projection = Projection(self.f_b), Projection(self.g_b)
        self.out_projection = Projection(self.o)
        self.projections = (self.in_projection, self.decay_projection, self.gate_projection, self.out_projection)

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return delta_cache_spec(tensors, self.channels, self.conv_weight.dtype)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        heads, rank = self.num_heads, self.gate_rank
        mixed = self.in_projection.fused(x_TD)
        qkv_TC, f, g, b_TH = mixed.split([self.channels, rank, rank, heads], dim=-1)
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        rate_H = torch.exp(wide(self.A_log))
        raw_TC = wide(self.decay_projection(f)[0]) + self.dt_bias
        log_decay_THK = -rate_H[:, None] * primitives.softplus(raw_TC).unflatten(-1, (heads, self.key_dim))
        beta_TH = primitives.sigmoid(wide(b_TH))
        o_THV = kda(q_THK, k_THK, v_THV, log_decay_THK, beta_TH, batch=batch, cache=cache, scale=self.key_dim**-0.5)
        gate_THV = primitives.sigmoid(wide(self.gate_projection(g)[0])).view_as(o_THV)
        return self.out_projection((self.norm(o_THV) * gate_THV).flatten(1).to(x_TD.dtype))[0]

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projections; decays and convolution as their papers start them."""
        for linear in (self.q, self.k, self.v, self.f_a, self.f_b, self.g_a, self.g_b, self.b, self.o):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        start_conv(self.conv_weight, generator)
        start_decay(self.A_log, self.dt_bias, generator)
