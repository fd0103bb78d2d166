"""Kimi Delta Attention, as in Kimi Linear (arXiv 2510.26692, section 4)."""

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
from hyla.ops.kda import cache_tensors, kda


class KDA(nn.Module):
    """Short convolution and SiLU on q, k, v; delta rule with a decay per channel; sigmoid-gated RMSNorm; projection.

    log decay = -exp(A_log) softplus(f_b(f_a x) + dt_bias) per channel, beta = sigmoid(b x) per head,
    output gate = sigmoid(g_b(g_a x)). Without a gate rank (Ling-3.0) f and g are one projection each. With a lower
    bound (its "safe gate"): log decay = decay_lower_bound sigmoid(exp(A_log) (f x + dt_bias)).
    """

    fp32_parameters = ("A_log", "dt_bias")
    operators = ("kda", "short_conv")

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        conv_len: int,
        gate_rank: int | None,
        norm_eps: float,
        decay_lower_bound: float | None = None,
    ):
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim, self.gate_rank = num_heads, key_dim, value_dim, gate_rank
        self.decay_lower_bound = decay_lower_bound
        keys, values = num_heads * key_dim, num_heads * value_dim
        self.channels = 2 * keys + values
        self.q, self.k, self.v = Linear(hidden_dim, keys), Linear(hidden_dim, keys), Linear(hidden_dim, values)
        self.conv_weight = nn.Parameter(torch.empty(self.channels, conv_len))
        self._gates = self._gate_linears(hidden_dim, gate_rank)
        self.b = Linear(hidden_dim, num_heads)
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(keys))
        self.norm = RMSNorm(value_dim, eps=norm_eps)
        self.o = Linear(values, hidden_dim)
        self.out_projection = Projection(self.o)
        if gate_rank is None:
            self.in_projection = Projection(self.q, self.k, self.v, self.f, self.g, self.b)
            self.projections = (self.in_projection, self.out_projection)
        else:
            self.in_projection = Projection(self.q, self.k, self.v, self.f_a, self.g_a, self.b)
            self.decay_projection, self.gate_projection = Projection(self.f_b), Projection(self.g_b)
            self.projections = (self.in_projection, self.decay_projection, self.gate_projection, self.out_projection)

    def _gate_linears(self, hidden_dim: int, rank: int | None) -> tuple[Linear, ...]:
        """Make the projections of decay and output gate: low-rank pairs f_a, f_b, g_a, g_b, or whole f, g."""
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        if rank is None:
            self.f, self.g = Linear(hidden_dim, keys), Linear(hidden_dim, values)
            return self.f, self.g
        self.f_a, self.f_b = Linear(hidden_dim, rank), Linear(rank, keys)
        self.g_a, self.g_b = Linear(hidden_dim, rank), Linear(rank, values)
        return self.f_a, self.f_b, self.g_a, self.g_b

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        heads = self.num_heads
        mixed = self.in_projection.fused(x_TD)
        gate_dims = self.in_projection.out_dims[3:5]
        qkv_TC, f, g, b_TH = mixed.split([self.channels, *gate_dims, heads], dim=-1)
        if self.gate_rank is not None:
            f, g = self.decay_projection(f)[0], self.gate_projection(g)[0]
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        log_decay_THK = self._log_decay((wide(f) + self.dt_bias).unflatten(-1, (heads, self.key_dim)))
        beta_TH = primitives.sigmoid(wide(b_TH))
        o_THV = kda(q_THK, k_THK, v_THV, log_decay_THK, beta_TH, batch=batch, cache=cache, scale=self.key_dim**-0.5)
        gate_THV = primitives.sigmoid(wide(g)).view_as(o_THV)
        return self.out_projection((self.norm(o_THV) * gate_THV).flatten(1).to(x_TD.dtype))[0]

    def _log_decay(self, raw_THK: torch.Tensor) -> torch.Tensor:
        """Log decays [T, H, K] from the projected decay with its bias."""
        rate_H1 = torch.exp(wide(self.A_log))[:, None]
        if self.decay_lower_bound is None:
            return -rate_H1 * primitives.softplus(raw_THK)
        return self.decay_lower_bound * primitives.sigmoid(rate_H1 * raw_THK)

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projections; decays and convolution as their papers start them."""
        for linear in (self.q, self.k, self.v, *self._gates, self.b, self.o):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        start_conv(self.conv_weight, generator)
        start_decay(self.A_log, self.dt_bias, generator)
