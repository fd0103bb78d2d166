"""Gated linear attention (GLA) as a mixer (arXiv 2312.06635, section 4.4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from hyla.layers.carry import Carry, recur
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, TensorSpec
from hyla.layers.tables.gla import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.mixers import in_floats
from hyla.ops.exact.primitives import wide
from hyla.ops.gla import cache_tensors, gla


class GLA(Layer):
    """o(silu(gate x) * norm(gla(q x, k x, v x, log decay))), with a decay per key channel.

    log decay = logsigmoid(f_b(f_a x) + decay_bias) / decay_divisor: the divisor keeps decays near one at the start. The
    norm is an RMSNorm of each head. From the projections to the gate everything is fp32.
    """

    operators = ("gla",)
    decay_bias: nn.Parameter
    norm: RMSNorm
    in_projection: Projection
    decay_projection: Projection
    out_projection: Projection

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        gate_rank: int,
        decay_divisor: float,
        norm_eps: float,
    ):
        table = parameters(hidden_dim, num_heads=num_heads, key_dim=key_dim, value_dim=value_dim, gate_rank=gate_rank)
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.gate_rank, self.decay_divisor = gate_rank, decay_divisor

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return CacheSpec(slot_tensors=tuple(TensorSpec(*tensor) for tensor in tensors))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, gate = self._operands(x_TD)
        o_THV = recur(gla, *operands, batch=batch, cache=cache, scale=self.key_dim**-0.5)
        return self.out_projection(self.norm.gated(o_THV, gate, activation="silu", dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, gate = self._operands(x_TD)
        state_NHKV = gla(*operands, batch=batch, scale=self.key_dim**-0.5, return_state=True)[1]
        return Inside(log_decay=operands[-1], gate=primitives.silu(wide(gate)), state_NHKV=state_NHKV)

    def _operands(self, x_TD: torch.Tensor):
        """(q, k, v, log decay) of the recurrence, and the gate before its SiLU."""
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        mixed = self.in_projection.fused(x_TD)
        qkv, gate, f = mixed.split([2 * keys + values, values, self.gate_rank], dim=-1)
        raw_THK = self._by_head(wide(self.decay_projection(f.contiguous())[0]) + self.decay_bias)
        # log sigmoid(x) = -softplus(-x)
        log_decay_THK = -primitives.softplus(-raw_THK) / self.decay_divisor
        q, k, v = in_floats(qkv).split([keys, keys, values], dim=-1)
        q_THK, k_THK, v_THV = (x.unflatten(-1, (self.num_heads, -1)) for x in (q, k, v))
        return (q_THK, k_THK, v_THV, log_decay_THK), gate

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[T, H W] -> [T, H, W]."""
        return x.unflatten(-1, (self.num_heads, -1)).contiguous()
