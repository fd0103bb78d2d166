"""Gated linear attention (GLA) as a mixer (arXiv 2312.06635, section 4.4)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import nn

from hyla.layers.carry import Carry, recur, remembered
from hyla.layers.delta import no_decay
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.narrow_states import StateDtype
from hyla.layers.norms import RMSNorm, activated_gate
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, TensorSpec
from hyla.layers.tables.gla import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.gates import per_channel
from hyla.ops.exact.mixers import Activation, in_floats
from hyla.ops.exact.primitives import wide
from hyla.ops.gla import cache_tensors, gla


class GLA(Layer):
    """o(silu(gate x) * norm(gla(q x, k x, v x, log decay))), with a decay per key channel.

    log decay = logsigmoid(f_b(f_a x) + decay_bias) / decay_divisor: the divisor keeps decays near one at the start. The
    norm is an RMSNorm of each head. From the projections to the gate everything is fp32. Ablations: another output gate
    or none; one decay for each head (log decay = logsigmoid(f x + decay_bias) / decay_divisor) or none.
    """

    operators = ("gla",)
    optional = ("decay_bias",)
    decay_bias: nn.Parameter
    norm: RMSNorm
    output_gate: Activation
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
        output_gate: Activation = "silu",
        decay: Literal["channel", "head", "none"] = "channel",
        state_dtype: StateDtype = "float32",
    ):
        """The fields of `models.config.GLAConfig`."""
        sizes = {"num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim, "gate_rank": gate_rank}
        table = parameters(hidden_dim, **sizes, output_gate=output_gate, decay=decay)
        super().__init__(table, norms={"norm": partial(RMSNorm, eps=norm_eps)})
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.state_dtype: StateDtype = state_dtype
        self.output_gate, self.decay, self.decay_divisor = output_gate, decay, decay_divisor

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return CacheSpec(slot_tensors=tuple(TensorSpec(*tensor) for tensor in tensors))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, gate = self._operands(x_TD)
        options = {"scale": self.key_dim**-0.5, "state_dtype": self.state_dtype}
        o_THV = recur(gla, *operands, batch=batch, cache=cache, **options)
        return self.out_projection(self.norm.gated(o_THV, gate, activation=self.output_gate, dtype=x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, gate = self._operands(x_TD)
        options = {"scale": self.key_dim**-0.5, "state_dtype": self.state_dtype}
        state_NHKV = remembered(gla, *operands, batch=batch, **options)
        gate = activated_gate(gate, self.output_gate)
        return Inside(log_decay=operands[-1], gate=gate, state_NHKV=state_NHKV)

    def _operands(self, x_TD: torch.Tensor):
        """(q, k, v, log decay) of the recurrence, and the gate before its non-linearity."""
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        mixed = self.in_projection.fused(x_TD)
        qkv, *rest = mixed.split([2 * keys + values, *self.in_projection.out_dims[3:]], dim=-1)
        q, k, v = in_floats(qkv).split([keys, keys, values], dim=-1)
        q_THK, k_THK, v_THV = (x.unflatten(-1, (self.num_heads, -1)) for x in (q, k, v))
        log_decay_THK = no_decay(k_THK) if self.decay == "none" else self._log_decay(rest[-1])
        return (q_THK, k_THK, v_THV, log_decay_THK), None if self.output_gate == "none" else rest[0]

    def _log_decay(self, f: torch.Tensor) -> torch.Tensor:
        """[T, H, K]: log sigmoid(x) = -softplus(-x), over the divisor."""
        if self.decay == "head":
            raw_TH = wide(f) + self.decay_bias
            return per_channel(-primitives.softplus(-raw_TH) / self.decay_divisor, self.key_dim)
        raw_THK = self._by_head(wide(self.decay_projection(f.contiguous())[0]) + self.decay_bias)
        return -primitives.softplus(-raw_THK) / self.decay_divisor

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[T, H W] -> [T, H, W]."""
        return x.unflatten(-1, (self.num_heads, -1)).contiguous()
