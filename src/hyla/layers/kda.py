"""Kimi Delta Attention, as in Kimi Linear (arXiv 2510.26692, section 4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from hyla.layers.carry import Carry, recur
from hyla.layers.delta import convolved_heads, delta_cache_spec
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, Inside, LayerCache
from hyla.layers.tables.kda import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.gates import decays_and_betas
from hyla.ops.kda import cache_tensors, kda


class KDA(Layer):
    """Short convolution and SiLU on q, k, v; delta rule with a decay per channel; sigmoid-gated RMSNorm; projection.

    log decay = -exp(A_log) softplus(f_b(f_a x) + dt_bias) per channel, beta = sigmoid(b x) per head,
    output gate = sigmoid(g_b(g_a x)). Without a gate rank (Ling-3.0) f and g are one projection each. With a lower
    bound (its "safe gate"): log decay = decay_lower_bound sigmoid(exp(A_log) (f x + dt_bias)).
    """

    operators = ("kda", "short_conv")
    conv_weight: nn.Parameter
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    norm: RMSNorm
    in_projection: Projection
    decay_projection: Projection
    gate_projection: Projection
    out_projection: Projection

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
        table = parameters(
            hidden_dim,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            conv_len=conv_len,
            gate_rank=gate_rank,
        )
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_heads, self.key_dim, self.value_dim, self.gate_rank = num_heads, key_dim, value_dim, gate_rank
        self.decay_lower_bound = decay_lower_bound
        self.channels = num_heads * (2 * key_dim + value_dim)

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, g_TW = self._operands(x_TD, batch, cache)
        o_THV = recur(kda, *operands, batch=batch, cache=cache, scale=1.0)
        return self.out_projection(self.norm.gated(o_THV, g_TW, activation="sigmoid", dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, g_TW = self._operands(x_TD, batch, None)
        state_NHKV = kda(*operands, batch=batch, scale=1.0, return_state=True)[1]
        *_, log_decay_THK, beta_TH = operands
        return Inside(log_decay_THK, beta_TH, primitives.sigmoid(primitives.wide(g_TW)), state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None):
        """(q, k, v, log decay, beta) of the rule, and the gate before its sigmoid."""
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
        log_decay_TC, beta_TH = decays_and_betas(f, b_TH, self.A_log, self.dt_bias, lower_bound=self.decay_lower_bound)
        return (q_THK, k_THK, v_THV, log_decay_TC.view(k_THK.shape), beta_TH), g
