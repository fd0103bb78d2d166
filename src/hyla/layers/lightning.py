"""Lightning attention as a mixer: constant decay per head, gated RMSNorm (MiniMax-Text-01; Ring-linear, Ling 2.5)."""

from __future__ import annotations

from functools import partial

import torch

from hyla.layers.carry import Carry, recur, remembered
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.narrow_states import StateDtype
from hyla.layers.norms import GroupRMSNorm, RMSNorm, activated_gate
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, TensorSpec
from hyla.layers.rope import rotary_table
from hyla.layers.rope_scaling import Scaling
from hyla.layers.tables.lightning import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact.mixers import Activation, in_floats
from hyla.ops.lightning import cache_tensors, lightning
from hyla.ops.rotary import norm_and_rotate


class Lightning(Layer):
    """o(sigmoid(gate x) * norm(lightning(q x, k x, v x))), S <- exp(-s_h) S + k v^T.

    MiniMax: SiLU on q, k and v, no scale. Bailing: RMSNorm on each q and k head, partial RoPE, scale head_dim^-0.5.
    From the projections to the gate everything is fp32. Ablations: another output gate, or none. Source: arXiv
    2501.08313, section 2.2; arXiv 2510.19338, section 2.
    """

    operators = ("lightning",)
    optional = ("q_norm", "k_norm")
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
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
        slopes: tuple[float, ...],
        has_silu: bool,
        qk_norm_eps: float | None,
        rotary_dim: int,
        rope_theta: float,
        rope_interleaved: bool,
        rope_scaling: Scaling | None = None,
        scale: float,
        norm_groups: int,
        norm_eps: float,
        output_gate: Activation = "sigmoid",
        state_dtype: StateDtype = "float32",
    ):
        """qk_norm_eps: None for no QK-norm; rotary_dim: rotated channels of a head, 0 for no position code."""
        has_qk_norm = qk_norm_eps is not None
        has = {"has_qk_norm": has_qk_norm, "has_gate": output_gate != "none"}
        table = parameters(hidden_dim, num_heads=num_heads, head_dim=head_dim, **has)
        norms = {"norm": partial(GroupRMSNorm, num_groups=norm_groups, eps=norm_eps)}
        if qk_norm_eps is not None:
            norms |= dict.fromkeys(("q_norm", "k_norm"), partial(RMSNorm, eps=qk_norm_eps))
        super().__init__(table, norms)
        self.num_heads, self.head_dim = num_heads, head_dim
        self.state_dtype: StateDtype = state_dtype
        self.output_gate = output_gate
        self.slopes, self.has_silu, self.scale = slopes, has_silu, scale
        self.rotary = rotary_table(rotary_dim, rope_theta, rope_scaling) if rotary_dim else None
        self.rope_interleaved = rope_interleaved
        self.has_final_form = has_qk_norm or rotary_dim > 0
        """Whether queries and keys are normed or rotated."""

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.head_dim, value_dim=self.head_dim)
        return CacheSpec(slot_tensors=tuple(TensorSpec(*tensor) for tensor in tensors))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        operands, gate = self._operands(x_TD, batch)
        options = {"scale": self.scale, "state_dtype": self.state_dtype}
        o_THV = recur(lightning, *operands, self.slopes, batch=batch, cache=cache, **options)
        o_TC = self.norm.gated_groups(o_THV.flatten(1), gate, activation=self.output_gate, dtype=x_TD.dtype)
        return self.out_projection(o_TC)[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        operands, gate = self._operands(x_TD, batch)
        options = {"scale": self.scale, "state_dtype": self.state_dtype}
        state_NHKV = remembered(lightning, *operands, self.slopes, batch=batch, **options)
        log_decay_1H = -state_NHKV.new_tensor([self.slopes])
        gate = activated_gate(gate, self.output_gate)
        return Inside(log_decay=log_decay_1H, gate=gate, state_NHKV=state_NHKV)

    def _operands(self, x_TD: torch.Tensor, batch: Batch):
        """(q, k, v) of the recurrence, and the gate before its non-linearity; None without one."""
        mixed = self.in_projection.fused(x_TD)
        width = self.num_heads * self.head_dim
        qk, v, *gate = mixed.split([2 * width, *self.in_projection.out_dims[2:]], dim=-1)
        activation = "silu" if self.has_silu else "none"
        v_THV = self._by_head(in_floats(v, activation))
        if self.has_silu or not self.has_final_form:
            qk = in_floats(qk, activation)
        q_THK, k_THK = (self._by_head(x) for x in qk.chunk(2, dim=-1))
        if self.has_final_form:
            q_THK, k_THK = self._normed_and_rotated(q_THK, k_THK, batch)
        return (q_THK, k_THK, v_THV), gate[0] if gate else None

    def _by_head(self, x_TC: torch.Tensor) -> torch.Tensor:
        return x_TC.unflatten(-1, (self.num_heads, self.head_dim))

    def _normed_and_rotated(self, q_THK, k_THK, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.float64 if q_THK.dtype == torch.float64 else torch.float32
        cos_sin = None if self.rotary is None else self.rotary(batch, dtype)
        norms = ((None, None) if norm is None else (norm.weight, norm.eps) for norm in (self.q_norm, self.k_norm))
        q_THK, k_THK = (
            norm_and_rotate(x_THK, weight, cos_sin, eps=eps, interleaved=self.rope_interleaved)
            for x_THK, (weight, eps) in zip((q_THK, k_THK), norms)
        )
        return q_THK, k_THK
