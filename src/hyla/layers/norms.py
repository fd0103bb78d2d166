"""Norms as modules."""

from __future__ import annotations

import torch
from torch import nn

from hyla.ops import primitives


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension; fp32 inside, the input's dtype outside."""

    def __init__(self, dim: int, *, eps: float, zero_centered: bool = False):
        super().__init__()
        self.eps, self.zero_centered = eps, zero_centered
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return primitives.rms_norm(x, self.weight, eps=self.eps, zero_centered=self.zero_centered)
