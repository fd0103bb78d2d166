"""Gated DeltaNet, as in Qwen3-Next and Qwen3.5 (arXiv 2412.06464)."""

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
from hyla.layers.tables.gated_delta import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.gates import decays_and_betas
from hyla.ops.gated_delta import cache_tensors, gated_delta


class GatedDelta(Layer):
    """Short convolution and SiLU on q, k, v; gated delta rule; RMSNorm gated by silu(z); output projection.

    log decay = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), both per value head, from projections of x.
    """

    operators = ("gated_delta", "short_conv")
    conv_weight: nn.Parameter
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    norm: RMSNorm
    in_projection: Projection
    out_projection: Projection

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
        table = parameters(
            hidden_dim,
            num_key_heads=num_key_heads,
            num_value_heads=num_value_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            conv_len=conv_len,
        )
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_key_heads, self.num_value_heads = num_key_heads, num_value_heads
        self.key_dim, self.value_dim = key_dim, value_dim
        self.channels = 2 * num_key_heads * key_dim + num_value_heads * value_dim

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(
            num_key_heads=self.num_key_heads,
            num_value_heads=self.num_value_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
        )
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, z_TW = self._operands(x_TD, batch, cache)
        o_THV = recur(gated_delta, *operands, batch=batch, cache=cache, scale=1.0)
        return self.out_projection(self.norm.gated(o_THV, z_TW, activation="silu", dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, z_TW = self._operands(x_TD, batch, None)
        state_NHKV = gated_delta(*operands, batch=batch, scale=1.0, return_state=True)[1]
        *_, log_decay_TH, beta_TH = operands
        return Inside(log_decay_TH, beta_TH, primitives.silu(primitives.wide(z_TW)), state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None):
        """(q, k, v, log decay, beta) of the rule, and the gate before its SiLU."""
        heads = self.num_value_heads
        mixed = self.in_projection.fused(x_TD)
        qkv_TC, z_TW, a_TH, b_TH = mixed.split([self.channels, heads * self.value_dim, heads, heads], dim=-1)
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=self.num_key_heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        log_decay_TH, beta_TH = decays_and_betas(a_TH, b_TH, self.A_log, self.dt_bias)
        return (q_THK, k_THK, v_THV, log_decay_TH, beta_TH), z_TW
