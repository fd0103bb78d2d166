"""Norms as modules."""

from __future__ import annotations

import torch
from torch import nn

from hyla.ops.exact import primitives
from hyla.ops.exact.gates import gated_norm
from hyla.ops.exact.mixers import Activation, constant_row, gated_group_norm, in_floats


def activated_gate(raw: torch.Tensor | None, activation: Activation) -> torch.Tensor | None:
    """An output gate after its non-linearity, in fp32, for statistics; None where there is none."""
    return None if raw is None else in_floats(raw, activation)


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension; fp32 inside, the input's dtype outside."""

    def __init__(self, dim: int, *, eps: float, zero_centered: bool = False):
        super().__init__()
        self.eps, self.zero_centered = eps, zero_centered
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return primitives.rms_norm(x, self.weight, eps=self.eps, zero_centered=self.zero_centered)

    def gated(
        self, x_THV: torch.Tensor, gate_TW: torch.Tensor | None, *, activation, dtype: torch.dtype
    ) -> torch.Tensor:
        """The norm of each head times its activated gate, rounded once: [T, H V] in dtype. No gate: the norm alone."""
        if gate_TW is None:
            return primitives.scaled(self(x_THV).flatten(1), 1.0, dtype)
        options = {"eps": self.eps, "zero_centered": self.zero_centered, "activation": activation, "dtype": dtype}
        return gated_norm(x_THV, self.weight, gate_TW, **options)


class GroupRMSNorm(RMSNorm):
    """RMSNorm of each of `num_groups` equal parts of the last dimension, one weight per channel; fp32 out."""

    def __init__(self, dim: int, *, num_groups: int, eps: float):
        super().__init__(dim, eps=eps)
        self.num_groups = num_groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [T, W]."""
        groups_TGW = primitives.wide(x).unflatten(-1, (self.num_groups, -1))
        return primitives.rms_norm(groups_TGW, None, eps=self.eps).flatten(-2) * primitives.wide(self.weight)

    def gated_groups(
        self,
        x_TC: torch.Tensor,
        gate_TC: torch.Tensor | None,
        *,
        activation: Activation,
        is_gate_first: bool = False,
        skip: tuple[torch.Tensor, torch.Tensor] | None = None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """The norm under an activated gate, after it or before, rounded once to dtype; see `gated_group_norm`. No gate:
        the norm alone, by the same code under a gate of ones."""
        if gate_TC is None:
            gate_TC, activation = constant_row(1.0, x_TC).expand(x_TC.shape), "none"
        options = {"activation": activation, "is_gate_first": is_gate_first, "skip": skip, "dtype": dtype}
        return gated_group_norm(x_TC, gate_TC, self.weight, groups=self.num_groups, eps=self.eps, **options)


class LayerNorm(nn.Module):
    """LayerNorm with weight and bias over the last dimension of an fp32 or float64 tensor (arXiv 1607.06450)."""

    def __init__(self, dim: int, *, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centered = x - primitives.sum_last(x) / x.shape[-1]
        variance = primitives.sum_last(centered * centered) / x.shape[-1]
        return centered / (variance + self.eps).sqrt() * self.weight.to(x.dtype) + self.bias.to(x.dtype)
