"""Gated DeltaNet, as in Qwen3-Next and Qwen3.5 (arXiv 2412.06464)."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.delta import convolved_heads, delta_cache_spec, start_conv, start_decay
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.primitives import wide
from hyla.ops.gated_delta import cache_tensors, gated_delta


class GatedDelta(nn.Module):
    """Short convolution and SiLU on q, k, v; gated delta rule; RMSNorm gated by silu(z); output projection.

    log decay = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), both per value head, from projections of x.
    """

    fp32_parameters = ("A_log", "dt_bias")
    operators = ("gated_delta", "short_conv")

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_key_heads: int,
        num_value_heads: int,
        key_dim: int,
        value_dim: int,
        conv_len: int,
        norm_eps: float,
    ):
        super().__init__()
        self.num_key_heads, self.num_value_heads = num_key_heads, num_value_heads
        self.key_dim, self.value_dim = key_dim, value_dim
        keys, values = num_key_heads * key_dim, num_value_heads * value_dim
        self.channels = 2 * keys + values
        self.q, self.k = Linear(hidden_dim, keys), Linear(hidden_dim, keys)
        self.v, self.z = Linear(hidden_dim, values), Linear(hidden_dim, values)
        self.a, self.b = Linear(hidden_dim, num_value_heads), Linear(hidden_dim, num_value_heads)
        self.conv_weight = nn.Parameter(torch.empty(self.channels, conv_len))
        self.A_log = nn.Parameter(torch.empty(num_value_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_value_heads))
        self.norm = RMSNorm(value_dim, eps=norm_eps)
        self.o = Linear(values, hidden_dim)
        self.in_projection = Projection(self.q, self.k, self.v, self.z, self.a, self.b)
        self.out_projection = Projection(self.o)
        self.projections = (self.in_projection, self.out_projection)

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(
            num_key_heads=self.num_key_heads,
            num_value_heads=self.num_value_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
        )
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        heads = self.num_value_heads
        mixed = self.in_projection.fused(x_TD)
        qkv_TC, z, a_TH, b_TH = mixed.split([self.channels, heads * self.value_dim, heads, heads], dim=-1)
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=self.num_key_heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        rate_H = torch.exp(wide(self.A_log))
        log_decay_TH = -rate_H * primitives.softplus(wide(a_TH) + self.dt_bias)
        beta_TH = primitives.sigmoid(wide(b_TH))
        o_THV = gated_delta(
            q_THK, k_THK, v_THV, log_decay_TH, beta_TH, batch=batch, cache=cache, scale=self.key_dim**-0.5
        )
        gate_THV = primitives.silu(wide(z)).view_as(o_THV)
        return self.out_projection((self.norm(o_THV) * gate_THV).flatten(1).to(x_TD.dtype))[0]

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projections; decays and convolution as their papers start them."""
        for linear in (self.q, self.k, self.v, self.z, self.a, self.b, self.o):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        start_conv(self.conv_weight, generator)
        start_decay(self.A_log, self.dt_bias, generator)
