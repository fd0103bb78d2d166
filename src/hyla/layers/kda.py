"""Kimi Delta Attention, as in Kimi Linear (arXiv 2510.26692, section 4)."""

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
from hyla.layers.tables.kda import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact.gates import betas, decays_and_betas, doubled, per_channel
from hyla.ops.exact.mixers import Activation
from hyla.ops.kda import cache_tensors, kda


class KDA(Layer):
    """Short convolution and SiLU on q, k, v; delta rule with a decay per channel; sigmoid-gated RMSNorm; projection.

    log decay = -exp(A_log) softplus(f_b(f_a x) + dt_bias) per channel, beta = sigmoid(b x) per head,
    output gate = sigmoid(g_b(g_a x)). Without a gate rank (Ling-3.0) f and g are one projection each. With a lower
    bound (its "safe gate"): log decay = decay_lower_bound sigmoid(exp(A_log) (f x + dt_bias)).

    Ablations: no convolution (conv_len 0; SiLU stays, as in the report's table 1), another output gate or none, a decay
    for each head or none, beta = 2 sigmoid(b x).
    """

    operators = ("kda", "short_conv")
    optional = ("conv_weight", "A_log", "dt_bias")
    conv_weight: nn.Parameter | None
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    norm: RMSNorm
    output_gate: Activation
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
        output_gate: Activation = "sigmoid",
        decay: Literal["channel", "head", "none"] = "channel",
        negative_eigenvalues: bool = False,
        state_dtype: StateDtype = "float32",
    ):
        """The fields of `models.config.KDAConfig`."""
        table = parameters(
            hidden_dim,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            conv_len=conv_len,
            gate_rank=gate_rank,
            output_gate=output_gate,
            decay=decay,
        )
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_heads, self.key_dim, self.value_dim, self.gate_rank = num_heads, key_dim, value_dim, gate_rank
        self.decay_lower_bound = decay_lower_bound
        self.state_dtype: StateDtype = state_dtype
        self.output_gate, self.decay, self.negative_eigenvalues = output_gate, decay, negative_eigenvalues
        self.operators = operators("kda", conv_len)
        self.channels = num_heads * (2 * key_dim + value_dim)

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return delta_cache_spec(tensors, self.conv_weight)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, g_TW = self._operands(x_TD, batch, cache)
        o_THV = recur(kda, *operands, batch=batch, cache=cache, scale=1.0, state_dtype=self.state_dtype)
        return self.out_projection(self.norm.gated(o_THV, g_TW, activation=self.output_gate, dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, g_TW = self._operands(x_TD, batch, None)
        state_NHKV = remembered(kda, *operands, batch=batch, scale=1.0, state_dtype=self.state_dtype)
        *_, log_decay_THK, beta_TH = operands
        return Inside(log_decay_THK, beta_TH, activated_gate(g_TW, self.output_gate), state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None):
        """(q, k, v, log decay, beta) of the rule, and the gate before its non-linearity."""
        heads, has_decay = self.num_heads, self.decay != "none"
        mixed = self.in_projection.fused(x_TD)
        qkv_TC, *rest, b_TH = mixed.split([self.channels, *self.in_projection.out_dims[3:]], dim=-1)
        f, g = rest[0] if has_decay else None, None if self.output_gate == "none" else rest[-1]
        if self.gate_rank is not None:
            f = self.decay_projection(f)[0] if self.decay == "channel" else f
            g = None if g is None else self.gate_projection(g)[0]
        q_THK, k_THK, v_THV = convolved_heads(
            qkv_TC,
            self.conv_weight,
            batch=batch,
            cache=cache,
            key_heads=heads,
            key_dim=self.key_dim,
            value_heads=heads,
        )
        log_decay_THK, beta_TH = self._decays(f, b_TH, k_THK)
        return (q_THK, k_THK, v_THV, log_decay_THK, beta_TH), g

    def _decays(self, f: torch.Tensor | None, b_TH: torch.Tensor, k_THK: torch.Tensor):
        """Log decays, shaped as k, and betas, from what the projections left."""
        if f is None:
            return no_decay(k_THK), betas(b_TH, negative_eigenvalues=self.negative_eigenvalues)
        log_decay, beta_TH = decays_and_betas(f, b_TH, self.A_log, self.dt_bias, lower_bound=self.decay_lower_bound)
        beta_TH = doubled(beta_TH) if self.negative_eigenvalues else beta_TH
        is_per_head = self.decay == "head"
        return per_channel(log_decay, self.key_dim) if is_per_head else log_decay.view(k_THK.shape), beta_TH
