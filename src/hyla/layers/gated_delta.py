"""Gated DeltaNet, as in Qwen3-Next and Qwen3.5 (arXiv 2412.06464)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import nn

from hyla.layers.carry import Carry, recur, remembered
from hyla.layers.delta import convolved_heads, delta_cache_spec, no_decay, operators
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.narrow_states import StateDtype
from hyla.layers.norms import RMSNorm, activated_gate
from hyla.layers.protocol import CacheSpec, Inside, LayerCache
from hyla.layers.tables.gated_delta import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact.gates import betas, decays_and_betas, doubled
from hyla.ops.exact.mixers import Activation
from hyla.ops.gated_delta import cache_tensors, gated_delta


class GatedDelta(Layer):
    """Short convolution and SiLU on q, k, v; gated delta rule; RMSNorm gated by silu(z); output projection.

    log decay = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), both per value head, from projections of x.

    Ablations: no convolution (conv_len 0; SiLU stays), another output gate or none, no decay, beta = 2 sigmoid(b).
    """

    operators = ("gated_delta", "short_conv")
    optional = ("conv_weight", "A_log", "dt_bias")
    conv_weight: nn.Parameter | None
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    norm: RMSNorm
    output_gate: Activation
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
        output_gate: Activation = "silu",
        decay: Literal["head", "none"] = "head",
        negative_eigenvalues: bool = False,
        state_dtype: StateDtype = "float32",
    ):
        """The fields of `models.config.GatedDeltaConfig`."""
        table = parameters(
            hidden_dim,
            num_key_heads=num_key_heads,
            num_value_heads=num_value_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            conv_len=conv_len,
            output_gate=output_gate,
            decay=decay,
        )
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_key_heads, self.num_value_heads = num_key_heads, num_value_heads
        self.key_dim, self.value_dim = key_dim, value_dim
        self.state_dtype: StateDtype = state_dtype
        self.output_gate, self.decay, self.negative_eigenvalues = output_gate, decay, negative_eigenvalues
        self.operators = operators("gated_delta", conv_len)
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
        o_THV = recur(gated_delta, *operands, batch=batch, cache=cache, scale=1.0, state_dtype=self.state_dtype)
        return self.out_projection(self.norm.gated(o_THV, z_TW, activation=self.output_gate, dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, z_TW = self._operands(x_TD, batch, None)
        state_NHKV = remembered(gated_delta, *operands, batch=batch, scale=1.0, state_dtype=self.state_dtype)
        *_, log_decay_TH, beta_TH = operands
        return Inside(log_decay_TH, beta_TH, activated_gate(z_TW, self.output_gate), state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None):
        """(q, k, v, log decay, beta) of the rule, and the gate before its non-linearity."""
        heads = self.num_value_heads
        mixed = self.in_projection.fused(x_TD)
        qkv_TC, *rest, b_TH = mixed.split([self.channels, *self.in_projection.out_dims[3:]], dim=-1)
        z_TW = None if self.output_gate == "none" else rest[0]
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=self.num_key_heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        if self.decay == "none":
            beta_TH = betas(b_TH, negative_eigenvalues=self.negative_eigenvalues)
            return (q_THK, k_THK, v_THV, no_decay(beta_TH), beta_TH), z_TW
        log_decay_TH, beta_TH = decays_and_betas(rest[-1], b_TH, self.A_log, self.dt_bias)
        beta_TH = doubled(beta_TH) if self.negative_eigenvalues else beta_TH
        return (q_THK, k_THK, v_THV, log_decay_TH, beta_TH), z_TW
