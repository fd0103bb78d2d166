"""Mamba-2, as in Nemotron-H and Nemotron-3 (arXiv 2405.21060; arXiv 2504.03624)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from hyla.layers.carry import Carry, recur, remembered
from hyla.layers.delta import cached_conv, delta_cache_spec, operators
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.narrow_states import StateDtype
from hyla.layers.norms import GroupRMSNorm, activated_gate
from hyla.layers.protocol import CacheSpec, Inside, LayerCache
from hyla.layers.tables.mamba2 import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.mixers import Activation, rates_and_values
from hyla.ops.exact.primitives import wide
from hyla.ops.ssd import cache_tensors, ssd


class Mamba2(Layer):
    """Short convolution (with bias) and SiLU on x, B, C; state space dual with a skip; gated norm; output projection.

    h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t + D x_t
    A = -exp(A_log), dt = softplus(dt + dt_bias) within `time_step_limit`, both per head and in fp32; B and C are shared
    by the heads of a group: head h reads group h // (H / G). In fp32 from the convolution to the norm. Ablations: no
    convolution (conv_len 0; neither its bias, SiLU stays), another output gate or none.
    """

    operators = ("short_conv", "ssd")
    optional = ("conv_weight", "conv_bias")
    conv_weight: nn.Parameter | None
    conv_bias: nn.Parameter | None
    A_log: nn.Parameter
    D: nn.Parameter
    dt_bias: nn.Parameter
    norm: GroupRMSNorm
    output_gate: Activation
    in_projection: Projection
    out_projection: Projection

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        head_dim: int,
        num_groups: int,
        state_dim: int,
        conv_len: int,
        norm_eps: float,
        time_step_limit: tuple[float, float],
        output_gate: Activation = "silu",
        state_dtype: StateDtype = "float32",
    ):
        """The fields of `models.config.Mamba2Config`."""
        table = parameters(
            hidden_dim,
            num_heads=num_heads,
            head_dim=head_dim,
            num_groups=num_groups,
            state_dim=state_dim,
            conv_len=conv_len,
            output_gate=output_gate,
        )
        super().__init__(table, norms={"norm": partial(GroupRMSNorm, num_groups=num_groups, eps=norm_eps)})
        self.num_heads, self.head_dim = num_heads, head_dim
        self.num_groups, self.state_dim = num_groups, state_dim
        self.state_dtype: StateDtype = state_dtype
        self.time_step_limit, self.output_gate = time_step_limit, output_gate
        self.operators = operators("ssd", conv_len)
        self.channels = num_heads * head_dim + 2 * num_groups * state_dim

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(
            num_groups=self.num_groups, num_heads=self.num_heads, key_dim=self.state_dim, value_dim=self.head_dim
        )
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, x_TC, z_TC = self._operands(x_TD, batch, cache)
        y_THV = recur(ssd, *operands, batch=batch, cache=cache, state_dtype=self.state_dtype)
        skip = (x_TC, wide(self.D))
        y_TC = self.norm.gated_groups(
            y_THV.flatten(1), z_TC, activation=self.output_gate, is_gate_first=True, skip=skip, dtype=x_TD.dtype
        )
        return self.out_projection(y_TC)[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, _, z_TC = self._operands(x_TD, batch, None)
        state_NHKV = remembered(ssd, *operands, batch=batch, state_dtype=self.state_dtype)
        gate = activated_gate(z_TC, self.output_gate)
        return Inside(log_decay=operands[-1], gate=gate, state_NHKV=state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None):
        """(C, B, dt x, log decay) of the recurrence, the convolved x that the skip reads, the raw gate or None."""
        values, keys = self.num_heads * self.head_dim, self.num_groups * self.state_dim
        mixed = self.in_projection.fused(x_TD)
        gate_dims = [] if self.output_gate == "none" else [values]
        *gate, xbc_TC, dt_TH = mixed.split([*gate_dims, self.channels, self.num_heads], dim=-1)
        rate_H = primitives.scaled(primitives.exp(wide(self.A_log)), -1.0, wide(self.A_log).dtype)
        convolved_TC = cached_conv(xbc_TC, self.conv_weight, batch=batch, cache=cache)
        mixed_TC, v_THV, log_decay_TH = rates_and_values(
            convolved_TC,
            self.conv_bias,
            dt_TH,
            self.dt_bias,
            rate_H,
            head_dim=self.head_dim,
            limit=self.time_step_limit,
        )
        x_TC, b, c = mixed_TC.split([values, keys, keys], dim=-1)
        b_TGK, c_TGK = (part.unflatten(-1, (self.num_groups, self.state_dim)) for part in (b, c))
        return (c_TGK, b_TGK, v_THV, log_decay_TH), x_TC, gate[0] if gate else None
